"""Bounds on what a client may take: bytes, seconds to send them, and seconds until an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.errors import ApiError, envelope

DRAINED_BYTES = 64_000_000  # at most, of the body of a request that is refused before it has arrived
DRAINED_S = 3.0


class BoundedUploads:
    """ASGI middleware: refuses large bodies, by their Content-Length or while they stream in, and slow ones.

    Args:
        max_bytes: of a body.
        max_seconds: within which a body must have arrived.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what ``receive`` hands out; the reader of the body meets the error."""
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
                # Once the body is here, receive() waits for the client to leave, as long as that takes.
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
    """ASGI middleware: before a request is answered, the rest of its body is read and dropped, within bounds.

    A server that answers earlier closes the connection, which resets it under a proxy that still sends: its client
    then sees the proxy's 502 instead of the refusal.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Clients that wait for 100 Continue have not begun to send, and slow ones are answered at once."""
        if scope["type"] != "http" or b"expect" in dict(scope["headers"]):
            await self.app(scope, receive, send)
            return
        arrived = dict(scope["headers"]).keys().isdisjoint((b"content-length", b"transfer-encoding"))

        async def watched() -> Message:
            nonlocal arrived
            message = await receive()
            arrived = not message.get("more_body", False)
            return message

        async def drain() -> None:
            left = DRAINED_BYTES
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAINED_S):
                    while not arrived and left > 0:
                        left -= len((await watched()).get("body", b""))

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 408:
                await drain()
            await send(message)

        await self.app(scope, watched, send_after_body)


class Deadline:
    """When an answer must be complete; starts with its construction."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """408 when the deadline passes in the block; what it awaits is cancelled."""
        try:
            async with asyncio.timeout_at(self._at):
                yield
        except TimeoutError:
            message = f"not finished within {self.seconds:g} s; ask for fewer images or steps, or a smaller size"
            raise ApiError(408, message) from None
