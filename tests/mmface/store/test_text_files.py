"""Text files as editors on every system save them: decoded, or refused with an error that names the file."""

from __future__ import annotations

import codecs
from io import BytesIO

import pytest

from mmface.config.load import load_recipe
from mmface.errors import InputError, RecipeError
from mmface.store.text_files import read_lines, read_text

TEXT = "zoë.png\nann.png\n"
SAVED = {
    "plain": TEXT.encode(),
    "mark": TEXT.encode("utf-8-sig"),
    "windows": TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
    "utf-16 little": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16 big": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
}
REFUSED = {
    "latin-1": TEXT.encode("latin-1"),
    "utf-16 without a mark": TEXT.encode("utf-16-le"),
    "cut utf-16": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le")[:-1],
    "utf-32": TEXT.encode("utf-32"),
    "binary": b"\x00\x05\x16\x07" + bytes(60),
}


@pytest.mark.parametrize("data", SAVED.values(), ids=SAVED)
def test_text_in_common_encodings_is_read(data: bytes):
    assert read_text(data, field="split", name="test.txt").splitlines() == ["zoë.png", "ann.png"]
    assert list(read_lines(BytesIO(data), field="split", name="test.txt")) == ["zoë.png\n", "ann.png\n"]


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_other_encodings_are_refused_with_the_name_of_the_file(data: bytes):
    for read in (
        lambda: read_text(data, field="split", name="lists/test.txt"),
        lambda: list(read_lines(BytesIO(data), field="split", name="lists/test.txt")),
    ):
        with pytest.raises(InputError, match=r"lists/test\.txt is not text in UTF-8.*save it as UTF-8") as caught:
            read()
        assert caught.value.field == "split"


def test_an_empty_file_has_no_lines():
    assert list(read_lines(BytesIO(b""), field="split", name="test.txt")) == []


def test_recipes_are_read_with_the_same_encodings(tmp_path):
    recipe = tmp_path / "mine.yaml"
    for encoding in ("utf-8-sig", "utf-16"):
        recipe.write_text("base: demo\nname: zoë\n", encoding=encoding)
        assert load_recipe(str(recipe)).name == "zoë"
    recipe.write_text("name: zoë\n", encoding="latin-1")
    with pytest.raises(RecipeError, match=r"recipe: .*mine\.yaml is not text in UTF-8"):
        load_recipe(str(recipe))
