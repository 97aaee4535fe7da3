"""Request bodies: multipart or JSON, read into the same two things."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from serve.errors import MAX_NAME, ApiError, from_validation
from serve.fields import Fields

MAX_PARTS = 32

Known = TypeVar("Known", bound=Fields)


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

    def texts(self) -> dict[str, str]:
        """The text fields; 400 if one is not UTF-8."""
        return {name: decode_text(value, name) for name, value in self.values.items()}

    def only_file(self, names: tuple[str, ...]) -> bytes | None:
        """The file of one of these names; 422 if there is any other."""
        written = next((name for name in self.values if name in names), None)
        if written is not None:
            raise ApiError(422, "send it as a file part, with a filename", param=written)
        given = [name for name in self.files if name in names]
        if len(given) > 1:
            raise ApiError(422, "one picture is painted from; send one", param=given[1])
        unknown = next((name for name in self.files if name not in names), None)
        if unknown is not None:
            raise ApiError(422, "unknown file; see /docs for the fields that exist", param=unknown[:MAX_NAME])
        return self.files[given[0]] if given else None

    def _add(self, parts: dict[str, bytes], name: bytes | None, value: bytes) -> None:
        key = decode_text(name or b"", "field name")
        if key in self.values or key in self.files:
            raise ApiError(400, "the field was sent twice", param=key[:MAX_NAME])
        if len(self.values) + len(self.files) == MAX_PARTS:
            raise ApiError(400, f"more than {MAX_PARTS} fields")
        parts[key] = value


async def read_upload(
    request: Request, model: type[Known], file_field: str, *, other_name: str | None = None
) -> tuple[Known, bytes]:
    """The fields of a request and the bytes of its picture.

    Args:
        model: the text fields.
        file_field: name of the picture: a file in multipart, a base64 string (or data URL) in JSON.
        other_name: another name that the file may have in multipart.

    Raises:
        ApiError: 400 malformed, 413 too large, 415 neither multipart nor JSON, 422 a field is wrong or missing.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind not in (b"multipart/form-data", b"application/json"):
        raise ApiError(415, "send multipart/form-data or application/json", param="Content-Type")
    body = await request.body()
    values: dict[str, Any]
    if kind == b"application/json":
        values, picture = _json(body, file_field)
    else:
        form = _multipart(body, options.get(b"boundary", b""))
        picture = form.only_file((file_field, other_name or file_field))
        values = form.texts()
    try:
        # JSON has types, so a string is no number there; multipart has text only.
        strict = kind == b"application/json"
        fields = model.model_validate(values, strict=strict, context="json" if strict else "text")
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


def _multipart(body: bytes, boundary: bytes) -> _Form:
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
    return form


def _json(body: bytes, file_field: str) -> tuple[dict[str, Any], bytes | None]:
    try:
        tree = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ApiError(400, "the field was sent twice", param=_spelled(twice)[:MAX_NAME])
    return {_spelled(name): value for name, value in pairs}


def _spelled(name: str) -> str:
    """``name`` if UTF-8 can carry it: half a surrogate pair could not go into an answer that names the field."""
    name.encode("utf-8")
    return name


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
