"""``Idempotency-Key``: a request that is repeated gets the answer that was made for it (§9)."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.errors import ApiError, envelope
from serve.http.routing import route_path

HEADER = "Idempotency-Key"
KEPT_S = 3600.0
KEPT_ANSWERS = 1000
KEPT_BYTES = 64_000_000
_SANE = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(eq=False)
class _Answer:
    """What was answered to a request; ``done`` is set once that is known, or known not to be kept."""

    digest: bytes
    messages: list[Message] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    until: float = float("inf")
    size: int = 0

    def worth_keeping(self) -> bool:
        """A success that was made to its end; of a stream, one that did not end with an error."""
        if not self.messages or self.messages[0]["status"] >= 300 or self.messages[-1].get("more_body", False):
            return False
        bodies = [body for message in self.messages if (body := message.get("body", b""))]
        return not (bodies and bodies[-1].startswith(b"event: error"))


class Idempotency:
    """ASGI middleware: remembers successful answers for :data:`KEPT_S`, within bounds, in this process.

    The same key with the same body is answered alike; while the first one runs, the others wait. With another body it
    is 422. Keys of different callers are different.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self._clock = clock
        self._answers: OrderedDict[tuple[str, ...], _Answer] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the whole body where the header is given; it is bounded already."""
        if scope["type"] != "http" or scope["method"] != "POST" or HEADER not in Headers(scope=scope):
            await self.app(scope, receive, send)
            return
        try:
            body, digest = await _read(scope, receive)
            key = (str(scope.get("state", {}).get("key")), route_path(scope), Headers(scope=scope)[HEADER])
            known = await self._known(key, digest)
        except ApiError as error:
            await envelope(error)(scope, receive, send)
            return
        if known is None:
            await self._answer(scope, _again(body, receive), send, key, digest)
            return
        first, *rest = known.messages
        await send({**first, "headers": [*first["headers"], (b"idempotent-replayed", b"true")]})
        for message in rest:
            await send(message)

    async def _known(self, key: tuple[str, ...], digest: bytes) -> _Answer | None:
        """What was answered before, or is being answered now; None if there is nothing of use."""
        while (known := self._answers.get(key)) is not None and known.until > self._clock():
            if known.digest != digest:
                message = "this key came with another request before; use a new one"
                raise ApiError(422, message, param=HEADER, code="idempotency_key_reused")
            await known.done.wait()
            if self._answers.get(key) is known:
                return known
        return None

    async def _answer(self, scope: Scope, receive: Receive, send: Send, key: tuple[str, ...], digest: bytes) -> None:
        answer = self._answers[key] = _Answer(digest)

        async def recorded(message: Message) -> None:
            answer.messages.append(message)
            answer.size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, recorded)
        finally:
            if answer.worth_keeping():
                answer.until = self._clock() + KEPT_S
                self._answers.move_to_end(key)
            else:
                del self._answers[key]
            answer.done.set()
            self._bound()

    def _bound(self) -> None:
        """Forgets the oldest answers beyond the bounds."""
        kept = [(key, answer) for key, answer in self._answers.items() if answer.done.is_set()]
        size = sum(answer.size for _, answer in kept)
        for number, (key, answer) in enumerate(kept):
            if answer.until > self._clock() and size <= KEPT_BYTES and len(kept) - number <= KEPT_ANSWERS:
                break
            del self._answers[key]
            size -= answer.size


async def _read(scope: Scope, receive: Receive) -> tuple[bytes, bytes]:
    """A request's body, and the digest of what it asks for: repeated forms differ in their boundary alone."""
    headers = Headers(scope=scope)
    if not _SANE.fullmatch(headers[HEADER]):
        raise ApiError(400, "1 to 255 printable characters without spaces", param=HEADER)
    body = await Request(scope, receive).body()
    kind, options = parse_options_header(headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    content = body.replace(boundary, b"") if boundary else body
    asked = b"\0".join((kind, headers.get("accept", "").encode("latin-1"), content))
    return body, hashlib.sha256(asked).digest()


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` with the body that was read already in front."""
    unread = True

    async def replayed() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
