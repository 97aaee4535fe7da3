"""``Idempotency-Key``: a retried request gets the answer of its first try (§9)."""

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
    """A recorded answer; ``done`` is set once it is complete, or was dropped because it is not worth keeping."""

    digest: bytes
    messages: list[Message] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    until: float = float("inf")
    size: int = 0

    def worth_keeping(self) -> bool:
        """Whether it is a complete success; a stream must not have ended with an error event."""
        if not self.messages or self.messages[0]["status"] >= 300 or self.messages[-1].get("more_body", False):
            return False
        bodies = [body for message in self.messages if (body := message.get("body", b""))]
        return not (bodies and bodies[-1].startswith(b"event: error"))


class Idempotency:
    """ASGI middleware: keeps successful answers for :data:`KEPT_S` in this process, bounded in number and bytes.

    A request with the same key and body gets the stored answer; while the first try runs, retries wait for it. The
    same key with another body is a 422. Callers with different API keys have separate idempotency keys.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self._clock = clock
        self._answers: OrderedDict[tuple[str, ...], _Answer] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the whole body of requests that have the header; other middleware has bounded its size."""
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
            await self._answer(scope, _replayed(body, receive), send, key, digest)
            return
        first, *rest = known.messages
        await send({**first, "headers": [*first["headers"], (b"idempotent-replayed", b"true")]})
        for message in rest:
            await send(message)

    async def _known(self, key: tuple[str, ...], digest: bytes) -> _Answer | None:
        """The stored answer, once a first try that is still running has finished; None if there is none."""
        while (known := self._answers.get(key)) is not None and known.until > self._clock():
            if known.digest != digest:
                message = "this key was used for a different request; use a new key"
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
        """Drops expired answers, and the oldest ones beyond the bounds."""
        kept = [(key, answer) for key, answer in self._answers.items() if answer.done.is_set()]
        size = sum(answer.size for _, answer in kept)
        for number, (key, answer) in enumerate(kept):
            if answer.until > self._clock() and size <= KEPT_BYTES and len(kept) - number <= KEPT_ANSWERS:
                break
            del self._answers[key]
            size -= answer.size


async def _read(scope: Scope, receive: Receive) -> tuple[bytes, bytes]:
    """The body of a request, and a digest of it that ignores the multipart boundary, which differs between retries."""
    headers = Headers(scope=scope)
    if not _SANE.fullmatch(headers[HEADER]):
        raise ApiError(400, "must be 1 to 255 printable characters without spaces", param=HEADER)
    body = await Request(scope, receive).body()
    kind, options = parse_options_header(headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    content = body.replace(boundary, b"") if boundary else body
    identity = b"\0".join((kind, headers.get("accept", "").encode("latin-1"), content))
    return body, hashlib.sha256(identity).digest()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that first returns the body that was read already."""
    unread = True

    async def replayed() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
