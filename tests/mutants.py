"""Mutated image files, the same for the same seed: damaged or unusual, as cameras, programs and networks make them.

A file is split into its segments (JPEG) or chunks (PNG, WebP), and one of them is changed. Most mutants get correct
lengths and checksums, so that decoders read the changed segment.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

Segment = tuple[bytes, bytes]  # name, body

SIZE = (40, 32)
PNG = b"\x89PNG\r\n\x1a\n"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
BODIES = (
    b"",
    b"\0",
    b"\xff" * 40,
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    ICC,
    b"x" * 70_000,
    XMP,
    b"MPF\0II*\0\x08\0\0\0\1\0",
)


def mutants(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` pairs of a description of the mutation and the mutated file."""
    draw = random.Random(seed)  # noqa: S311
    originals = list(pictures())
    for number in range(count):
        kind, data = originals[number % len(originals)]
        change = draw.choice(CHANGES)
        yield f"{number}: {change.__name__} of {kind}", change(data, draw)


def pictures() -> Iterator[tuple[str, bytes]]:
    """Valid files of every kind, with all kinds of metadata."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))
    exif = Image.Exif()
    exif.update(
        {0x0112: 6, 0x010F: "maker", 0x011A: 72.0, 0x8825: {1: "N", 2: (1.0, 2.0, 3.0)}, 0x8769: {0x9000: b"0230"}}
    )
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "much " * 50)
    texts.add_text("packed", "more " * 50, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    told = {"exif": exif, "icc_profile": ICC}
    yield "jpeg", encoded(photo, "JPEG", xmp=XMP, comment=b"said", **told)
    yield "png", encoded(photo, "PNG", pnginfo=texts, **told)
    yield "webp", encoded(photo, "WEBP", xmp=XMP, **told)
    yield "progressive jpeg", encoded(photo.convert("L"), "JPEG", progressive=True, **told)
    yield "palette png", encoded(photo.convert("P"), "PNG", transparency=3, **told)
    yield "webp with alpha", encoded(photo.convert("RGBA"), "WEBP", lossless=True, **told)
    yield "mpo", encoded(photo, "MPO", save_all=True, append_images=[photo.rotate(90)])
    yield "cmyk jpeg", encoded(photo.convert("CMYK"), "JPEG", **told)
    yield "deep png", encoded(Image.new("I;16", SIZE, 3000), "PNG", pnginfo=texts, **told)
    yield "mask", encoded(Image.new("L", SIZE, 1), "PNG", exif=exif)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of ``image`` as a file of ``kind``."""
    sink = BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def bytes_changed(data: bytes, draw: random.Random) -> bytes:
    """Changes some bytes, mostly near the beginning."""
    damaged = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        damaged[draw.randrange(len(data) if draw.random() < 0.3 else min(600, len(data)))] = draw.randrange(256)
    return bytes(damaged)


def cut(data: bytes, draw: random.Random) -> bytes:
    """Truncates the file, or removes a piece of it."""
    start, end = sorted(draw.sample(range(len(data)), 2))
    return data[:start] if draw.random() < 0.5 else data[:start] + data[end:]


def body_changed(data: bytes, draw: random.Random) -> bytes:
    """Changes some bytes in the body of a segment: tags, types, counts, offsets."""
    segments, tail = apart(data)
    place = draw.randrange(len(segments))
    name, body = segments[place]
    segments[place] = name, bytes_changed(body, draw) if body else b"\0"
    return together(data, segments, tail)


def body_exchanged(data: bytes, draw: random.Random) -> bytes:
    """Replaces the body of a segment, or truncates it."""
    segments, tail = apart(data)
    place = draw.randrange(len(segments))
    name, body = segments[place]
    segments[place] = name, draw.choice([*BODIES, body[: draw.randint(0, len(body))]])
    return together(data, segments, tail)


