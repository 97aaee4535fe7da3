"""How requests find their route: the path within the service, the bare prefix, HEAD."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def route_path(scope: Scope) -> str:
    """The path that routes are matched with: ``path`` without ``root_path``.

    Mounts, Ray Serve's ``route_prefix`` and servers that know their prefix leave it in ``scope["path"]`` and repeat it
    in ``scope["root_path"]``. It counts where it ends with a whole segment, as for Starlette's router: whoever guards a
    route must read the path as the router does.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    inner = path.removeprefix(root)
    return inner if inner[:1] in ("", "/") else path


class BarePrefix:
    """ASGI middleware: redirects ``/faces``, a prefix without its slash, to ``/faces/``.

    Relative addresses of the page resolve there. The redirect is relative too, because proxies may have taken more of
    the path away.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything but the prefix itself goes on."""
        if scope["type"] == "http" and route_path(scope) == "":
            last = scope["path"].rpartition("/")[2]
            await RedirectResponse(f"{quote(last)}/")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Head:
    """ASGI middleware: answers HEAD as it answers GET, without the body; FastAPI's routes know GET alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server's own scope stays HEAD: the server goes by it when it frames the answer."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, without_body)
        finally:
            scope["route"] = asked.get("route")  # for the access log
