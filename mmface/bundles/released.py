"""Loads released checkpoints: the state dicts that the authors published, checked key by key (§4).

Their keys are those of :class:`~mmface.model.MMFaceDiT`, so none is renamed. Wrappers of training scripts are removed:
an outer dict (``ema``, ``model``, ``state_dict``) and prefixes of keys (``module.``, ``_orig_mod.``).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmface.errors import InputError, RecipeError
from mmface.model import MMFaceDiT

_WRAPPERS = ("ema", "model", "state_dict")
_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")
# The recipe key to blame for a width that is not a key of ``model``.
_FIELDS = {"in_channels": "components.vae", "text_embed_dim": "components.text_encoder"}


def read_released(file: Path) -> dict[str, Tensor]:
    """Reads the state dict of a released checkpoint with the keys of our model. Pickled files may hold tensors only.

    Raises:
        InputError: the file cannot be read, or holds no state dict.
    """
    try:
        tree: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, EOFError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{file} is not a checkpoint ({reason[:120]})", field="weights") from None
    while isinstance(tree, Mapping):
        inner = next((tree[name] for name in _WRAPPERS if isinstance(tree.get(name), Mapping)), None)
        if inner is None:
            break
        tree = inner
    if not isinstance(tree, Mapping) or not all(isinstance(value, Tensor) for value in tree.values()):
        raise InputError(f"{file} does not hold a state dict of tensors", field="weights")
    return {_PREFIX.sub("", name): tensor for name, tensor in tree.items()}


def load_released(file: Path, wanted: Mapping[str, Any]) -> MMFaceDiT:
    """Builds ``MMFaceDiT(**wanted)`` with the weights of ``file``, in float32.

    Raises:
        RecipeError: the weights have another architecture; names the recipe key.
        InputError: keys are missing or unknown, or a tensor has another shape.
    """
    state = read_released(file)
    require_architecture(architecture({name: tuple(tensor.shape) for name, tensor in state.items()}), wanted)
    with torch.device("meta"):
        model: MMFaceDiT = MMFaceDiT(**wanted)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _require_keys(file, set(state), set(expected))
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            message = f"{file.name}: {name} has the shape {list(state[name].shape)}, expected {list(shape)}"
            raise InputError(message, field="weights")
    model.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}, assign=True)
    return model


def architecture(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Derives arguments of :class:`MMFaceDiT` from keys and shapes, except the number of heads, which they do not show.

    All released weights use RoPE, with all text at position 0 (§4). Leaves out arguments whose tensors are missing.
    """
    blocks = [int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))]
    found_arguments: dict[str, Any] = {
        "modality_embedder": "modality_embedder.weight" in shapes,
        "dual_stream": "blocks.0.attn.to_q_t.weight" in shapes,
        "depth": max(blocks, default=-1) + 1,
        "rope": True,
        "text_rope": "zero",
    }
    patches, text = shapes.get("x_embedder.proj.weight"), shapes.get("clip_seq_proj.weight")
    if patches is not None and len(patches) == 4:
        found_arguments |= {"hidden_size": patches[0], "in_channels": patches[1], "patch_size": patches[2]}
        mlp = shapes.get("blocks.0.mlp_i.0.weight")
        found_arguments |= {"mlp_ratio": mlp[0] / patches[0]} if mlp else {}
    return found_arguments | ({"text_embed_dim": text[1]} if text else {})


def require_architecture(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares the arguments of the model that are in both mappings.

    Raises:
        RecipeError: an argument differs; names the first recipe key that does.
    """
    for name, value in wanted.items():
        if name in found and found[name] != value:
            message = (
                f"the recipe has {name} {value}, but the weights have {found[name]}; change the recipe or the weights"
            )
            raise RecipeError(message, field=_FIELDS.get(name, f"model.{name}"))


def _require_keys(file: Path, given: set[str], expected: set[str]) -> None:
    for kind, names in (("lacks", expected - given), ("has unknown keys", given - expected)):
        if names:
            some = ", ".join(sorted(names)[:3])
            message = f"{file.name} {kind}: {some} ({len(names)} of {len(expected)}); it belongs to another model"
            raise InputError(message, field="weights")