def moved(data: bytes, draw: random.Random) -> bytes:
    """Removes, doubles or moves a segment."""
    segments, tail = apart(data)
    segment = draw.choice(segments)
    if draw.random() < 0.6:
        segments.remove(segment)
    if draw.random() < 0.7:
        segments.insert(draw.randint(0, len(segments)), segment)
    return together(data, segments, tail)


def spliced(data: bytes, draw: random.Random) -> bytes:
    """Inserts a segment with a known name and an arbitrary body."""
    segments, tail = apart(data)
    names = {
        b"\xff\xd8": [b"\xe1", b"\xe2", b"\xed", b"\xee", b"\xc4", b"\xdb", b"\xdd", b"\xfe"],
        PNG[:2]: [
            b"eXIf",
            b"iCCP",
            b"zTXt",
            b"iTXt",
            b"tEXt",
            b"tRNS",
            b"PLTE",
            b"acTL",
            b"fcTL",
            b"pHYs",
            b"gAMA",
            b"cHRM",
        ],
        b"RI": [b"EXIF", b"ICCP", b"XMP ", b"ANIM", b"ANMF", b"VP8X", b"ALPH"],
    }[data[:2]]
    heads = [
        b"",
        b"ICC_PROFILE\0",
        b"ICC_PROFILE\0\1\1",
        b"Exif\0\0",
        b"Photoshop 3.0\0",
        b"Adobe",
        b"icc_profile\0\0",
        b"exif\0",
    ]
    body = draw.choice(heads) + draw.choice(BODIES)[:60_000]
    segments.insert(draw.randint(0, len(segments)), (draw.choice(names), body))
    return together(data, segments, tail)


def lengths_changed(data: bytes, draw: random.Random) -> bytes:
    """Gives a segment a wrong length."""
    segments, tail = apart(data)
    whole = together(data, segments, tail)
    name, body = draw.choice(segments)
    said = draw.choice([0, 1, len(body) + 1, max(0, len(body) - 1), 2**16 - 1, 2**31 - 1, 2**32 - 1])
    if data[:2] == b"\xff\xd8":
        right, wrong = (
            b"\xff" + name + struct.pack(">H", len(body) + 2),
            b"\xff" + name + struct.pack(">H", said % 2**16),
        )
    elif data[:2] == PNG[:2]:
        right, wrong = struct.pack(">I", len(body)) + name, struct.pack(">I", said) + name
    else:
        right, wrong = name + struct.pack("<I", len(body)), name + struct.pack("<I", said)
    return whole.replace(right, wrong, 1)


CHANGES = (bytes_changed, cut, body_changed, body_exchanged, moved, spliced, lengths_changed)


def apart(data: bytes) -> tuple[list[Segment], bytes]:
    """Splits a file into its segments and the rest (the scan of a JPEG)."""
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    png = data[:2] == PNG[:2]
    segments, at = [], 8 if png else 12
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at) if png else struct.unpack_from("<4sI", data, at)[::-1]
        segments.append((name, data[at + 8 : at + 8 + length]))
        at += length + 12 if png else length + 8 + length % 2
    return segments, b""


def together(data: bytes, segments: list[Segment], tail: bytes) -> bytes:
    """Joins segments to a file of the same kind as ``data``, with correct lengths and checksums."""
    if data[:2] == b"\xff\xd8":
        parts = [b"\xff" + name + struct.pack(">H", (len(body) + 2) % 2**16) + body for name, body in segments]
        return b"\xff\xd8" + b"".join(parts) + tail
    if data[:2] == PNG[:2]:
        checked = [(name, body, zlib.crc32(name + body)) for name, body in segments]
        return PNG + b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", crc) for n, b, crc in checked)
    body = b"".join(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for name, body in segments)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _jpeg(data: bytes) -> tuple[list[Segment], bytes]:
    segments, at = [], 2
    while data[at + 1 : at + 2] != b"\xda":
        (length,) = struct.unpack_from(">H", data, at + 2)
        segments.append((data[at + 1 : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments, data[at:]
