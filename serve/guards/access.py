"""Who may use the service, and how often: API keys and a token bucket each (§9)."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from mmface.config import Serve
from mmface.errors import ServiceError
from serve.http.errors import ApiError, envelope
from serve.http.routing import route_path

# Health, documents and the page have no secrets. Whatever is not named here is guarded, unknown routes included.
PUBLIC = re.compile(r"/|/healthz|/readyz|/docs|/openapi\.json|/playground/[^/]+")
POLICY_VIOLATION = 1008  # a websocket's code for closing
_KEY = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Key:
    """A key's name, for logs, and the SHA-256 of the key, which is all that the service knows of it."""

    name: str
    digest: str = field(repr=False)


def read_keys(settings: Serve) -> tuple[Key, ...]:
    """The keys of the variable ``serve.api_keys_env``, which holds ``name:sha256,name:sha256``; none if it is not set.

    Keys are long random words, so a plain hash is enough: ``openssl rand -hex 24`` and ``printf %s KEY | sha256sum``.

    Raises:
        ServiceError: the variable is missing or malformed. A service that should ask for keys never starts without.
    """
    variable = settings.api_keys_env
    if variable is None:
        return ()
    written = [entry.strip() for entry in os.environ.get(variable, "").split(",") if entry.strip()]
    matches = [_KEY.fullmatch(entry) for entry in written]
    keys = tuple(Key(match[1], match[2]) for match in matches if match is not None)
    names = {key.name for key in keys}
    if not keys or len(keys) != len(written) or len(names) != len(keys):
        message = (
            f"the variable {variable} must hold NAME:SHA256 of each key, with different names, separated by commas"
        )
        raise ServiceError(message, field="serve.api_keys_env")
    return keys


def is_public(path: str) -> bool:
    """Whether a route, by its path within the service, asks for no key."""
    return PUBLIC.fullmatch(path) is not None


class Bucket:
    """A token bucket: ``per_minute`` requests at once or spread, never more in the long run."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._tokens = float(per_minute)
        self._at = time.monotonic()

    def take(self, now: float) -> float:
        """Takes a token and returns 0, or the seconds until there is one."""
        self._tokens = min(self.per_minute, self._tokens + (now - self._at) * self.per_minute / 60)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) * 60 / self.per_minute
        self._tokens -= 1
        return 0.0


class Access:
    """ASGI middleware: 401 without a known ``Authorization: Bearer KEY``, 429 above the key's rate.

    ``request.state.key`` is the key's name. The rate is counted in this process.
    """

    def __init__(self, app: ASGIApp, keys: tuple[Key, ...], per_minute: int | None) -> None:
        self.app = app
        self.keys = keys
        self._buckets = {key.name: Bucket(per_minute) for key in keys} if per_minute else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets :data:`PUBLIC` routes pass, and what is no request."""
        refusal = None if scope["type"] == "lifespan" or is_public(route_path(scope)) else self._judge(scope)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(POLICY_VIOLATION, refusal.message)(scope, receive, send)
        else:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            await envelope(refusal, headers)(scope, receive, send)

    def _judge(self, scope: Scope) -> ApiError | None:
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given:
            return ApiError(401, "send Authorization: Bearer KEY", param="Authorization", code="missing_api_key")
        digest = hashlib.sha256(given.strip().encode("latin-1")).hexdigest()
        # Every key is compared, in constant time: neither which one nor how much of it matched shows.
        known = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        if not known:
            return ApiError(401, "this key is not known", param="Authorization", code="invalid_api_key")
        scope.setdefault("state", {})["key"] = known[0].name
        wait = self._buckets[known[0].name].take(time.monotonic()) if self._buckets else 0.0
        if wait:
            rate = f"more than {self._buckets[known[0].name].per_minute} requests a minute with this key"
            return ApiError(429, f"{rate}; try again later", code="rate_limit_exceeded", retry_after_s=wait)
        return None
