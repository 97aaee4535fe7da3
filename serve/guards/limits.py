"""Limits for each request: the size of its body, the time to send it, and the time until the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.errors import ApiError, envelope

DRAINED_BYTES = 64_000_000  # most bytes that are read of a body whose request is refused before it has arrived
DRAINED_S = 3.0


class BoundedUploads:
    """ASGI middleware: refuses bodies that are too large (by Content-Length, or while they arrive) or too slow.

    Args:
        max_bytes: largest size of a body.
        max_seconds: longest time until a body has arrived.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts the bytes that ``receive`` returns; beyond a limit it raises, where the route reads the body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit():
            await envelope(ApiError(400, "Content-Length is not a number"))(scope, receive, send)
            return
        if int(length) > self.max_bytes:
            await envelope(self._refusal())(scope, receive, send)
            return
        received, arrived = 0, False
        until = asyncio.get_running_loop().time() + self.max_seconds

        async def bounded() -> Message:
            nonlocal received, arrived
            try:
                # After the body, receive() waits for the client to disconnect, for which there is no limit.
                async with asyncio.timeout_at(None if arrived else until):
                    message = await receive()
            except TimeoutError:
                slow = f"the body did not arrive within {self.max_seconds:g} s"
                raise ApiError(408, slow, code="slow_upload") from None
            received += len(message.get("body", b""))
            arrived = not message.get("more_body", False)
            if received > self.max_bytes:
                raise self._refusal()
            return message

        await self.app(scope, bounded, send)

    def _refusal(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.max_bytes} bytes; send a smaller picture")


class Drained:
    """ASGI middleware: reads and drops the rest of a request's body before the answer is sent, up to a limit.

    Otherwise the server would close the connection while a proxy is still sending. The proxy's connection is then
    reset, and its client sees a 502 of the proxy instead of our refusal.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Drains before the answer, except before a 408 (a slow body) or if the client waits for 100 Continue."""
        if scope["type"] != "http" or b"expect" in dict(scope["headers"]):
            await self.app(scope, receive, send)
            return
        arrived = dict(scope["headers"]).keys().isdisjoint((b"content-length", b"transfer-encoding"))

        async def observed() -> Message:
            nonlocal arrived
            message = await receive()
            arrived = not message.get("more_body", False)
            return message

        async def drain() -> None:
            left = DRAINED_BYTES
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAINED_S):
                    while not arrived and left > 0:
                        left -= len((await observed()).get("body", b""))

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 408:
                await drain()
            await send(message)

        await self.app(scope, observed, send_after_body)


class Deadline:
    """The time by which an answer must be complete, counted from construction."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Cancels the block and raises a 408 when the deadline passes inside it."""
        try:
            async with asyncio.timeout_at(self._at):
                yield
        except TimeoutError:
            message = f"not finished within {self.seconds:g} s; ask for fewer images or steps, or a smaller size"
            raise ApiError(408, message) from None
