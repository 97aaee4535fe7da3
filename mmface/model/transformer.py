"""The MMFace-DiT transformer, assembled (§4; Krishnamurthy & Rattani, CVPR 2026, arXiv 2603.29029, section 3).

Shapes: B batch, C latent channels, H W latent size, p patch side, N = (H/p)·(W/p) image tokens, L text tokens, D text
width, hid hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mmface.errors import InputError, RecipeError
from mmface.model.block import DualStreamBlock, FinalLayer, SingleStreamBlock
from mmface.model.embedders import PatchEmbed, PooledTextEmbedder, TimestepEmbedder, unpatchify
from mmface.model.rope import Rotations, TextRope, build_rotations


class MMFaceDiT(ModelMixin, ConfigMixin, CacheMixin):  # type: ignore[misc]  # diffusers' bases differ in a type
    """Predicts noise or velocity of noisy latents, conditioned on a mask or sketch and a text.

    The state dict has the keys of the released checkpoints. ``c_embedder.null_feature_pooled`` and the last block's
    text query, text output and text MLP do not affect the result; they are frozen (``requires_grad=False``).

    Args:
        in_channels: noisy and condition channels together; the output has half of them.
        patch_size: p.
        hidden_size, depth, num_heads, mlp_ratio: size of the transformer.
        text_embed_dim: D of the text encoder.
        num_modalities: rows of the modality embedding (0 mask, 1 sketch).
        text_rope: ``"sequential"`` (paper) or ``"zero"`` (released weights).
        modality_embedder: ablation; if false, the model does not know whether the drawing is a mask or a sketch.
        dual_stream: ablation; if false, image and text tokens share all weights.
        rope: ablation; if false, attention has no positions.

    Raises:
        RecipeError: the head width is not divisible by 4, or ``in_channels`` is odd.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("DualStreamBlock", "SingleStreamBlock")  # type: ignore[assignment]
    _repeated_blocks = ("DualStreamBlock", "SingleStreamBlock")  # type: ignore[assignment]
    _skip_layerwise_casting_patterns = ("embedder", "final_layer")  # type: ignore[assignment]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 32,
        patch_size: int = 2,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        text_embed_dim: int = 1024,
        num_modalities: int = 2,
        text_rope: TextRope = "sequential",
        modality_embedder: bool = True,
        dual_stream: bool = True,
        rope: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if hidden_size % (4 * num_heads):
            raise RecipeError(f"{hidden_size} is not a multiple of 4 x num_heads ({num_heads})", field="hidden_size")
        if in_channels % 2:
            raise RecipeError(f"{in_channels} is odd; it counts noisy and condition channels", field="in_channels")
        self.gradient_checkpointing = False
        self.patch_size = patch_size
        self.head_dim = hidden_size // num_heads
        self.text_rope: TextRope | None = text_rope if rope else None

        self.x_embedder = PatchEmbed(in_channels, patch_size, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.c_embedder = PooledTextEmbedder(text_embed_dim, hidden_size)
        self.clip_seq_proj = nn.Linear(text_embed_dim, hidden_size)
        self.modality_embedder = nn.Embedding(num_modalities, hidden_size) if modality_embedder else None
        self.blocks = nn.ModuleList(
            DualStreamBlock(hidden_size, num_heads, mlp_ratio, last=i == depth - 1)
            if dual_stream
            else SingleStreamBlock(hidden_size, num_heads, mlp_ratio)
            for i in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels // 2)
        self.initialize_weights()

    def __getattr__(self, name: str) -> Any:
        # The config's switch `modality_embedder` has the module's name; diffusers would return the switch.
        modules = self.__dict__.get("_modules", {})
        return modules[name] if name in modules else super().__getattr__(name)

    def initialize_weights(self) -> None:
        """Initialises linears by Xavier, embedders by N(0, 0.02), adaLN and the final linear to 0: the output is 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        patch_weight = self.x_embedder.proj.weight
        nn.init.xavier_uniform_(patch_weight.view(len(patch_weight), -1))
        for name in ("t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight", "c_embedder.proj.weight"):
            nn.init.normal_(self.get_parameter(name), std=0.02)
        if self.modality_embedder is not None:
            nn.init.normal_(self.modality_embedder.weight, std=0.02)
        for adaptive in (*self.blocks, self.final_layer):
            nn.init.zeros_(adaptive.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        modality: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """One evaluation of the network.

        Args:
            hidden_states: [B, 2C, H, W] noisy latents, then condition latents.
            timestep: [B] network time, 0 … 999 (the objective scales it).
            encoder_hidden_states: [B, L, D] text tokens.
            pooled_projections: [B, D] pooled text.
            modality: [B] int64.
            encoder_attention_mask: [B, L] bool, false for text tokens that are not attended to.
            return_dict: return the output object of diffusers instead of a tuple.

        Returns:
            [B, C, H, W], in the dtype of ``hidden_states``.

        Raises:
            InputError: H or W is not divisible by the patch size.
        """
        height, width = self._patch_grid(hidden_states)
        image = self.x_embedder(hidden_states)  #             [B, N, hid]
        text = self.clip_seq_proj(encoder_hidden_states)  #   [B, L, hid]
        vector = self._condition_vector(timestep, pooled_projections, modality, hidden_states.dtype)  # [B, hid]
        rotations = self._rotations(height, width, text.shape[1], image.device)
        mask = _mask_keys(encoder_attention_mask, image.shape[1])  #  [B, 1, 1, N + L]

        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                image, text = self._gradient_checkpointing_func(  # type: ignore[misc]  # set when enabled
                    block, image, text, vector, rotations, mask
                )
            else:
                image, text = block(image, text, vector, rotations, mask)

        patches = self.final_layer(image, vector)  #          [B, N, p·p·C]
        sample = unpatchify(patches, height, width, self.patch_size)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def enable_cache(self, config: Any) -> None:
        """Enables one of the caches of diffusers, after registering the blocks with them."""
        for block in (DualStreamBlock, SingleStreamBlock):
            TransformerBlockRegistry.register(block, TransformerBlockMetadata(0, 1))
        super().enable_cache(config)

    def _patch_grid(self, latents: Tensor) -> tuple[int, int]:
        patch = self.patch_size
        height, width = latents.shape[-2:]
        if height % patch or width % patch:
            message = f"latents of {height}x{width} cannot be divided into patches of {patch}x{patch}"
            raise InputError(message, field="size")
        return height // patch, width // patch

    def _condition_vector(self, timestep: Tensor, pooled: Tensor, modality: Tensor, dtype: torch.dtype) -> Tensor:
        vector: Tensor = self.c_embedder(pooled) + self.t_embedder(timestep, dtype)
        if self.modality_embedder is not None:
            vector = vector + self.modality_embedder(modality)
        return vector

    def _rotations(self, height: int, width: int, text_length: int, device: torch.device) -> Rotations:
        if self.text_rope is None:
            return Rotations(None, None)
        return build_rotations(height, width, text_length, self.head_dim, self.text_rope, device)


def _mask_keys(text: Tensor | None, num_image: int) -> Tensor | None:
    """The mask of keys: [B, L] → [B, 1, 1, N + L]; image tokens are always attended to."""
    return None if text is None else F.pad(text, (num_image, 0), value=True)[:, None, None]
