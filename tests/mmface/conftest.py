"""Tiny random networks of the production classes in folders, and a recipe that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmface.config import Recipe
from mmface.config.load import parse_recipe


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """32 pixels, two denoising steps, every component a local folder."""
    from tests import tiny

    return parse_recipe(
        {
            "name": "tiny",
            "components": tiny.components(tmp_path_factory.mktemp("components")),
            "model": {"hidden_size": 32, "depth": 1, "num_heads": 2},
            "phases": [{"resolution": tiny.SIDE, "steps": 1}],
            "sampling": {"num_inference_steps": 2},
            "evaluate": {"n": 3, "n_sketch": 2, "batch_size": 2},
        }
    )


@pytest.fixture(scope="session")
def tiny_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random transformer that fits ``tiny_recipe``."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("transformer")
    tiny.transformer(depth=1).save_pretrained(folder)
    return folder
