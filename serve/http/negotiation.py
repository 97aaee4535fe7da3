"""In which form a client wants its answer: JSON, one picture, or events (§9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from serve.http.errors import ApiError
from serve.http.requests import GenerateFields, PictureFormat
from serve.pictures.provenance import MEDIA_TYPES

# Java's HttpURLConnection writes * for */*.
_JSON = ("application/json", "application/*", "*/*", "*")
_EVENTS = ("text/event-stream", "text/*")


@dataclass(frozen=True)
class Reply:
    """``body`` of the answer, and the ``picture`` format in it."""

    body: Literal["json", "picture", "events"]
    picture: PictureFormat
    quality: int | None


def negotiate(request: Request, fields: GenerateFields, *, prefer_json: bool = False) -> Reply:
    """The form that ``Accept``, ``stream`` and ``output_format`` ask for together.

    Args:
        prefer_json: a picture is answered only to clients that do not accept JSON. OpenAI's clients expect JSON, and
            some HTTP libraries accept pictures first where nobody asked them to.

    Raises:
        ApiError: 406 the client takes none of them, 400 they contradict each other.
    """
    accepted = _accepted(request)
    if prefer_json:
        accepted.sort(key=lambda kind: kind not in _JSON)
    body, picture = _choose(accepted, fields)
    if body == "picture" and fields.n != 1:
        raise ApiError(400, f"Accept: {MEDIA_TYPES[picture]} gives one image; accept JSON or send n = 1", param="n")
    return Reply(body, picture, None if picture == "png" else fields.output_compression)


def _choose(accepted: list[str], fields: GenerateFields) -> tuple[Literal["json", "picture", "events"], PictureFormat]:
    pictures = {media: name for name, media in MEDIA_TYPES.items()}
    for kind in accepted:
        if fields.stream:
            if kind in _JSON + _EVENTS:
                return "events", fields.output_format
        elif kind in _JSON:
            return "json", fields.output_format
        elif kind == "image/*":
            return "picture", fields.output_format
        elif kind in pictures:
            if "output_format" in fields.model_fields_set and fields.output_format != pictures[kind]:
                raise ApiError(400, f"Accept asks for {kind}; leave one of them out", param="output_format")
            return "picture", pictures[kind]
    offered = ", ".join(_EVENTS[:1] if fields.stream else ("application/json", *MEDIA_TYPES.values()))
    raise ApiError(406, f"only {offered} can be had", param="Accept")


def _accepted(request: Request) -> list[str]:
    """The media types of ``Accept``, the most wanted first; without the header, or with an empty one, any."""
    offers = []
    parts = ",".join(request.headers.getlist("accept")).lower().split(",")
    for part in [part for part in parts if part.strip()] or ["*/*"]:
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            offers.append((float(quality), kind))
        except ValueError:
            raise ApiError(400, f"malformed weight {quality[:20]!r}", param="Accept") from None
    return [kind for weight, kind in sorted(offers, key=lambda offer: -offer[0]) if weight > 0]
