"""API keys and their rate limits: who may use the service, and how often (§9)."""

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

# Health checks, documentation and the page need no key. Every other path is guarded, unknown routes included.
PUBLIC = re.compile(r"/|/healthz|/readyz|/docs|/openapi\.json|/playground/[^/]+")
POLICY_VIOLATION = 1008  # close code of websockets (RFC 6455)
_KEY = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Key:
    """An API key: its name, for logs, and its SHA-256; the service never has the key itself."""

    name: str
    digest: str = field(repr=False)


def read_keys(settings: Serve) -> tuple[Key, ...]:
    """The keys in the environment variable that ``serve.api_keys_env`` names, as ``name:sha256,name:sha256``.

    Empty if ``serve.api_keys_env`` is not set. Keys are long random strings, so a plain hash is enough: make one with
    ``openssl rand -hex 24`` and hash it with ``printf %s KEY | sha256sum``.

    Raises:
        ServiceError: the variable is missing or malformed; a service that requires keys never starts without them.
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
            f"the environment variable {variable} must hold NAME:SHA256 of each key, with unique names, "
            "separated by commas"
        )
        raise ServiceError(message, field="serve.api_keys_env")
    return keys


def is_public(path: str) -> bool:
    """Whether a path within the service needs no key."""
    return PUBLIC.fullmatch(path) is not None


class Bucket:
    """A token bucket: allows ``per_minute`` requests a minute on average, and as many at once."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._tokens = float(per_minute)
        self._at = time.monotonic()

    def take(self, now: float) -> float:
        """Takes a token and returns 0; without a token, returns the seconds until there is one."""
        self._tokens = min(self.per_minute, self._tokens + (now - self._at) * self.per_minute / 60)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) * 60 / self.per_minute
        self._tokens -= 1
        return 0.0


class Access:
    """ASGI middleware: answers 401 without a known ``Authorization: Bearer KEY``, and 429 above the key's rate.

    Sets ``request.state.key`` to the key's name. Each process counts the rate for itself.
    """

    def __init__(self, app: ASGIApp, keys: tuple[Key, ...], per_minute: int | None) -> None:
        self.app = app
        self.keys = keys
        self._buckets = {key.name: Bucket(per_minute) for key in keys} if per_minute else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Checks every request and websocket except those to :data:`PUBLIC` paths."""
        refusal = None if scope["type"] == "lifespan" or is_public(route_path(scope)) else self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(POLICY_VIOLATION, refusal.message)(scope, receive, send)
        else:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            await envelope(refusal, headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given:
            return ApiError(401, "send Authorization: Bearer KEY", param="Authorization", code="missing_api_key")
        digest = hashlib.sha256(given.strip().encode("latin-1")).hexdigest()
        # All keys are compared, in constant time: the duration must not reveal which key matched, or how much of it.
        known = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        if not known:
            return ApiError(401, "unknown API key; check the key", param="Authorization", code="invalid_api_key")
        scope.setdefault("state", {})["key"] = known[0].name
        wait = self._buckets[known[0].name].take(time.monotonic()) if self._buckets else 0.0
        if wait:
            rate = f"more than {self._buckets[known[0].name].per_minute} requests a minute with this key"
            return ApiError(429, f"{rate}; try again later", code="rate_limit_exceeded", retry_after_s=wait)
        return None
