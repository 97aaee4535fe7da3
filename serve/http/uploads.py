"""Request bodies: multipart or JSON, both read into the request's fields and the bytes of its picture."""

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

from serve.http.errors import MAX_NAME, ApiError, from_validation
from serve.http.requests import UploadRequest

MAX_PARTS = 32
ONE_PICTURE = "only one picture is used; send one"
SEEDS = "seed[]"  # OpenAI's clients send a list as one form part per item, with this name
MAX_EXACT = 2**53  # largest number up to which a float is an exact integer

Sent = TypeVar("Sent", bound=UploadRequest)


@dataclass
class _Form:
    """The text fields and files of a multipart body, by name, in order."""

    values: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    complete: bool = False
    parts: int = 0

    def on_field(self, part: Field) -> None:
        self._add(self.values, part.field_name, part.value or b"")

    def on_file(self, part: File) -> None:
        part.file_object.seek(0)
        self._add(self.files, part.field_name, part.file_object.read())
        part.close()

    def on_end(self) -> None:
        self.complete = True

    def texts(self, model: type[UploadRequest]) -> dict[str, str]:
        """The text fields; 400 if one is not UTF-8.

        An empty optional field counts as absent, because browsers send every input of a form.
        """
        if SEEDS in self.values:
            self._add(self.values, b"seed", self.values.pop(SEEDS))
        optional = {name for name, field in model.model_fields.items() if not field.is_required()}
        sent = {name: value for name, value in self.values.items() if value or name not in optional}
        return {name: decode_text(value, name) for name, value in sent.items()}

    def only_file(self, names: tuple[str, ...]) -> bytes | None:
        """The file under one of these names; 422 if there is a file under any other name."""
        written = next((name for name in self.values if name in names), None)
        if written is not None:
            raise ApiError(422, "send the picture as a file part, with a filename", param=written)
        given = [name for name in self.files if name in names]
        if len(given) > 1:
            raise ApiError(422, ONE_PICTURE, param=given[1])
        unknown = next((name for name in self.files if name not in names), None)
        if unknown is not None:
            raise ApiError(422, "unknown file; see /docs for the fields that exist", param=unknown[:MAX_NAME])
        return self.files[given[0]] if given else None

    def _add(self, parts: dict[str, bytes], name: bytes | None, value: bytes) -> None:
        key = decode_text(name or b"", "field name")
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise ApiError(400, f"more than {MAX_PARTS} fields")
        if key == SEEDS and key in self.values:
            value = self.values[key] + b"," + value
        elif key in self.files and key.endswith("[]"):
            raise ApiError(422, ONE_PICTURE, param=key[:MAX_NAME])
        elif key in self.values or key in self.files:
            raise ApiError(400, "the field was sent twice", param=key[:MAX_NAME])
        parts[key] = value


async def read_upload(
    request: Request, model: type[Sent], file_field: str, *, other_names: tuple[str, ...] = ()
) -> tuple[Sent, bytes]:
    """The fields of a request and the bytes of its picture.

    Args:
        model: the class of the fields.
        file_field: name of the picture: a file in multipart, a base64 string (or data URL) in JSON.
        other_names: further names that clients may use for the picture.

    Raises:
        ApiError: 400 malformed, 413 too large, 415 neither multipart nor JSON, 422 a field is wrong or missing.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind not in (b"multipart/form-data", b"application/json"):
        raise ApiError(415, "send multipart/form-data or application/json", param="Content-Type")
    body = await request.body()
    names = (file_field, *other_names)
    values: dict[str, Any]
    if kind == b"application/json":
        values = _json(body)
        picture = _only_picture(values, names)
    else:
        form = _multipart(body, options.get(b"boundary", b""))
        picture = form.only_file(names)
        values = form.texts(model)
    try:
        # JSON has types, so a string is not accepted as a number; multipart has only text.
        strict = kind == b"application/json"
        sent = model.model_validate(values, strict=strict, context="json" if strict else "text")
    except ValidationError as error:
        raise from_validation(error) from None
    if picture is None:
        raise ApiError(422, "Field required", param=file_field)
    return sent, picture


def decode_text(value: bytes, name: str) -> str:
    """Decodes UTF-8; raises a 400 that names the field if it is not."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, "not valid UTF-8; encode text as UTF-8", param=name) from None


def _multipart(body: bytes, boundary: bytes) -> _Form:
    form = _Form()
    # The body is in memory already, and bounded, so files need not be spooled to disk.
    memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "UPLOAD_ERROR_ON_BAD_CTE": True}
    try:
        parser = FormParser(
            "multipart/form-data", form.on_field, form.on_file, form.on_end, boundary=boundary, config=memory
        )
        parser.write(_from_first_boundary(body, boundary))
        parser.finalize()
    except (FormParserError, binascii.Error) as error:
        raise ApiError(400, f"malformed multipart body: {error}") from None
    if not form.complete:
        raise ApiError(400, "malformed multipart body: its closing boundary is missing")
    return form


def _from_first_boundary(body: bytes, boundary: bytes) -> bytes:
    """``body`` without the preamble that RFC 2046 (5.1.1) allows before the first boundary."""
    delimiter = b"--" + boundary
    _, found, rest = body.partition(b"\r\n" + delimiter)
    return body if body.startswith(delimiter) or not found else delimiter + rest


def _json(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode("utf-8-sig")
        tree = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"malformed JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ApiError(400, "the JSON body must be an object")
    return tree


def _only_picture(tree: dict[str, Any], names: tuple[str, ...]) -> bytes | None:
    """Removes the picture from a JSON body and decodes it: base64, or OpenAI's ``[{"image_url": …}]``."""
    given = [(name, tree.pop(name)) for name in names if name in tree]
    if not given:
        return None
    if len(given) > 1:
        raise ApiError(422, ONE_PICTURE, param=given[1][0])
    [(name, picture)] = given
    if isinstance(picture, list):
        if len(picture) != 1:
            raise ApiError(422, ONE_PICTURE, param=name)
        [picture] = picture
    if isinstance(picture, dict) and set(picture) == {"image_url"}:
        picture = picture["image_url"]
    if not isinstance(picture, str):
        raise ApiError(422, "must be a base64 string", param=name)
    if picture.startswith(("http:", "https:")):
        raise ApiError(422, "URLs are not fetched; send the picture itself in base64", param=name)
    encoded = picture.partition(",")[2] if picture.startswith("data:") else picture
    try:
        # Many tools break base64 into lines, so white space is removed.
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "not valid base64", param=name) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a JSON object; a field that is null counts as absent."""
    if len(pairs) > MAX_PARTS:
        raise ApiError(400, f"more than {MAX_PARTS} fields")
    tree: dict[str, Any] = {}
    for name, value in pairs:
        if _encodable(name) in tree:
            raise ApiError(400, "the field was sent twice", param=name[:MAX_NAME])
        tree[name] = value
    return {name: value for name, value in tree.items() if value is not None}


def _encodable(name: str) -> str:
    """``name``, if it can be encoded in UTF-8 (a lone surrogate cannot): the answer may have to name the field."""
    name.encode("utf-8")
    return name


def _number(text: str) -> float:
    """A JSON number with a point or an exponent; ``1.0`` is read as the integer 1, because many clients write it so."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= MAX_EXACT else number


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")
