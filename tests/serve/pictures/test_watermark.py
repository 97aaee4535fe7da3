"""The watermark: it survives compression and scaling, carries name and version, and is invisible."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from flows.cli.command_line import main
from mmface.bundles.bundle import Bundle
from mmface.data.portraits import draw
from serve.engine.generator import Generator
from serve.http.api import create_app
from serve.pictures.watermark import MIN_SIDE, Mark, detect, embed, name_code
from tests.serve.service import mask_png, pixels, tiny_recipe

MARK = Mark(name_code("mmface-dit"), 4711)


def portrait(seed: int, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return draw(seed, side).image


def stored(image: np.ndarray[Any, Any], kind: str, **options: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    sink = BytesIO()
    Image.fromarray(image).save(sink, kind, **options)
    return np.asarray(Image.open(BytesIO(sink.getvalue())).convert("RGB"))


@pytest.mark.parametrize("side", [128, 256])
def test_a_mark_survives_compression_and_scaling_and_is_invisible(side: int) -> None:
    for seed in range(3):
        image = portrait(seed, side)
        marked = embed(image, MARK)
        assert 10 * np.log10(255**2 / np.mean((marked.astype(float) - image) ** 2)) > 38
        np.testing.assert_array_equal(embed(image, MARK), marked)
        half = np.asarray(Image.fromarray(marked).resize((side * 3 // 4, side * 3 // 4), Image.Resampling.LANCZOS))
        for changed in (
            marked,
            stored(marked, "JPEG", quality=75, subsampling=2),
            stored(marked, "WEBP", quality=75),
            half,
            stored(half, "JPEG", quality=90),
        ):
            assert detect(changed) == MARK
        assert detect(image) is None


def test_marks_carry_name_and_version_and_small_images_stay_unchanged() -> None:
    image = portrait(1, 128)
    for name, version in (("a", 0), ("b", 2**24 - 1), ("b", 1)):
        assert detect(embed(image, Mark(name_code(name), version))) == Mark(name_code(name), version)
    small = portrait(1, 128)[: MIN_SIDE - 1]
    assert embed(small, MARK) is small
    assert detect(small) is None
    for flat in (0, 128, 255):
        assert detect(np.full((128, 128, 3), flat, np.uint8)) is None
    wide = portrait(2, 128)[32:96]
    assert detect(embed(wide, MARK)) == MARK


def test_every_served_picture_is_marked_if_the_recipe_says_so(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(watermark: bool) -> bytes:
        settings = tiny_recipe(watermark=watermark).serve
        with TestClient(create_app(Generator(bundle, settings), settings)) as client:
            data = {"prompt": "a face", "seed": "5"}
            answer = client.post(
                "/v1/generate/mask", files={"condition": mask_png()}, data=data, headers={"Accept": "image/png"}
            )
        assert answer.status_code == 200, answer.text
        return answer.content

    plain, marked, again = ask(False), ask(True), ask(True)
    np.testing.assert_array_equal(pixels(marked), pixels(again))
    assert np.abs(pixels(marked).astype(int) - pixels(plain)).max() < 32
    for name, data in (("plain", plain), ("marked", marked)):
        (tmp_path / f"{name}.png").write_bytes(data)
    assert main(["watermark", "check", str(tmp_path / "marked.png")]) == 0
    assert main(["watermark", "check", str(tmp_path / "marked.png"), str(tmp_path / "plain.png"), "--model", "x"]) == 1
    first, second, third = capsys.readouterr().out.splitlines()[-3:]
    assert first.endswith("marked.png: AI-made: painted by MMFace, version 7 of mmface-dit")
    assert f"a model other than x (its name's SHA-256 begins with {name_code('mmface-dit')})" in second
    assert third.endswith("plain.png: no mark")
    assert main(["watermark", "check", str(tmp_path / "none.png")]) == 2
