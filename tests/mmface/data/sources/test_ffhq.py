"""FFHQ: photographs in folders of a thousand, masks by number, and licences counted from the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mmface.config import Collection
from mmface.errors import InputError
from tests.mmface.data.sources.made import encoded, listed, picture, read, write


def ffhq(root: Path) -> None:
    write(
        root,
        {
            **{f"images1024x1024/{i // 1000 * 1000:05d}/{i:05d}.png": encoded(picture(seed=i)) for i in (0, 7, 1003)},
            "thumbnails128x128/00000/00000.png": encoded(picture()),
            "images1024x1024/00000/01003.png": encoded(picture()),
            "images1024x1024/LICENSE.txt": "words",
        },
    )


def test_ffhq_photographs_are_in_folders_of_a_thousand(tmp_path: Path):
    ffhq(tmp_path)
    write(tmp_path.parent / f"{tmp_path.name}-masks", {"01003.png": encoded(Image.new("L", (80, 64)))})
    expected = ["00000/00000.png", "00000/00007.png", "01000/01003.png"]
    nested = Collection(name="ffhq", layout="ffhq", images=f"{tmp_path}/images1024x1024", masks=f"{tmp_path}-masks")
    assert [file.image.key for file in listed(nested).files] == expected
    assert [len(file.masks) for file in listed(nested).files] == [0, 0, 1]
    whole = Collection(name="ffhq", layout="ffhq", images=str(tmp_path))
    assert [file.image.key for file in listed(whole).files] == [f"images1024x1024/{key}" for key in expected]
    assert listed(whole).licences == {}
    assert len(read(whole).rows) == 3


def test_ffhq_licences_of_photographs_are_counted(tmp_path: Path):
    ffhq(tmp_path)
    licences = {"0": "Attribution License", "7": "Public Domain Mark", "9": "not here", "1003": "Attribution License"}
    entries = {number: {"category": "training", "metadata": {"license": name}} for number, name in licences.items()}
    collection = Collection(name="ffhq", layout="ffhq", images=str(tmp_path))
    for indent in (None, 2):
        write(tmp_path, {"ffhq-dataset-v2.json": json.dumps(entries, indent=indent)})
        assert listed(collection).licences == {"Attribution License": 2, "Public Domain Mark": 1}
    write(tmp_path, {"ffhq-dataset-v2.json": json.dumps(entries)[:-30]})
    with pytest.raises(InputError, match="damaged"):
        listed(collection)
