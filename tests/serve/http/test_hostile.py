"""Truncated, corrupted, huge and disguised files: each gets a picture or an error of ours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from starlette.testclient import TestClient

from tests.serve.service import mask_png, png, sketch_png

ROUTES = ("/v1/generate/mask", "/v1/generate/sketch", "/v1/images/edits", "/v1/conditions/sketch")
ALLOWED = {200, 400, 413, 422}


def picture(kind: str, side: int = 64, **options: object) -> bytes:
    sink = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(sink, kind, **options)
    return sink.getvalue()


def chunk(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def raw_png(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"", *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def hostile() -> Iterator[tuple[str, bytes]]:
    whole = {"png": mask_png(), "jpeg": picture("JPEG"), "webp": picture("WEBP"), "sketch": sketch_png()}
    for name, data in whole.items():
        for cut in np.linspace(0, len(data) - 1, 14).astype(int):
            yield f"{name} cut at {cut}", data[:cut]
        random = np.random.default_rng(1)
        for number in range(24):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 1 + number % 5):
                damaged[place] ^= int(random.integers(1, 256))
            yield f"{name} damaged {number}", bytes(damaged)
        yield f"{name} with a zip behind it", data + b"PK\x03\x04" + b"\0" * 100
        yield f"{name} behind a page", b"<html><script>alert(1)</script>" + data
    for width, height in ((0, 0), (0, 9), (2**31 - 1, 2**31 - 1), (60_000, 60_000), (100_000, 1), (1, 100_000)):
        for colour in (0, 2, 3, 6):
            yield f"png of {width}x{height}, colour {colour}", raw_png(width, height, colour=colour)
    for depth, colour in ((3, 0), (16, 3), (8, 5), (255, 255)):
        yield f"png of depth {depth}, colour {colour}", raw_png(8, 8, depth, colour, b"\0" * 72)
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 5_000_000))
    yield "text that inflates", raw_png(8, 8, 8, 0, (b"\0" + b"\x01" * 8) * 8, bomb)
    yield "pixels that inflate", raw_png(8, 8, 8, 0, b"\0" * 20_000_000)
    yield "a wrong checksum", raw_png(8, 8, 8, 0, b"\0" * 72, chunk(b"tEXt", b"a\0b", 7))
    yield "a chunk that is longer than the file", raw_png(8, 8)[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT"
    yield "a palette of nothing", raw_png(8, 8, 8, 3, (b"\0" + b"\x20" * 8) * 8, chunk(b"PLTE", b""))
    for profile in (b"", b"\0" * 128, b"x" * 5000, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        for kind in ("PNG", "JPEG", "WEBP"):
            yield f"{kind} with a profile of {len(profile)}", picture(kind, icc_profile=profile or b"\0")
    for tag in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = tag
        for kind in ("PNG", "JPEG", "WEBP"):
            yield f"{kind} turned {tag}", picture(kind, exif=exif)
    yield "exif that is none", picture("JPEG", exif=b"Exif\0\0" + b"\xff" * 200)
    for kind in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PDF"):
        yield f"a {kind}", picture(kind)
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    for kind in ("PNG", "WEBP", "GIF"):
        sink = BytesIO()
        frames[0].save(sink, kind, save_all=True, append_images=frames[1:])
        yield f"{kind} of two frames", sink.getvalue()
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield f"png of mode {mode}", png(Image.new(mode, (40, 24)))
    yield "jpeg in CMYK", jpeg_cmyk()
    for name, data in (("nothing", b""), ("a zero", b"\0"), ("a page", b"<html></html>"), ("svg", b"<svg/>")):
        yield name, data
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 100_000)
    sink = BytesIO()
    Image.new("L", (32, 32)).save(sink, "PNG", pnginfo=info)
    yield "much text", sink.getvalue()
    yield "one pixel", png(Image.new("L", (1, 1)))
    yield "a line", png(Image.new("L", (1000, 1), 255))


def jpeg_cmyk() -> bytes:
    sink = BytesIO()
    Image.new("CMYK", (32, 32), (9, 99, 0, 30)).save(sink, "JPEG")
    return sink.getvalue()


FILES = list(hostile())


def test_there_are_at_least_200_hostile_files() -> None:
    assert len(FILES) >= 200
    assert len({data for _, data in FILES}) > 190


@pytest.mark.parametrize("route", ROUTES)
def test_every_hostile_file_is_answered_or_refused(client: TestClient, route: str) -> None:
    name = "image" if route in ("/v1/images/edits", "/v1/conditions/sketch") else "condition"
    fields = {} if "conditions" in route else {"prompt": "a face", "num_inference_steps": "1", "size": "32"}
    for what, data in FILES:
        answer = client.post(route, files={name: ("d.png", data)}, data=fields)
        assert answer.status_code in ALLOWED, (what, answer.status_code, answer.text)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, what
            assert error["message"], what
            assert len(error["message"]) < 400, what
