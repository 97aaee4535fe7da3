"""The request id of every request, and the model version in every answer."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders, State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestContext:
    """ASGI middleware: sets ``request.state.request_id`` to the client's ``X-Request-Id``, or to a new id.

    An id that is not safe in headers, logs and file names is replaced, and the answer's ``X-Request-Id`` is the new
    one. Valid ids are not repeated here, because Ray Serve's proxy does that, and makes an id where there is none.
    ``X-Model-Version`` is added unless the route has set it.

    Args:
        state: state of the application; its ``model_version`` is None until it is known.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sets the request id, and adds the headers to the answer."""
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
