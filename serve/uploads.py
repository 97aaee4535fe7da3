"""Request bodies: bounded before they are parsed, then read from multipart or JSON into the same two things."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError, envelope, from_validation

MAX_PARTS = 32

Fields = TypeVar("Fields", bound=BaseModel)


class BoundedUploads:
    """ASGI middleware: a body above ``max_bytes`` is refused, by its Content-Length or while it streams in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what ``receive`` hands out; the reader of the body meets the error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit():
            await envelope(ApiError(400, "Content-Length is not a number"))(scope, receive, send)
            return
        if int(length) > self.max_bytes:
            await envelope(self._refusal())(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._refusal()
            return message

        await self.app(scope, bounded, send)

    def _refusal(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.max_bytes} bytes; send a smaller picture")


@dataclass
class _Form:
    """What a multipart body holds: text fields, files, and their names in order."""

    values: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    complete: bool = False

    def on_field(self, part: Field) -> None:
        self._add(self.values, part.field_name, part.value or b"")

    def on_file(self, part: File) -> None:
        part.file_object.seek(0)
        self._add(self.files, part.field_name, part.file_object.read())
        part.close()

    def on_end(self) -> None:
        self.complete = True

    def _add(self, parts: dict[str, bytes], name: bytes | None, value: bytes) -> None:
        key = decode_text(name or b"", "field name")
        if key in self.values or key in self.files:
            raise ApiError(400, "the field was sent twice", param=key)
        if len(self.values) + len(self.files) == MAX_PARTS:
            raise ApiError(400, f"more than {MAX_PARTS} fields")
        parts[key] = value


async def read_upload(request: Request, model: type[Fields], file_field: str) -> tuple[Fields, bytes]:
    """The fields of a request and the bytes of its picture.

    Args:
        model: pydantic model of the text fields.
        file_field: name of the picture: a file in multipart, a base64 string (or data URL) in JSON.

    Raises:
        ApiError: 400 malformed, 413 too large, 415 neither multipart nor JSON, 422 a field is wrong or missing.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    body = await request.body()
    if kind == b"multipart/form-data":
        values, picture = _multipart(body, options.get(b"boundary", b""), file_field)
    elif kind == b"application/json":
        values, picture = _json(body, file_field)
    else:
        raise ApiError(415, "send multipart/form-data or application/json", param="Content-Type")
    try:
        # JSON has types, so a string is no number there; multipart has text only.
        fields = model.model_validate(values, strict=kind == b"application/json")
    except ValidationError as error:
        raise from_validation(error) from None
    if picture is None:
        raise ApiError(422, "Field required", param=file_field)
    return fields, picture


def decode_text(value: bytes, name: str) -> str:
    """UTF-8 or a 400 that names the field."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, "not valid UTF-8; encode text as UTF-8", param=name) from None


def _multipart(body: bytes, boundary: bytes, file_field: str) -> tuple[dict[str, Any], bytes | None]:
    form = _Form()
    # The body is in memory and bounded already: files must not go through the disk.
    memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "UPLOAD_ERROR_ON_BAD_CTE": True}
    try:
        parser = FormParser(
            "multipart/form-data", form.on_field, form.on_file, form.on_end, boundary=boundary, config=memory
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, binascii.Error) as error:
        raise ApiError(400, f"malformed multipart body: {error}") from None
    if not form.complete:
        raise ApiError(400, "malformed multipart body: its closing boundary is missing")
    values = {name: decode_text(value, name) for name, value in form.values.items() if name != file_field}
    if file_field in form.values:
        raise ApiError(422, "send it as a file part, with a filename", param=file_field)
    picture = form.files.pop(file_field, None)
    if form.files:
        raise ApiError(422, "unknown file; see /docs for the fields that exist", param=next(iter(form.files)))
    return values, picture


def _json(body: bytes, file_field: str) -> tuple[dict[str, Any], bytes | None]:
    try:
        tree = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"malformed JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ApiError(400, "the JSON body must be an object")
    encoded = tree.pop(file_field, None)
    if encoded is None:
        return tree, None
    if not isinstance(encoded, str):
        raise ApiError(422, "must be a base64 string", param=file_field)
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        return tree, base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "not valid base64", param=file_field) from None
