"""The bytes that live tensors hold, counted by what each is for while a step runs on fake tensors."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Account(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of live storages by kind, now and at the peak. Counts while it is entered as a context.

    Args:
        shares: the fraction of each kind that this worker holds; 1 for a kind that is not named.

    Attributes:
        kind: what newly allocated storages are counted as.
        moment: what the step is doing now.
        live: kind and bytes of every live storage, by its address.
        now: bytes by kind.
        fullest: bytes by kind at the peak.
        moment_of_fullest: what the step was doing at the peak.
    """

    def __init__(self, shares: dict[str, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shares = shares
        self.kind, self.moment = "weights", ""
        self.live: dict[int, tuple[str, float]] = {}
        self.now: dict[str, float] = defaultdict(float)
        self.fullest: dict[str, float] = {}
        self.moment_of_fullest = ""
        self._most = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        kind = self.kind
        if func is torch.ops.aten._to_copy.default and kind == "activations" and self._kind_of(args[0]) == "weights":
            kind = "weight copies"  # autocast keeps a copy of each weight until its context ends
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._enter(tensor, kind)
        return made

    @contextmanager
    def doing(self, moment: str, kind: str) -> Iterator[None]:
        """Counts everything allocated inside the context as ``kind``, at ``moment``."""
        before = self.moment, self.kind
        self.moment, self.kind = moment, kind
        yield
        self.moment, self.kind = before

    def rename(self, tensor: Tensor | None, kind: str) -> None:
        """Counts an allocated tensor as another kind from now on."""
        assert tensor is not None
        if self._kind_of(tensor) != kind:
            self._leave(_key(tensor))
            self._add(_key(tensor), kind, tensor.untyped_storage().nbytes())

    def _kind_of(self, tensor: Tensor) -> str:
        return self.live.get(_key(tensor), ("", 0.0))[0]

    def _enter(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        if _key(tensor) not in self.live:
            self._add(_key(tensor), kind, storage.nbytes())
            weakref.finalize(storage, self._leave, _key(tensor))

    def _add(self, key: int, kind: str, size: int) -> None:
        held = size * self.shares.get(kind, 1.0)
        self.live[key] = kind, held
        self.now[kind] += held
        total = sum(self.now.values())
        if total > self._most:
            self._most, self.fullest, self.moment_of_fullest = total, dict(self.now), self.moment

    def _leave(self, key: int) -> None:
        kind, held = self.live.pop(key)
        self.now[kind] -= held


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
