"""Spans of each generation where ``serve.traces`` asks for them: waiting, encoding, denoising, decoding.

They carry the request id, never a prompt. OTLP over HTTP is understood by collectors, Jaeger, Tempo and MLflow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from mmface.errors import ServiceError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

    from serve.engine.defaults import Plan
    from serve.http.schemas import ModelInfo

Phase = Literal["encode", "decode"]


class Trace:
    """Of a generation that nobody watches: costs nothing."""

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Around the encoding or the decoding of an image."""
        return nullcontext()

    def end(self, result: object) -> None:
        """When the generation has ended: with its pictures, with an error, or with neither if its caller left."""


UNTRACED = Trace()


class Spans(Trace):
    """The spans of one generation, ``span`` around all of it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._span = span
        self._inside = set_span_in_context(span)
        self._since = time.time_ns()
        self._denoising: tuple[int, int] | None = None  # from the first image's encoding to the last one's decoding

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """See :meth:`Trace.phase`; the first one ends the waiting."""
        begun = time.time_ns()
        if self._denoising is None:
            self._write("wait", self._since, begun)
        elif name == "decode":
            self._denoising = self._denoising[0], begun
        yield
        done = time.time_ns()
        self._write(name, begun, done)
        if self._denoising is None:
            self._denoising = done, done

    def end(self, result: object) -> None:
        """See :meth:`Trace.end`."""
        from opentelemetry.trace import StatusCode

        now = time.time_ns()
        if self._denoising is None:
            self._write("wait", self._since, now)
        else:
            first, last = self._denoising
            self._write("denoise", first, last if last > first else now)
        if isinstance(result, BaseException):
            self._span.set_status(StatusCode.ERROR, type(result).__name__)
        self._span.set_attribute("mmface.cancelled", result is None)
        self._span.end(now)

    def _write(self, name: str, start: int, end: int) -> None:
        self._tracer.start_span(name, self._inside, start_time=start).end(end)


def begin(tracer: Tracer | None, plan: Plan, info: ModelInfo) -> Trace:
    """The trace of a generation that is about to queue; part of its client's trace if it sent one."""
    if tracer is None:
        return UNTRACED
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    job = plan.job
    parent = TraceContextTextMapPropagator().extract({"traceparent": job.traceparent} if job.traceparent else {})
    attributes = {
        "mmface.request_id": job.request_id,
        "mmface.model": info.id,
        "mmface.modality": job.modality,
        "mmface.images": len(plan.seeds),
        "mmface.steps": plan.num_inference_steps,
        "mmface.size": f"{plan.width}x{plan.height}",
    }
    return Spans(tracer, tracer.start_span("generate", parent, attributes=attributes))


def tracer_to(address: str) -> Tracer:
    """The tracer of this process that sends to an OTLP address.

    Raises:
        ServiceError: the exporter is not installed.
    """
    return provider_to(address).get_tracer("mmface.serve")


@lru_cache
def provider_to(address: str) -> TracerProvider:
    """Behind :func:`tracer_to`; sends in a thread of its own, and what is left when the process ends."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ServiceError("install the exporter: pip install 'mmface[traces]'", field="serve.traces") from None
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "mmface"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(address)))
    return provider
