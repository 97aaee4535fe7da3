"""Recipe sections about frozen networks: which ones are used, and how the captioner is asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmface.config.prompts import PROMPTS
from mmface.config.section import PositiveInt, Section


class Components(Section):
    """Section ``components``: the frozen networks by name (§7)."""

    vae: str = Field(
        default="zoo:vae",
        description="Encodes pictures to latents and decodes them: an AutoencoderKL, AutoencoderDC or "
        "AutoencoderTiny. Its channels set the input channels of the transformer (paper: FLUX, 16 channels, §4).",
    )
    text_encoder: str = Field(
        default="zoo:clip",
        description="Encodes prompts: a CLIPTextModel with its tokenizer, in one folder or in a whole diffusers "
        "pipeline. Its width sets the text width of the transformer (paper: SD 2.1, width 1024, 77 tokens, §4).",
    )
    clip: str = Field(
        default="zoo:clip",
        description="Measures pictures in evaluation (CLIP score, CLIP distance, Fréchet distance): a CLIPModel. "
        "Distances measured with different weights are never compared.",
    )
    parser: str = Field(
        default="zoo:parser",
        description="Makes masks from photographs, for training and for measuring painted pictures: a "
        "SegformerForSemanticSegmentation with the 19 CelebAMask-HQ labels.",
    )
    sketcher: str = Field(
        default="zoo:sketch",
        description="Makes sketches from photographs: a U²-Net folder, or one `.safetensors` file with the weights of "
        "a public U²-Net checkpoint.",
    )
    captioner: str = Field(
        default="facts",
        description="Makes captions for photographs without supplied ones. `facts`: from measured facts such as hair "
        "colour and glasses, without a model; otherwise an InternVLForConditionalGeneration (paper §3.1).",
    )
    rewriter: str | None = Field(
        default=None,
        description="Rewrites the captions of a photograph so that they agree: a Qwen3ForCausalLM (paper §3.1); null: "
        "no rewriting. Needs a model as `captioner`.",
    )

    @model_validator(mode="after")
    def _rewriter_needs_a_captioner(self) -> Components:
        if self.rewriter is not None and self.captioner == "facts":
            raise ValueError("rewriter needs the captions of a model: set captioner to a model, or leave rewriter out")
        return self


class Preferred(Section):
    """Section ``preferred``: public networks that replace zoo networks of ``components`` where the hub is reached."""

    vae: str | None = Field(default=None, description="Instead of `components.vae`.")
    text_encoder: str | None = Field(default=None, description="Instead of `components.text_encoder`.")
    clip: str | None = Field(default=None, description="Instead of `components.clip`.")
    parser: str | None = Field(default=None, description="Instead of `components.parser`.")
    sketcher: str | None = Field(default=None, description="Instead of `components.sketcher`.")


class Captioning(Section):
    """Section ``captioning``: what captions say; questions to a captioning model and rules (paper §3.1)."""

    facts: Literal["basic", "all"] = Field(
        default="basic",
        description="What the captioner `facts` measures: `basic`: hair, accessories and whether the mouth is open; "
        "`all`: also skin, eyes, lips, brows, beard, expression, pose, gaze, light, and the colours of background and "
        "clothes, each only where the pixels show it clearly.",
    )
    prompts: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)] = Field(
        default=PROMPTS,
        description="Questions to the captioner, one for each caption, in order; at least `data.captions_per_image` "
        "of them. The defaults stand in `mmface/config/prompts.py`.",
    )
    max_new_tokens: PositiveInt = Field(
        default=128,
        description="Longest answer, in tokens of the captioner; an answer that is cut off loses its last word. The "
        "rewriter may use this many tokens for each caption.",
    )
    min_words: PositiveInt = Field(default=4, description="Fewest words of a caption; shorter answers are rejected.")
    retries: Annotated[int, Field(ge=0, le=5)] = Field(
        default=2,
        description="How often a rejected answer is requested again. A photograph that still lacks captions is "
        "quarantined with the reasons.",
    )
    batch_size: PositiveInt = Field(
        default=8,
        description="Questions that a worker asks the captioner at the same time; larger needs more memory. It does "
        "not make a new dataset.",
    )
    engine: Literal["transformers", "vllm"] = Field(
        default="transformers",
        description="What runs the captioner: `transformers` in the workers, or `vllm` engines, which need a GPU each "
        "and `pip install 'ray[llm]'`.",
    )
