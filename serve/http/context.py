"""What every request carries: its id, and the model version in every answer."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders, State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestContext:
    """ASGI middleware: ``request.state.request_id`` is the client's ``X-Request-Id``, or a new one.

    An id that could not be written to a header, a log or a file is replaced, and the answer says by which. Otherwise
    Ray Serve's proxy makes the id when there is none and repeats it in the answer, so this does not.
    ``X-Model-Version`` is added where a route has not said it.

    Args:
        state: the application's; its ``model_version`` is None until it is known.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Names the request, and the model version in its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_context(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if given and given != request_id:
                    headers["X-Request-Id"] = request_id
                if self.state.model_version is not None:
                    headers.setdefault("X-Model-Version", self.state.model_version)
            await send(message)

        await self.app(scope, receive, send_with_context)
