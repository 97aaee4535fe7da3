"""OpenTelemetry spans of each generation, if ``serve.traces`` is set: waiting, encoding, denoising, decoding.

Spans have the request id, never the prompt. Collectors, Jaeger, Tempo and MLflow accept OTLP over HTTP.
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

    from serve.http.job import Job

Phase = Literal["encode", "decode"]


class Trace:
    """The trace of a generation while tracing is off: does nothing."""

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Context in which an image is encoded or decoded."""
        return nullcontext()

    def end(self, result: object) -> None:
        """Called at the end of the generation with its images or its error; with None if the caller left."""


UNTRACED = Trace()


class Spans(Trace):
    """The spans of one generation; ``span`` encloses the others."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._span = span
        self._inside = set_span_in_context(span)
        self._since = time.time_ns()
        self._denoising: tuple[int, int] | None = None  # end of the first encoding, start of the last decoding

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """See :meth:`Trace.phase`; the first phase ends the waiting."""
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


def begin(tracer: Tracer | None, job: Job, *, model: str, steps: int, size: str) -> Trace:
    """The trace of a generation before it is queued; it continues the client's trace if the client sent one."""
    if tracer is None:
        return UNTRACED
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({"traceparent": job.traceparent} if job.traceparent else {})
    attributes = {
        "mmface.request_id": job.request_id,
        "mmface.model": model,
        "mmface.modality": job.modality,
        "mmface.images": len(job.seeds),
        "mmface.steps": steps,
        "mmface.size": size,
    }
    return Spans(tracer, tracer.start_span("generate", parent, attributes=attributes))


def tracer_to(address: str) -> Tracer:
    """This process's tracer that sends to an OTLP address.

    Raises:
        ServiceError: the exporter is not installed.
    """
    return provider_to(address).get_tracer("mmface.serve")


@lru_cache
def provider_to(address: str) -> TracerProvider:
    """The provider of :func:`tracer_to`; it sends in its own thread, and sends the rest when the process ends."""
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
