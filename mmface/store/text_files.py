"""Reads text files that users write (lists, captions, tables, recipes): UTF-8, or UTF-16 with a byte order mark."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO

from mmface.errors import InputError

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LONGEST_MARK = 3


def read_text(data: bytes, *, field: str, name: str) -> str:
    """The text of a whole file, without its byte order mark.

    Args:
        field: the recipe key or option that the error names.
        name: of the file, for the error.

    Raises:
        InputError: the bytes are in another encoding or contain NUL (UTF-16 without a mark, or not text).
    """
    try:
        return _checked(data.decode(_encoding(data)))
    except ValueError:  # UnicodeDecodeError is one
        raise _refused(field, name) from None


def read_lines(file: BinaryIO, *, field: str, name: str) -> Iterator[str]:
    """The lines of a file, read one at a time; arguments and errors as in :func:`read_text`."""
    head = file.read(_LONGEST_MARK)
    file.seek(0)
    with io.TextIOWrapper(file, encoding=_encoding(head)) as lines:
        try:
            yield from map(_checked, lines)
        except ValueError:
            raise _refused(field, name) from None


def _encoding(head: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8")


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError("NUL")
    return text


def _refused(field: str, name: str) -> InputError:
    return InputError(
        f"{name} is not text in UTF-8, or in UTF-16 with a byte order mark; save it as UTF-8", field=field
    )
