"""The metadata of image files, written and read."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from serve.pictures.provenance import MEDIA_TYPES, Provenance, encode, read

GREY = np.full((32, 32, 3), 128, np.uint8)
FULL = Provenance(7, "abc", "mmface-dit", "12", 20, 2.5, "euler")
PREVIEW = Provenance(7, "abc")


@pytest.mark.parametrize("made", [FULL, PREVIEW])
@pytest.mark.parametrize("picture", MEDIA_TYPES)
def test_what_is_written_is_read(picture: str, made: Provenance) -> None:
    assert read(encode(GREY, made, picture)) == made


@pytest.mark.parametrize("picture", MEDIA_TYPES)
def test_an_image_without_the_metadata_has_none(picture: str) -> None:
    plain = BytesIO()
    Image.fromarray(GREY).save(plain, picture)
    assert read(plain.getvalue()) is None


@pytest.mark.parametrize(
    "texts",
    [
        {"mmface:seed": "1"},
        {"mmface:seed": "x", "mmface:request_id": "a", "mmface:settings": "{}"},
        {"mmface:seed": "1", "mmface:request_id": "a", "mmface:settings": "[1]"},
        {"mmface:seed": "1", "mmface:request_id": "a", "mmface:settings": "{", "mmface:model": "m"},
        {"mmface:seed": "1", "mmface:request_id": "a", "mmface:settings": "{}", "mmface:unknown": "m"},
    ],
)
def test_damaged_metadata_is_none(texts: dict[str, str]) -> None:
    info, sink = PngInfo(), BytesIO()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.fromarray(GREY).save(sink, "PNG", pnginfo=info)
    assert read(sink.getvalue()) is None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MEDIA_TYPES)), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damaged_files_raise_nothing(picture: str, place: int, noise: bytes) -> None:
    data = encode(GREY, FULL, picture)
    found = read(data[:place] + noise + data[place + len(noise) :])
    assert found is None or isinstance(found.seed, int)
