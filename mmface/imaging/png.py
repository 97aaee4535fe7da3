"""PNG files without what is not needed for their pixels, so that no text or profile of any size stops the decoder.

Pillow parses every chunk, keeps all text in memory and refuses a file with more of it than its own limits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
# Texts that can say how the picture lies.
ORIENTATION_KEYS = {b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp"}
MAX_INFLATED = 1 << 20  # bytes of a text or a profile; Pillow's own limit
NO_PROFILE = b"none\0\0"  # stands for a profile that cannot be read, so that this can still be told


def without_texts(data: bytes) -> bytes:
    """A PNG file's pixels, colour profile and orientation; other data as it is.

    Texts without an orientation are left out, whatever their size; a profile that is no zlib data or inflates beyond
    :data:`MAX_INFLATED` is emptied. Damaged chunks stay as they are, for the decoder to refuse.
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
    """Start, name and length of every chunk; that of a cut file's last one reaches beyond its end."""
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
        # Compression flag and method, then language and translated key, then the text.
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
