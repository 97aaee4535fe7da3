"""``mmface generate`` and the service generate the same image."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.command_line import main
from mmface.bundles.bundle import read_bundle, write_bundle
from mmface.bundles.registry import register_bundle, set_alias, start_run
from mmface.config.load import parse_recipe
from mmface.data.portraits import draw
from mmface.imaging.labels import mask_from_png, mask_to_png
from serve.engine.generator import Generator
from serve.http.job import Job
from serve.http.requests import GenerateRequest
from tests import tiny


@pytest.mark.parametrize(("modality", "resize"), [("mask", "lanczos"), ("sketch", "nearest")])
def test_generate_and_the_service_agree(
    modality: str, resize: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including the mask resizing of the released models, which is not nearest."""
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    phases = [{"resolution": 64, "steps": 1}]
    sampling = {"num_inference_steps": 3}
    recipe = parse_recipe({"name": "tiny", "phases": phases, "sampling": sampling, "data": {"mask_resize": resize}})
    pipeline = tiny.pipeline(tmp_path / "tokenizer", mask_resize=resize)
    folder = write_bundle(pipeline, tmp_path / "bundle", recipe, {}, {})
    set_alias("mmface-dit", "champion", register_bundle(folder, start_run("tiny")))
    labels = draw(3, 160).mask
    drawing = tmp_path / "drawing.png"
    if modality == "mask":
        drawing.write_bytes(mask_to_png(labels))
    else:
        Image.fromarray(255 - 10 * labels).save(drawing)
    painted = tmp_path / "painted.png"
    assert (
        main(["generate", f"--{modality}", str(drawing), "--prompt", "a face", "--seed", "4", "--out", str(painted)])
        == 0
    )
    pixels = mask_from_png(drawing.read_bytes()) if modality == "mask" else np.asarray(Image.open(drawing))
    bundle = replace(read_bundle(folder), version="1")
    job = Job(modality, pixels, GenerateRequest(prompt="a face"), (4,))  # type: ignore[arg-type]
    served = asyncio.run(Generator(bundle, recipe.serve).generate(job)).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(painted)), served)
