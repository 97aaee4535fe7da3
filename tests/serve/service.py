"""Helpers: a recipe for a tiny service, a real server for it, and drawings and bodies to send."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import uvicorn
from PIL import Image, ImageDraw
from starlette.types import ASGIApp

from mmface.config import Recipe
from mmface.config.load import parse_recipe
from mmface.imaging.labels import mask_to_png


def tiny_recipe(components: dict[str, str] | None = None, **serve: Any) -> Recipe:
    """A recipe with resolutions 32 and 64 and three sampling steps; ``serve`` overrides its limits."""
    phases = [{"resolution": 32, "steps": 1}, {"resolution": 64, "steps": 1}]
    sampling = {"num_inference_steps": 3, "guidance_scale": 2.0}
    limits = {"max_steps": 1000, "max_queued": 2, "max_upload_bytes": 200_000, "max_condition_megapixels": 1.0}
    tree = {"name": "tiny", "phases": phases, "sampling": sampling, "serve": limits | serve}
    return parse_recipe(tree | {"components": components or {}})


def mask_png(side: int = 64) -> bytes:
    """A label-index mask with a head on cloth."""
    labels = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(labels)
    draw.rectangle((0, side * 3 // 4, side, side), fill=18)
    draw.ellipse((side // 4, side // 8, side * 3 // 4, side * 7 // 8), fill=1)
    return mask_to_png(np.asarray(labels))


def sketch_png(side: int = 64) -> bytes:
    """Dark lines on white."""
    sketch = Image.new("L", (side, side), 255)
    ImageDraw.Draw(sketch).ellipse((side // 4, side // 8, side * 3 // 4, side * 7 // 8), outline=0)
    return png(sketch)


def png(image: Image.Image) -> bytes:
    """``image`` as a PNG file."""
    sink = BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A PNG file's pixels."""
    return np.asarray(Image.open(BytesIO(data)))


@contextmanager
def listening(app: ASGIApp, root_path: str = "") -> Iterator[str]:
    """Runs a real HTTP server on loopback that serves ``app``; its URL.

    Args:
        root_path: prefix that a proxy removes; the server adds it to ``scope["path"]`` again.
    """
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", root_path=root_path)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join(10)


def part(name: str, content: bytes | str, filename: str | None = None) -> bytes:
    """A part of a multipart body whose boundary is ``x``."""
    what = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    data = content.encode() if isinstance(content, str) else content
    return f"--x\r\nContent-Disposition: {what}\r\n\r\n".encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    """The multipart body of these parts."""
    return b"".join(parts) + b"--x--\r\n"
