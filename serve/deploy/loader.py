"""Loads a model version from the registry as replicas serve it: it must paint its registered preview."""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mmface.bundles.bundle import Bundle, read_bundle
from mmface.bundles.reference import preview_error
from mmface.bundles.registry import fetched_bundle
from mmface.config import Serve
from mmface.errors import MMFaceError, RegistryError, ServiceError
from mmface.networks.precision import keep_in_bf16
from mmface.pipeline import MMFacePipeline
from serve.engine.footprint import ran_out_of_memory
from serve.engine.generator import Generator

log = logging.getLogger(__name__)

OnVersionStep = Callable[[str, int, float], None]
"""Called after each denoising step with the version, the number of images advanced and its duration in seconds."""


@dataclass(frozen=True)
class Failure:
    """Why a version did not load. Not the exception, whose frames would keep the weights in memory.

    Attributes:
        transient: whether a retry may succeed.
    """

    why: str
    transient: bool


class Loader:
    """Loads versions of one registered model.

    Args:
        settings: the model's name, and how far a preview may differ.
        on_step: see :data:`OnVersionStep`.
        device: where transformers run.
    """

    def __init__(self, settings: Serve, on_step: OnVersionStep, device: str) -> None:
        self.settings = settings
        self._on_step = on_step
        self._device = device

    def load(self, version: str, on_fetched: Callable[[], None] = lambda: None) -> Generator:
        """A version that is ready to serve and has painted its registered preview.

        Args:
            on_fetched: called once the files are downloaded and match the registry's checksums.

        Raises:
            RegistryError: the version does not exist, is damaged, or does not paint its preview.
            UnhealthyModelError: its output is not finite.
            ServiceError: the registry cannot be reached.
        """
        with fetched_bundle(self.settings.model_name, version) as folder:
            on_fetched()
            return self._make(read_bundle(folder, version))

    def attempt(self, version: str) -> Generator | Failure:
        """Like :meth:`load`, but any exception becomes a :class:`Failure`."""
        fetched = threading.Event()
        try:
            return self.load(version, fetched.set)
        except Exception as error:  # noqa: BLE001 - whatever it is, this version cannot be served
            if isinstance(error, MMFaceError):
                return Failure(str(error), _is_transient(error, fetched.is_set()))
            log.error("serve: version %s did not load\n%s", version, "".join(traceback.format_exception(error)))
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            return Failure(why, _is_transient(error, fetched.is_set()))

    def _make(self, bundle: Bundle) -> Generator:
        bundle.pipeline.to(self._device)
        _own_weights(bundle.pipeline)
        if bundle.preview is not None:
            _require_preview(preview_error(bundle.pipeline, bundle.recipe, bundle.preview), self.settings)

        def on_step(images: int, seconds: float) -> None:
            self._on_step(bundle.version, images, seconds)

        return Generator(bundle, self.settings, on_step)


def _is_transient(error: Exception, fetched: bool) -> bool:
    """Whether a retry may succeed: always for memory and disk; for services, until the files are downloaded."""
    if ran_out_of_memory(error):
        return True
    if not fetched:
        return isinstance(error, ServiceError) or not isinstance(error, MMFaceError)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError)


def _own_weights(pipeline: MMFacePipeline) -> None:
    """Copies the weights into memory: they may be mapped from files, which may change or vanish later."""
    if pipeline.bf16:
        keep_in_bf16(pipeline.transformer)
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            for tensor in itertools.chain(module.parameters(), module.buffers()):
                tensor.data = tensor.data.clone()


def _require_preview(error: float, settings: Serve) -> None:
    limit = settings.max_preview_error
    if not error <= limit:
        message = f"it paints its registered preview with a mean error of {error:.1f} of 255, {limit:g} at most"
        remedy = "register it again, or raise serve.max_preview_error"
        raise RegistryError(f"{message}; {remedy}", field="serve.max_preview_error")
