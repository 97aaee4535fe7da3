"""Content negotiation: whether a client gets JSON, one picture or server-sent events (§9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from serve.http.errors import ApiError
from serve.http.requests import GenerateRequest, PictureFormat
from serve.pictures.provenance import MEDIA_TYPES

# Java's HttpURLConnection writes * for */*.
_JSON = ("application/json", "application/*", "*/*", "*")
_EVENTS = ("text/event-stream", "text/*")


@dataclass(frozen=True)
class Reply:
    """The form of an answer, and what to add to it.

    Attributes:
        body: JSON, one picture file or server-sent events.
        picture: file format of the pictures.
        quality: of webp and jpeg, 0 to 100.
        warnings: about the request.
        watermark: the model's name, to be embedded in the pictures; None if they are not watermarked.
    """

    body: Literal["json", "picture", "events"]
    picture: PictureFormat
    quality: int | None
    warnings: tuple[str, ...] = ()
    watermark: str | None = None


def negotiate(request: Request, sent: GenerateRequest, *, prefer_json: bool = False) -> Reply:
    """The form of answer that ``Accept``, ``stream`` and ``output_format`` together ask for.

    Args:
        prefer_json: answer a picture only to clients that do not accept JSON. OpenAI's clients expect JSON, and some
            HTTP libraries list pictures first in their default ``Accept``.

    Raises:
        ApiError: 406 if the client accepts none of the forms, 400 if the three contradict each other.
    """
    accepted = _accepted(request)
    if prefer_json:
        accepted.sort(key=lambda kind: kind not in _JSON)
    body, picture = _choose(accepted, sent)
    if body == "picture" and sent.n != 1:
        raise ApiError(400, f"Accept: {MEDIA_TYPES[picture]} gives one image; accept JSON or send n = 1", param="n")
    return Reply(body, picture, None if picture == "png" else sent.output_compression)


def _choose(accepted: list[str], sent: GenerateRequest) -> tuple[Literal["json", "picture", "events"], PictureFormat]:
    pictures = {media: name for name, media in MEDIA_TYPES.items()}
    for kind in accepted:
        if sent.stream:
            if kind in _JSON + _EVENTS:
                return "events", sent.output_format
        elif kind in _JSON:
            return "json", sent.output_format
        elif kind == "image/*":
            return "picture", sent.output_format
        elif kind in pictures:
            if "output_format" in sent.model_fields_set and sent.output_format != pictures[kind]:
                message = f"Accept asks for {kind} but output_format is {sent.output_format}; send one of them"
                raise ApiError(400, message, param="output_format")
            return "picture", pictures[kind]
    offered = ", ".join(_EVENTS[:1] if sent.stream else ("application/json", *MEDIA_TYPES.values()))
    raise ApiError(406, f"no accepted media type is available; accept one of {offered}", param="Accept")


def _accepted(request: Request) -> list[str]:
    """The media types of ``Accept``, highest weight first; ``*/*`` if the header is absent or empty."""
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
