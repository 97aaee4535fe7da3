"""Spans reach a collector over OTLP and show how long each phase of a request took."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.engine.traces import UNTRACED, provider_to
from serve.http.api import create_app
from tests.serve.service import mask_png, tiny_recipe

PARENT = "0af7651916cd43dd8448eb211c80319c"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """The address of an OTLP collector over HTTP, and the bodies that it received."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
    server.shutdown()


def spans_of(bodies: list[bytes]) -> list[Any]:
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    return [
        span for one in requests for part in one.resource_spans for scope in part.scope_spans for span in scope.spans
    ]


async def test_a_request_becomes_a_trace_with_spans_of_its_phases(
    bundle: Bundle, collector: tuple[str, list[bytes]]
) -> None:
    address, bodies = collector
    settings = tiny_recipe(traces=address, max_batch=1).serve
    generator = Generator(bundle, settings)
    app = create_app(generator, settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:

        async def paint(name: str, **fields: str) -> httpx.Response:
            headers = {"X-Request-Id": name, "traceparent": f"00-{PARENT}-b7ad6b7169203331-01"}
            data = {"prompt": "secret words"} | fields
            return await client.post("/v1/generate/mask", files={"condition": mask_png()}, data=data, headers=headers)

        long = asyncio.create_task(paint("long", num_inference_steps="1000", n="8"))
        while generator.engine.counters.steps < 2:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(paint("waited", n="2"))
        while not generator.engine.waiting():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.2)
        long.cancel()
        assert (await waiting).status_code == 200
    provider_to(address).force_flush()
    assert not any(b"secret" in body for body in bodies)
    spans = spans_of(bodies)
    assert {span.trace_id.hex() for span in spans} == {PARENT}
    whole = {attribute(span, "mmface.request_id"): span for span in spans if span.name == "generate"}
    assert whole.keys() == {"long", "waited"}
    assert attribute(whole["long"], "mmface.cancelled") is True
    parts = [span for span in spans if span.parent_span_id == whole["waited"].span_id]
    assert sorted(span.name for span in parts) == ["decode", "decode", "denoise", "encode", "encode", "wait"]
    seconds = {span.name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for span in parts}
    assert seconds["wait"] > 0.15
    assert seconds["denoise"] > 0
    for span in parts:
        assert whole["waited"].start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole["waited"].end_time_unix_nano


def attribute(span: Any, name: str) -> Any:
    value = next(one.value for one in span.attributes if one.key == name)
    return getattr(value, value.WhichOneof("value"))


async def test_without_an_address_there_are_no_traces(generator: Generator) -> None:
    assert generator._tracer is None
    with UNTRACED.phase("encode"):
        pass
