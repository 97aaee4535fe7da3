"""Strips PNG files of everything that decoding does not need, so that large texts or profiles cannot stop the decoder.

Pillow parses every chunk, keeps all text in memory and refuses files with more text than its limits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
# Keys of text chunks that can contain the orientation.
ORIENTATION_KEYS = {b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp"}
MAX_INFLATED = 1 << 20  # bytes of a decompressed text or profile; Pillow's own limit
NO_PROFILE = b"none\0\0"  # replaces an unreadable profile, so that the decoder still reports that there was one


def without_texts(data: bytes) -> bytes:
    """A PNG file reduced to pixels, colour profile and orientation; data in other formats is returned unchanged.

    Drops text chunks without an orientation; replaces a profile that is not zlib data or inflates beyond
    :data:`MAX_INFLATED` with an empty one. Damaged chunks are kept: the decoder will refuse them.
    """
    if not data.startswith(SIGNATURE):
        return data
    kept, seen = [SIGNATURE], set[bytes]()
    view = memoryview(data)
    for start, kind, length in _chunks(data):
        whole = view[start : start + length + 12]
        if kind in PIXELS:
            kept.append(bytes(whole))
        elif kind == b"iCCP":
            _, _, packed = bytes(whole[8:-4]).partition(b"\0")
            kept.append(bytes(whole) if _is_bounded(packed) else _chunk(kind, NO_PROFILE))
        elif kind in TEXTS:
            key, _, text = bytes(whole[8:-4]).partition(b"\0")
            if key in ORIENTATION_KEYS - seen and _is_short(kind, text):
                seen.add(key)
                kept.append(bytes(whole))
    return b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Start, name and length of every chunk; in a truncated file the last chunk extends beyond the end."""
    start = len(SIGNATURE)
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield start, kind, length
        start += length + 12
        if kind == b"IEND":
            return


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _is_short(kind: bytes, text: bytes) -> bool:
    if kind == b"zTXt":
        return _is_bounded(text)
    if kind == b"iTXt" and text[:1] != b"\0":
        # Layout: compression flag and method, language, translated key, text.
        return _is_bounded(text[1:2] + text[2:].split(b"\0", 2)[-1])
    return len(text) <= MAX_INFLATED


def _is_bounded(packed: bytes) -> bool:
    """Whether the compression method is zlib (0) and what follows inflates to at most :data:`MAX_INFLATED`."""
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed[1:], MAX_INFLATED)
    except zlib.error:
        return False
    return packed[:1] == b"\0" and not inflater.unconsumed_tail
