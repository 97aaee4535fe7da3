"""Hooks for Schemathesis: put a real image into most requests, because random text is never a valid image."""

from __future__ import annotations

import base64

import schemathesis

from tests.serve.service import mask_png, sketch_png

PICTURES = (mask_png(), sketch_png(), mask_png(32), sketch_png()[:200])
FIELDS = ("condition", "image")


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """Replaces random text by an image, as a file or as base64."""
    for name in FIELDS:
        given = case.body.get(name) if isinstance(case.body, dict) else None
        if isinstance(given, str) and len(given) % 5:
            picture = PICTURES[len(given) % len(PICTURES)]
            form = case.media_type == "multipart/form-data"
            case.body = case.body | {name: picture if form else base64.b64encode(picture).decode()}
    return case
