"""The parts of the OpenAPI document that FastAPI cannot derive: upload bodies, answers, events, errors, keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve.guards.access import is_public
from serve.http.errors import CODES, TYPES
from serve.http.schemas import ErrorBody, GenerateResponse
from serve.pictures.provenance import MEDIA_TYPES

Responses = dict[int | str, dict[str, Any]]

MEANINGS = {
    400: "Malformed: not JSON, not UTF-8, not base64, not a picture, a field sent twice.",
    401: "The API key is missing or unknown; only where the service requires keys.",
    404: "No such route, or a model or version that is not served (`model_not_found`).",
    405: "The route exists, with another method.",
    406: "No media type in `Accept` is available.",
    408: "Not finished before the deadline, and the work was stopped; or the body did not arrive in time.",
    413: "The body is too large.",
    415: "Neither multipart/form-data nor application/json.",
    422: "A field is missing, unknown or out of range, or the mask has unknown colours; `param` names it.",
    429: "Too many generations are waiting, or too many requests with this key; retry after `Retry-After` seconds.",
    500: "A defect of the server.",
    503: "The model is not ready.",
}
REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "The request's id in logs and pictures: 1 to 128 letters, digits and `._:-`. If it is absent or "
    "invalid, a new one is made and returned.",
    "schema": {"type": "string"},
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "For one hour, a repeated request with the same key and body gets the stored answer, without new "
    "work; the same key with another body is a 422.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_REFERENCE = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_SEED_LIST = {"type": "string", "pattern": "^[0-9]{1,19}(,[0-9]{1,19}){0,7}$", "description": "Seeds of n images."}

PICTURE: Responses = {200: {"description": "The picture.", "content": {"image/png": _BINARY}}}


def generated_responses(
    events: Iterable[type[BaseModel]],
    description: str = "JSON; one picture if `Accept` names its type; events with `stream`.",
) -> Responses:
    """The successful responses of a route that generates.

    Args:
        events: models of its server-sent events.
        description: of the forms that an answer can have.
    """
    names = {model.model_fields["type"].default: {"$ref": _reference(model)} for model in events}
    event = {
        "type": "object",
        "description": "One event: `event: NAME`, `data: JSON`, an empty line; `x-events` has the JSON of each name. "
        "If there is no event, a comment (a line that begins with a colon) is sent at least every 10 seconds.",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": list(names)},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "x-events": names,
    }
    return {
        200: {
            "description": description,
            "model": GenerateResponse,
            "content": dict.fromkeys(MEDIA_TYPES.values(), _BINARY) | {"text/event-stream": {"schema": event}},
            "headers": {
                "X-Model-Version": {"description": "Model version that generated it.", "schema": {"type": "string"}},
                "X-Seed": {"description": "With a picture: its seed.", "schema": {"type": "integer"}},
                "X-Warnings": {"description": "With a picture: what was adjusted.", "schema": {"type": "string"}},
                "Idempotent-Replayed": {
                    "description": "`true` if the answer was stored.",
                    "schema": {"type": "string"},
                },
            },
        }
    }


def error_responses(*statuses: int) -> Responses:
    """FastAPI's ``responses`` for these statuses, each with an example of the envelope."""
    return {status: _error(status) for status in statuses}


def upload_body(model: type[BaseModel], file_field: str, description: str) -> dict[str, Any]:
    """``openapi_extra`` of a route that accepts the fields of ``model`` and a picture, as multipart or JSON."""

    def content(picture: dict[str, str], *, as_text: bool) -> dict[str, Any]:
        schema = model.model_json_schema()
        required = schema.get("required", [])
        fields = schema.get("properties", {})
        fields = {
            name: _in_form(field) if as_text else _in_json(field, name in required) for name, field in fields.items()
        }
        schema["properties"] = {file_field: {"type": "string", "description": description, **picture}} | fields
        schema["required"] = [file_field, *required]
        return {"schema": schema}

    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": content({"contentMediaType": "application/octet-stream"}, as_text=True),
                "application/json": content({"contentEncoding": "base64"}, as_text=False),
            },
        }
    }


def add_upload_route(
    app: FastAPI,
    path: str,
    handler: Callable[[Request], Awaitable[Response]],
    *,
    summary: str,
    body: dict[str, Any],
    answer: Responses,
    errors: tuple[int, ...],
) -> None:
    """Adds a POST route that reads its body itself, with bounds and strict types; ``body`` documents that body."""
    app.add_api_route(
        path,
        handler,
        methods=["POST"],
        operation_id=path.removeprefix("/v1/").replace("/", "_"),
        summary=summary,
        tags=[path.split("/")[2]],
        response_class=Response,
        responses=answer | error_responses(*errors),
        openapi_extra=body,
    )


def add_docs(app: FastAPI) -> None:
    """Adds ``/docs``. Its link to the document is relative, so it works behind any prefix of a proxy."""

    async def docs(_: Request) -> Response:
        return get_swagger_ui_html(openapi_url="openapi.json", title=f"{app.title} - Swagger UI")

    app.add_route("/docs", docs, include_in_schema=False)


def complete(app: FastAPI, events: Iterable[type[BaseModel]], *, keys: bool) -> None:
    """Completes the document with what belongs to no single route: events, common request headers, and the API key.

    Args:
        events: models that :func:`generated_responses` refers to.
        keys: whether the service requires API keys.
    """
    _, definitions = models_json_schema([(model, "serialization") for model in events], ref_template=_REFERENCE)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            made["servers"] = [{"url": "."}]  # OpenAPI resolves it relative to the document
            made["components"]["schemas"] |= definitions["$defs"]
            for path, operations in made["paths"].items():
                for method, operation in operations.items():
                    _complete_operation(operation, method, guarded=keys and not is_public(path))
            if keys:
                made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete_operation(operation: dict[str, Any], method: str, *, guarded: bool) -> None:
    headers = [REQUEST_ID, IDEMPOTENCY_KEY] if method == "post" else [REQUEST_ID]
    operation["parameters"] = operation.get("parameters", []) + headers
    if guarded:
        operation["security"] = [{"key": []}]


def _reference(model: type[BaseModel]) -> str:
    return _REFERENCE.format(model=model.__name__)


def _in_json(field: dict[str, Any], required: bool) -> dict[str, Any]:
    """A field's schema in JSON, where null means that the field is absent."""
    if required or any(one.get("type") == "null" for one in field.get("anyOf", [])):
        return field
    about = {key: field[key] for key in ("title", "description", "default", "examples") if key in field}
    return about | {"anyOf": [{key: value for key, value in field.items() if key not in about}, {"type": "null"}]}


def _in_form(field: dict[str, Any]) -> dict[str, Any]:
    """A field's schema in a form, which has no null (the field is left out) and no arrays (text with commas)."""
    if "anyOf" not in field:
        return field
    field = deepcopy(field)
    branches = [_SEED_LIST if one.get("type") == "array" else one for one in field.pop("anyOf")]
    branches = [one for one in branches if one.get("type") != "null"]
    field.pop("default", None)
    return field | (branches[0] if len(branches) == 1 else {"anyOf": branches})


def _error(status: int) -> dict[str, Any]:
    example = {"message": MEANINGS[status], "type": TYPES[status], "param": None, "code": CODES[status]}
    response: dict[str, Any] = {
        "model": ErrorBody,
        "description": MEANINGS[status],
        "content": {"application/json": {"example": {"error": example}}},
    }
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return response
