"""The pipeline that generates images from a prompt and a drawing; evaluation and serving both use it (§2).

Shapes: n images, C latent channels, H W image size in pixels, h w latent size.
"""

# No `from __future__ import annotations`: diffusers compares the components' types with the annotations.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mmface.config import Precision, TextPadding
from mmface.config.guidance import Guidance
from mmface.errors import InputError, RecipeError
from mmface.imaging.pixels import to_pil
from mmface.model import MODALITIES, Conditioning, MMFaceDiT
from mmface.networks.precision import computes_in_bf16
from mmface.networks.text_encoder import EncodedText, encode_text, misfit
from mmface.networks.vae import decode, encode_moments, latent_channels, normalise, spatial_factor
from mmface.sampling import OnStep, SamplerName, make_scheduler, objective_of, sample
from mmface.sampling.request import Drawing, Request, make_request


@dataclass
class MMFacePipelineOutput(BaseOutput):
    """Generated images, each with the seed that reproduces it.

    Attributes:
        images: n PIL images, [n, 3, H, W] in [-1, 1] (``"pt"``), or normalised latents [n, C, h, w] (``"latent"``).
        seeds: n integers.
    """

    images: list[Image.Image] | Tensor
    seeds: list[int]


class MMFacePipeline(DiffusionPipeline):
    """A trained model with its components, in the folder format of diffusers (§8).

    The scheduler also tells what the transformer predicts (flow velocity or noise): change it only with
    :meth:`set_sampler`.

    Args:
        transformer: the trained network.
        vae: any of the three autoencoder classes.
        text_encoder, tokenizer: CLIP.
        scheduler: from :func:`mmface.sampling.make_scheduler`.
        sample_size: default height and width in pixels.
        mask_resize: how masks were resized in training; ``"lanczos"`` for the released models (§6).
        text_padding: how prompts were encoded in training (:mod:`mmface.networks.text_encoder`); ``"exact"`` for the
            released models.
        precision: dtype of the transformer's matrix products; see :mod:`mmface.networks.precision`.

    Raises:
        RecipeError: the components do not match each other.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"  # type: ignore[assignment]

    transformer: MMFaceDiT
    vae: AutoencoderKL | AutoencoderDC | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: SchedulerMixin

    def __init__(
        self,
        transformer: MMFaceDiT,
        vae: AutoencoderKL | AutoencoderDC | AutoencoderTiny,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: SchedulerMixin,
        sample_size: int = 256,
        mask_resize: str = "nearest",
        text_padding: TextPadding = "exact",
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        channels, in_channels = latent_channels(vae), transformer.config["in_channels"]
        if in_channels != 2 * channels:
            message = f"the transformer has {in_channels} input channels; it needs {2 * channels}, twice the VAE's"
            raise RecipeError(message, field="components.vae")
        width, text_width = text_encoder.config.hidden_size, transformer.config["text_embed_dim"]
        if width != text_width:
            message = f"the transformer takes text of width {text_width}, the text encoder gives {width}"
            raise RecipeError(message, field="components.text_encoder")
        if reason := misfit(tokenizer, text_encoder.config):
            raise RecipeError(f"{reason}; give the encoder's own tokenizer", field="components.text_encoder")
        self.register_modules(  # type: ignore[no-untyped-call]
            transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.register_to_config(  # type: ignore[no-untyped-call]
            sample_size=sample_size, mask_resize=mask_resize, text_padding=text_padding, precision=precision
        )

    @property
    def size_multiple(self) -> int:
        """Image heights and widths must be divisible by this."""
        return spatial_factor(self.vae) * self.transformer.patch_size

    @property
    def bf16(self) -> bool:
        """Whether the transformer multiplies matrices in bfloat16 on its present device."""
        return computes_in_bf16(self.config["precision"], self._execution_device)

    def set_sampler(self, sampler: SamplerName) -> None:
        """Replaces the scheduler by that of another sampler for the same objective.

        Raises:
            RecipeError: unknown sampler.
        """
        self.scheduler = make_scheduler(objective_of(self.scheduler), sampler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        condition: Drawing,
        modality: str | Sequence[str] = "mask",
        *,
        negative_prompt: str | Sequence[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        drawing_guidance_scale: float = 1.0,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        seeds: int | Sequence[int] | None = None,
        output_type: Literal["pil", "pt", "latent"] = "pil",
        on_step: OnStep | None = None,
        return_dict: bool = True,
    ) -> MMFacePipelineOutput | tuple[list[Image.Image] | Tensor, list[int]]:
        """Generates n images; n is the length of the arguments that are lists, and single values apply to all images.

        Args:
            prompt: description of the face.
            condition: the drawing: a mask (palette, grey index or RGB palette colours) or a sketch, cropped to the
                aspect ratio and resized; or a tensor [n, 3, height, width] in [-1, 1], used unchanged; ``None``
                generates without a drawing.
            modality: ``"mask"`` or ``"sketch"``.
            negative_prompt: text that guidance steers away from.
            height, width: in pixels, multiples of :attr:`size_multiple`; by default those of a tensor ``condition``,
                else ``sample_size``.
            num_inference_steps: 1 … 1000.
            guidance_scale: of the prompt; 1 means no guidance, which takes half the time.
            drawing_guidance_scale: of the drawing; other values than 1 cost another evaluation in each guided step.
            guidance_start, guidance_end: the guided part of the steps, as shares of their number.
            seeds: one per image; a single number s means s, s + 1, …; ``None`` draws random seeds. Image i depends
                only on seed i, not on the rest of the batch.
            output_type: ``"pil"``, ``"pt"`` or ``"latent"``.
            on_step: called with (i, n, latents) after each network evaluation; may raise an exception to cancel.
            return_dict: return an :class:`MMFacePipelineOutput` instead of ``(images, seeds)``.

        Raises:
            InputError: an argument is wrong; names the field.
        """
        if output_type not in ("pil", "pt", "latent"):
            raise InputError(f"must be pil, pt or latent, got {output_type!r}", field="output_type")
        default = condition.shape[-2:] if isinstance(condition, Tensor) else [self.config["sample_size"]] * 2
        request = make_request(
            prompt=prompt,
            negative_prompt=negative_prompt,
            condition=condition,
            modality=modality,
            seeds=seeds,
            height=default[0] if height is None else height,
            width=default[1] if width is None else width,
            num_inference_steps=num_inference_steps,
            guidance=Guidance(guidance_scale, drawing_guidance_scale, guidance_start, guidance_end),
            multiple=self.size_multiple,
        )
        images = self._finish(self._sample(request, on_step), output_type)
        self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]
        return MMFacePipelineOutput(images, request.seeds) if return_dict else (images, request.seeds)

    def _sample(self, request: Request, on_step: OnStep | None) -> Tensor:
        """The normalised latents [n, C, h, w] of the request's images."""
        conditioning = self._conditioning(request)
        return sample(
            self.transformer,
            self.scheduler,
            self.noise(request.seeds, request.height, request.width),
            conditioning,
            None if request.guidance.guidance_scale == 1 else self._negative(request, conditioning),
            num_inference_steps=request.num_inference_steps,
            guidance=request.guidance,
            bf16=self.bf16,
            on_step=on_step,
        )

    def _finish(self, latents: Tensor, output_type: str) -> list[Image.Image] | Tensor:
        if output_type == "latent":
            return latents
        pixels = decode(self.vae, latents)
        return to_pil(pixels) if output_type == "pil" else pixels

    def encode_prompts(self, prompts: list[str]) -> EncodedText:
        """Encodes prompts for the transformer, one row per prompt."""
        return encode_text(self.tokenizer, self.text_encoder, prompts, self.config["text_padding"])

    def encode_drawings(self, pixels: Tensor) -> Tensor:
        """Drawings [n, 3, H, W] in [-1, 1] → normalised latents [n, C, h, w]."""
        return normalise(self.vae, encode_moments(self.vae, pixels)[0])

    def noise(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Noise [n, C, h, w] from one CPU generator per image, so that it depends on neither batch nor device."""
        shape = self._latent_shape(height, width)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(self._execution_device)

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = spatial_factor(self.vae)
        return latent_channels(self.vae), height // factor, width // factor

    def _conditioning(self, request: Request) -> Conditioning:
        count = len(request.seeds)
        pixels = request.pixels(self.config["mask_resize"])
        if pixels is None:
            condition = torch.zeros(self._latent_shape(request.height, request.width)).expand(count, -1, -1, -1)
        else:
            condition = _spread(self.encode_drawings(pixels), count)
        text = self._spread_text(request.prompts, count)
        modality = torch.tensor([MODALITIES.index(name) for name in request.modalities])
        conditioning = Conditioning(condition, text.sequence, text.pooled, modality, text.mask)
        return conditioning.to(self._execution_device, self.transformer.dtype)

    def _negative(self, request: Request, conditioning: Conditioning) -> Conditioning:
        negative = conditioning.with_text(*self._spread_text(request.negative_prompts, len(request.seeds)))
        return negative.to(self._execution_device, self.transformer.dtype)

    def _spread_text(self, prompts: list[str], count: int) -> EncodedText:
        sequence, pooled, mask = self.encode_prompts(prompts)
        return EncodedText(
            _spread(sequence, count), _spread(pooled, count), None if mask is None else _spread(mask, count)
        )


def _spread(tensor: Tensor, count: int) -> Tensor:
    """Repeats a single entry: [1 or n, …] → [n, …]."""
    return tensor.expand(count, *tensor.shape[1:])
