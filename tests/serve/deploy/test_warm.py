"""Warming: a version is loaded as a replica would, before the alias moves to it."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mmface.bundles.bundle import Bundle, write_bundle
from mmface.bundles.reference import Preview
from mmface.bundles.registry import register_bundle, start_run
from mmface.errors import RegistryError
from mmface.store import Store
from serve.deploy.warm import main
from tests.serve.service import sketch_png


@pytest.mark.parametrize("honest", [True, False])
def test_a_receipt_is_written_when_the_version_paints_its_preview(
    honest: bool, bundle: Bundle, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    shutil.copy(migrated, tmp_path / "mlflow.db")
    sampling = bundle.recipe.sampling
    painted = bundle.pipeline(
        "a face",
        Image.open(BytesIO(sketch_png())),
        "sketch",
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        seeds=[1],
    ).images[0]
    sink = BytesIO()
    (painted if honest else Image.new("RGB", painted.size, "red")).save(sink, "PNG")
    preview = Preview(sketch_png(), sink.getvalue(), "sketch", "a face", 1)
    version = register_bundle(
        write_bundle(bundle.pipeline, tmp_path / "b", bundle.recipe, {}, {}, preview), start_run("r")
    )
    (tmp_path / "recipe.yaml").write_text(bundle.recipe.to_yaml())
    given = {"recipe": str(tmp_path / "recipe.yaml"), "home": str(tmp_path), "version": version, "receipt": "warm/1"}
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    if honest:
        main(arguments)
        receipt = json.loads(Store(tmp_path).read("warm/1"))
        assert (receipt["model"], receipt["version"]) == ("mmface-dit", version)
    else:
        with pytest.raises(RegistryError, match="paints its registered preview with a mean error"):
            main(arguments)
        assert not Store(tmp_path).exists("warm/1")
