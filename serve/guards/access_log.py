"""The access log: one line of JSON per request. It contains prompts only if ``serve.log_prompts`` is set."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("serve.access")

CLIENT_LEFT = 499


def log_to_stdout(lines: logging.Logger = log) -> None:
    """Prints the access log, or other lines of JSON, on stdout, unless their logger has handlers already."""
    if lines.handlers:
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    lines.addHandler(handler)
    lines.setLevel(logging.INFO)
    lines.propagate = False  # the command line's handler of the logger "serve" would print every line a second time


class AccessLog:
    """ASGI middleware: logs each request when its answer is complete or its client has disconnected.

    Args:
        prompts: whether to log prompts too.
    """

    def __init__(self, app: ASGIApp, *, prompts: bool) -> None:
        self.app = app
        self.prompts = prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Observes the answer. An exception is logged as 500, because that is what the server answers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, version, complete = CLIENT_LEFT, None, False

        async def observed(message: Message) -> None:
            nonlocal status, version, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                version = Headers(raw=message["headers"]).get("x-model-version")
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except Exception:
            status, complete = 500, True
            raise
        finally:
            seconds = time.perf_counter() - started
            log.info(self._line(scope, status if complete else CLIENT_LEFT, version, seconds))

    def _line(self, scope: Scope, status: int, version: str | None, seconds: float) -> str:
        state = scope.get("state", {})
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": scope["method"],
            # The path of the route, such as /v1/models/{model}: the client's own path may have any length and content.
            "route": getattr(scope.get("route"), "path", None),
            "status": status,
            "seconds": round(seconds, 4),
            "request_id": state.get("request_id"),
            "model_version": version,
            "key": state.get("key"),
        }
        if self.prompts:
            line["prompt"] = state.get("prompt")
        return json.dumps(line)
