"""Converts nested values with tensors, such as an optimizer's state, to named tensors plus JSON, and back."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

_DICT, _TUPLE, _TENSOR = "dict", "tuple", "tensor"


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Splits ``tree`` into JSON that describes its structure, and its tensors by path (``state/0/exp_avg``).

    Args:
        tree: dicts (keys are strings or numbers), lists, tuples, tensors, strings, numbers, booleans and None.
    """
    tensors: dict[str, Tensor] = {}

    def visit(value: Any, place: str) -> Any:
        if isinstance(value, Tensor):
            tensors[place] = value
            return {_TENSOR: place}
        if isinstance(value, dict):
            return {_DICT: [[key, visit(one, f"{place}/{key}".lstrip("/"))] for key, one in value.items()]}
        if isinstance(value, list | tuple):
            items = [visit(one, f"{place}/{number}".lstrip("/")) for number, one in enumerate(value)]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        assert value is None or isinstance(value, str | int | float), f"{place} is a {type(value).__name__}"
        return value

    return visit(tree, ""), tensors


def unflatten(built: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuilds the tree from the results of :func:`flatten`."""
    if isinstance(built, list):
        return [unflatten(one, tensors) for one in built]
    if not isinstance(built, dict):
        return built
    ((kind, content),) = built.items()
    if kind == _TENSOR:
        return tensors[content]
    if kind == _TUPLE:
        return tuple(unflatten(content, tensors))
    return {key: unflatten(one, tensors) for key, one in content}


def detached(tree: Any) -> Any:
    """A deep copy of ``tree`` whose tensors are on the CPU; shares no memory with it."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        return {key: detached(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(detached(value) for value in tree)
    return copy.deepcopy(tree)
