"""Paths below a prefix: the path that routes see, the redirect of the bare prefix; and HEAD requests."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def route_path(scope: Scope) -> str:
    """The path that routes are matched with: ``path`` without ``root_path``.

    Mounts, Ray Serve's ``route_prefix`` and servers that know their prefix leave it in ``scope["path"]`` and repeat it
    in ``scope["root_path"]``. As in Starlette's router, the prefix is removed only if it ends with a whole segment:
    code that guards a route must see the same path as the router.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    inner = path.removeprefix(root)
    return inner if inner[:1] in ("", "/") else path


class BarePrefix:
    """ASGI middleware: redirects a prefix without its slash, such as ``/faces``, to ``/faces/``.

    The page's relative URLs resolve only there. The redirect is relative too, because proxies may have removed further
    prefixes from the path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Redirects the bare prefix, and passes every other path on."""
        if scope["type"] == "http" and route_path(scope) == "":
            last = scope["path"].rpartition("/")[2]
            await RedirectResponse(f"{quote(last)}/")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Head:
    """ASGI middleware: answers HEAD like GET, without the body; FastAPI's routes accept only GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on a copy of the scope with GET; the server frames the answer by its own, which stays HEAD."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        as_get = {**scope, "method": "GET"}
        try:
            await self.app(as_get, receive, without_body)
        finally:
            scope["route"] = as_get.get("route")  # for the access log
