"""Fixtures: a registry into which tests register variants of the tiny bundle."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mmface.bundles.bundle import Bundle, write_bundle
from mmface.bundles.reference import Preview
from mmface.bundles.registry import register_bundle, set_alias, start_run
from tests.serve.deploy.versions import NAME, Register
from tests.serve.service import sketch_png


@pytest.fixture
def register(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Registers a variant of the tiny bundle under an alias.

    Unless ``honest``, its registered preview is another picture. ``damage`` changes the registered files.
    """
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def do(
        number: int, alias: str = "champion", *, honest: bool = True, damage: Callable[[Path], None] | None = None
    ) -> str:
        folder = tmp_path / f"bundle-{number}"
        painted = bundle.pipeline(
            "a face",
            Image.open(BytesIO(sketch_png())),
            "sketch",
            num_inference_steps=bundle.recipe.sampling.num_inference_steps,
            guidance_scale=bundle.recipe.sampling.guidance_scale,
            seeds=[number],
        ).images[0]
        sink = BytesIO()
        (painted if honest else Image.new("RGB", painted.size, "red")).save(sink, "PNG")
        preview = Preview(sketch_png(), sink.getvalue(), "sketch", "a face", number)
        write_bundle(bundle.pipeline, folder, bundle.recipe, {"number": number}, {}, preview)
        if damage is not None:
            damage(folder)
        version = register_bundle(folder, start_run(f"tiny-{number}"))
        set_alias(NAME, alias, version)
        return version

    return do
