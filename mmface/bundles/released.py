"""Released checkpoints: the authors' plain state dicts, read strictly (§4).

Their keys are those of :class:`~mmface.model.MMFaceDiT`, so nothing is renamed. What wraps a state dict saved by a
training script (``ema``, ``model`` or ``state_dict`` around it, ``module.`` or ``_orig_mod.`` before each key) is
taken off.
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
# The component that a width follows from, where it is no key of ``model``.
_FIELDS = {"in_channels": "components.vae", "text_embed_dim": "components.text_encoder"}


def read_released(file: Path) -> dict[str, Tensor]:
    """The state dict of a released checkpoint, by the keys of our model; pickled files may hold tensors alone.

    Raises:
        InputError: the file cannot be read as such.
    """
    try:
        tree: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, EOFError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{file} is no checkpoint ({reason[:120]})", field="weights") from None
    while isinstance(tree, Mapping):
        inner = next((tree[name] for name in _WRAPPERS if isinstance(tree.get(name), Mapping)), None)
        if inner is None:
            break
        tree = inner
    if not isinstance(tree, Mapping) or not all(isinstance(value, Tensor) for value in tree.values()):
        raise InputError(f"{file} holds something else than a state dict", field="weights")
    return {_PREFIX.sub("", name): tensor for name, tensor in tree.items()}


def load_released(file: Path, wanted: Mapping[str, Any]) -> MMFaceDiT:
    """The transformer ``MMFaceDiT(**wanted)`` with the weights of ``file``, in float32.

    Raises:
        RecipeError: the weights are of another architecture; names the recipe's key.
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
            message = f"{file.name}: {name} is {list(state[name].shape)}, {list(shape)} is wanted"
            raise InputError(message, field="weights")
    model.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}, assign=True)
    return model


def architecture(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What shapes and keys tell of the arguments of :class:`MMFaceDiT`; the number of heads they do not.

    All released weights know positions, and their text stands at position 0 (§4). Nothing is told of what is missing.
    """
    blocks = [int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))]
    told: dict[str, Any] = {
        "modality_embedder": "modality_embedder.weight" in shapes,
        "dual_stream": "blocks.0.attn.to_q_t.weight" in shapes,
        "depth": max(blocks, default=-1) + 1,
        "rope": True,
        "text_rope": "zero",
    }
    patches, text = shapes.get("x_embedder.proj.weight"), shapes.get("clip_seq_proj.weight")
    if patches is not None and len(patches) == 4:
        told |= {"hidden_size": patches[0], "in_channels": patches[1], "patch_size": patches[2]}
        mlp = shapes.get("blocks.0.mlp_i.0.weight")
        told |= {"mlp_ratio": mlp[0] / patches[0]} if mlp else {}
    return told | ({"text_embed_dim": text[1]} if text else {})


def require_architecture(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares what both name.

    Raises:
        RecipeError: names the recipe's key that differs first.
    """
    for name, value in wanted.items():
        if name in found and found[name] != value:
            message = f"the recipe wants {name} {value}, but the weights have {found[name]}"
            raise RecipeError(message, field=_FIELDS.get(name, f"model.{name}"))


def _require_keys(file: Path, given: set[str], expected: set[str]) -> None:
    for kind, names in (("lacks", expected - given), ("has unknown keys", given - expected)):
        if names:
            some = ", ".join(sorted(names)[:3])
            message = f"{file.name} {kind}: {some} ({len(names)} of {len(expected)}); it is no checkpoint of this model"
            raise InputError(message, field="weights")
