"""The conditions of a batch of images, and the function that passes them to the network.

Shapes: B batch, C latent channels, H W latent size, L text tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """A batch of conditions.

    Attributes:
        condition: [B, C, H, W] normalised latents of the mask or sketch; zeros if the condition is dropped (§4).
        encoder_hidden_states: [B, L, D] text tokens; those of the empty prompt if the text is dropped.
        pooled_projections: [B, D] pooled text.
        modality: [B] int64, index into ``MODALITIES``.
        encoder_attention_mask: [B, L] bool, false for padding that is not attended to; ``None``: attend to all.
    """

    condition: Tensor
    encoder_hidden_states: Tensor
    pooled_projections: Tensor
    modality: Tensor
    encoder_attention_mask: Tensor | None = None

    def with_text(
        self, encoder_hidden_states: Tensor, pooled_projections: Tensor, encoder_attention_mask: Tensor | None = None
    ) -> Conditioning:
        """The same conditions with another text, such as the empty prompt for guidance."""
        return replace(
            self,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            encoder_attention_mask=encoder_attention_mask,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """Moves every tensor to ``device``; ``dtype`` applies to floating-point tensors."""
        return Conditioning(
            self.condition.to(device, dtype),
            self.encoder_hidden_states.to(device, dtype),
            self.pooled_projections.to(device, dtype),
            self.modality.to(device),
            None if self.encoder_attention_mask is None else self.encoder_attention_mask.to(device),
        )

    def part(self, places: Tensor) -> Conditioning:
        """The entries of the batch at ``places``."""
        return Conditioning(
            self.condition[places],
            self.encoder_hidden_states[places],
            self.pooled_projections[places],
            self.modality[places],
            None if self.encoder_attention_mask is None else self.encoder_attention_mask[places],
        )

    @staticmethod
    def cat(*parts: Conditioning) -> Conditioning:
        """Joins batches along B. Either all have an attention mask, and are padded to the longest text, or none has."""
        masks = [part.encoder_attention_mask for part in parts if part.encoder_attention_mask is not None]
        texts = [part.encoder_hidden_states for part in parts]
        assert len(masks) in (0, len(parts))
        if masks:
            longest = max(mask.shape[1] for mask in masks)
            masks = [F.pad(mask, (0, longest - mask.shape[1])) for mask in masks]
            texts = [F.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts]
        return Conditioning(
            torch.cat([part.condition for part in parts]),
            torch.cat(texts),
            torch.cat([part.pooled_projections for part in parts]),
            torch.cat([part.modality for part in parts]),
            torch.cat(masks) if masks else None,
        )


def predict(transformer: nn.Module, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
    """One network evaluation: ``noisy`` [B, C, H, W] and ``timestep`` [B] (network time) → [B, C, H, W]."""
    output: Tensor = transformer(
        torch.cat([noisy, conditioning.condition], dim=1),
        timestep,
        conditioning.encoder_hidden_states,
        conditioning.pooled_projections,
        conditioning.modality,
        conditioning.encoder_attention_mask,
        return_dict=False,
    )[0]
    return output
