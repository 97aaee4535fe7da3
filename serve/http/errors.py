"""Errors of the service, and the one JSON envelope in which every failure is answered (§9)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from mmface.errors import InputError, MMFaceError, RegistryError, ServiceError
from serve.http.routing import route_path
from serve.http.schemas import ErrorBody, ErrorDetail

MAX_NAME = 64  # characters of a client's field name that an error repeats

# OpenAI's types and codes, so that its clients raise the matching exception class.
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    406: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_value",
    429: "overloaded",
    500: "internal_error",
    503: "unavailable",
}


class ApiError(Exception):
    """An error that is answered with an HTTP status.

    Args:
        status: HTTP status, one of :data:`TYPES`.
        message: one line that says what is wrong and what to do.
        param: the request field at fault.
        code: stable identifier for programs; by default the one of the status.
        retry_after_s: seconds after which a retry may succeed (sent as ``Retry-After``).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code or CODES[status]
        self.retry_after_s = retry_after_s


class OverloadedError(MMFaceError):
    """The replica's queue is full; ``retry_after_s`` is an estimate of when it has room again."""

    code = "overloaded"

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message,), {"field": self.field, "retry_after_s": self.retry_after_s})


class UnknownModelError(MMFaceError):
    """The request names a model or a version that is not served."""

    code = "model_not_found"


class GenerationError(MMFaceError):
    """A denoising step failed through no fault of the request; the replica's log has the traceback."""

    code = "generation_failed"


class MemoryShortageError(ServiceError):
    """A request ran out of memory."""

    code = "out_of_memory"


def envelope(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that carries ``error``."""
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.code == CODES[408]:
        # OpenAI's clients retry a 408 automatically, and a request that took too long would do so again.
        headers["X-Should-Retry"] = "false"
    return JSONResponse(error_body(error).model_dump(), status_code=error.status, headers=headers)


def error_body(error: ApiError) -> ErrorBody:
    """The JSON of ``error`` in a response or an event."""
    detail = ErrorDetail(message=error.message, type=TYPES[error.status], param=error.param, code=error.code)
    return ErrorBody(error=detail)


def from_validation(error: RequestValidationError | ValidationError) -> ApiError:
    """The first of pydantic's errors as a 422. Never repeats the value, which may be a prompt."""
    first = error.errors()[0]
    # For a union, pydantic appends the branch to the field; the caller knows only the field.
    names = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown field; see /docs for the fields that exist"
    return ApiError(422, message, param=names[0][:MAX_NAME] if names else None)


def from_mmface(error: MMFaceError) -> ApiError:
    """The answer to an error of the package, with the status that fits it."""
    if isinstance(error, OverloadedError):
        return ApiError(429, error.message, retry_after_s=error.retry_after_s)
    if isinstance(error, UnknownModelError):
        return ApiError(404, error.message, param=error.field, code=error.code)
    if isinstance(error, InputError):
        return ApiError(422, error.message, param=error.field, code=error.code)
    if isinstance(error, RegistryError | ServiceError):
        return ApiError(503, error.message, param=error.field, code=error.code, retry_after_s=5)
    return ApiError(500, error.message, param=error.field, code=error.code)


def install_handlers(app: FastAPI) -> None:
    """Answers every error of ``app`` with the envelope: ours, FastAPI's, the router's and unexpected ones."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            path = quote(route_path(request.scope)[:200])
            where = f"{error.detail}: {request.method} {path}; see /docs for the routes"
            status = error.status_code if error.status_code in TYPES else 400
            return envelope(ApiError(status, where), error.headers)
        return envelope(to_api_error(error))

    for kind in (ApiError, MMFaceError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def to_api_error(error: Exception) -> ApiError:
    """The answer to an exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MMFaceError):
        return from_mmface(error)
    if isinstance(error, RequestValidationError):
        return from_validation(error)
    # Starlette raises the exception again after this answer, so the server's log has the traceback. A pydantic
    # ValidationError that gets here is a defect too: those of the client's fields became a 422 in uploads.py.
    return ApiError(500, f"internal error ({type(error).__name__}); the server's log has the request id")
