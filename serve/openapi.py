"""What ``/docs`` says beyond what FastAPI sees: bodies in two content types, examples and the error table."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from serve.errors import CODES, TYPES
from serve.schemas import ErrorBody, GenerateResponse

MEANINGS = {
    400: "Malformed: not JSON, not UTF-8, not base64, not a picture.",
    404: "No such route.",
    405: "The route exists, with another method.",
    406: "`Accept` names neither application/json nor image/png.",
    408: "Not finished before the deadline; the work was stopped.",
    413: "The body is too large.",
    415: "Neither multipart/form-data nor application/json.",
    422: "A field is missing or out of range, or the mask has unknown colours; `param` names it.",
    429: "Too many generations are waiting; `Retry-After` says when to come back.",
    500: "A defect of the server.",
    503: "The model is not ready.",
}

PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
GENERATED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or one PNG with `Accept: image/png`.",
        "model": GenerateResponse,
        "content": PICTURE[200]["content"],
        "headers": {
            "X-Model-Version": {"description": "Version that made it.", "schema": {"type": "string"}},
            "X-Seed": {"description": "With a PNG: its seed.", "schema": {"type": "integer"}},
            "X-Warnings": {"description": "With a PNG: what was adjusted.", "schema": {"type": "string"}},
        },
    }
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses`` for these statuses, each with an example of the envelope."""
    return {status: _error(status) for status in statuses}


def upload_body(model: type[BaseModel], file_field: str, description: str) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes ``model`` and a picture as multipart or JSON."""

    def content(picture: dict[str, str]) -> dict[str, Any]:
        schema = model.model_json_schema()
        properties = {file_field: {"type": "string", "description": description, **picture}}
        schema["properties"] = properties | schema.get("properties", {})
        schema["required"] = [file_field, *schema.get("required", [])]
        return {"schema": schema}

    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": content({"format": "binary"}),
                "application/json": content({"contentEncoding": "base64"}),
            },
        }
    }


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
