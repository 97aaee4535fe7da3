"""The routes of the playground at ``/``: the page, its files, the list of labels, and example masks (§9)."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from mmface.imaging.labels import LABELS, PALETTE, mask_to_png
from serve.http.errors import ApiError

FOLDER = Path(__file__).parent
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
# Labels as people call them; the names of §6 are the data set's abbreviations. Left and right are as in the image.
TITLES = (
    "Background", "Skin", "Nose", "Glasses", "Left eye", "Right eye", "Left brow", "Right brow", "Left ear",
    "Right ear", "Mouth", "Upper lip", "Lower lip", "Hair", "Hat", "Earring", "Necklace", "Neck", "Clothing",
)  # fmt: skip
EXAMPLES = 100  # few enough to cache all, so that requests cannot make the service draw without limit
EXAMPLE_SIDE = 512
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Browsers revalidate each file (304), so that a page never mixes modules of two releases.
    "Cache-Control": "no-cache",
}


def add_playground(app: FastAPI) -> None:
    """Adds ``/``, ``/playground/example.png`` and ``/playground/{file}``.

    They need no API key: they reveal nothing about the model, and the page asks the user for the key of ``/v1``.
    """
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
    files["labels.json"] = _labels()

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _answer(request, "index.html", files["index.html"])

    @app.get("/playground/example.png", include_in_schema=False)
    def example(request: Request, number: Annotated[int, Query(ge=0, lt=EXAMPLES)] = 0) -> Response:
        mask, prompt = _example(number)
        return _answer(request, "example.png", mask, {"X-Prompt": prompt})

    @app.get("/playground/{file}", include_in_schema=False)
    async def file(request: Request, file: str) -> Response:
        if file not in files:
            raise ApiError(404, "the playground has no such file; open it at /")
        return _answer(request, file, files[file])


def _answer(request: Request, name: str, content: bytes, extra: dict[str, str] | None = None) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = HEADERS | {"ETag": tag} | (extra or {})
    if tag in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)


def _labels() -> bytes:
    """The labels as JSON, in the order of their indices."""
    labels = [
        {"name": name, "title": title, "colour": colour}
        for name, title, colour in zip(LABELS, TITLES, PALETTE.tolist(), strict=True)
    ]
    return json.dumps(labels).encode()


@lru_cache(maxsize=EXAMPLES)
def _example(number: int) -> tuple[bytes, str]:
    """The mask of a drawn portrait, as a palette PNG, and its caption."""
    from mmface.data.portraits import draw

    portrait = draw(number, EXAMPLE_SIDE)
    return mask_to_png(portrait.mask), portrait.captions[0]
