"""A reverse proxy in front of a real S3 server that loses, delays, cuts and refuses requests by a seeded plan."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive")
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"


@dataclass
class Plan:
    """The faults to inject, each as a share of all requests, and a hook that is called before each request.

    Attributes:
        error: answer 500 or 503 instead of forwarding the request.
        lost: forward the request, but answer 500.
        cut: close the connection in the middle of the response, or before the request is read.
        slow: seconds to wait before about every tenth request.
        passes: called with method and path of each request; if it returns False the connection is closed.
        deny: paths that start with this are answered with 403.
        seen: number of injected faults and passed requests by name.
        answers: method, path and status of each response of the server.
    """

    error: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    slow: float = 0.0
    seed: int = 0
    passes: Callable[[str, str], bool] = lambda method, path: True
    deny: str | None = None
    seen: Counter[str] = field(default_factory=Counter)
    answers: list[tuple[str, str, int]] = field(default_factory=list)


@contextmanager
def proxy(target: str, plan: Plan) -> Iterator[str]:
    """The address of a proxy to the server at ``target``; it runs for the duration of the context."""
    server = Server(target, plan)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Server(ThreadingHTTPServer):
    """The proxy's server, which draws the faults."""

    daemon_threads = True

    def __init__(self, target: str, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.plan = target, plan
        self._lock, self._chance = threading.Lock(), random.Random(plan.seed)  # noqa: S311

    def draw(self) -> tuple[float, float, float]:
        """Random numbers for a request's fault, the form of the fault, and the delay."""
        with self._lock:
            return self._chance.random(), self._chance.random(), self._chance.random()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores killed and disconnected clients, which the tests produce on purpose."""


class Handler(BaseHTTPRequestHandler):
    """Forwards a request, or injects a fault."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""

    def do(self) -> None:
        plan = self.server.plan
        if not plan.passes(self.command, self.path):
            return self.hang_up()
        fault, pick, delay = self.server.draw()
        if plan.slow and delay < 0.1:
            plan.seen["slow"] += 1
            time.sleep(plan.slow)
        if fault < plan.cut and pick < 0.5:
            return self.hang_up()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if plan.cut < fault < plan.cut + plan.error:
            code, name = (500, "InternalError") if pick < 0.5 else (503, "SlowDown")
            return self.answer(code, {}, ERROR.format(code=name).encode(), count=str(code))
        if plan.deny and self.path.startswith(plan.deny):
            return self.answer(403, {}, ERROR.format(code="AccessDenied").encode(), count="denied")
        status, headers, data = self.forward(body)
        plan.answers.append((self.command, self.path, status))
        if plan.cut + plan.error < fault < plan.cut + plan.error + plan.lost:
            return self.answer(500, {}, ERROR.format(code="InternalError").encode(), count="lost")
        if fault < plan.cut and len(data) > 1:
            return self.answer(status, headers, data, cut=True, count="cut")
        self.answer(status, headers, data)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        server = http.client.HTTPConnection(urlsplit(self.server.target).netloc, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in (*HOP_BY_HOP, "expect")}
        server.request(self.command, self.path, body=body, headers=headers)
        response = server.getresponse()
        data = response.read()
        kept = {k: v for k, v in response.getheaders() if k.lower() not in HOP_BY_HOP}
        server.close()
        return response.status, kept, data

    def answer(
        self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False, count: str = "passed"
    ) -> None:
        self.server.plan.seen[count] += 1
        self.send_response_only(status)
        length = headers.pop("Content-Length", None) if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.hang_up()

    def hang_up(self) -> None:
        self.server.plan.seen["cut"] += 1
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
