"""The memory check refuses a phase that does not fit, before training starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.errors import RecipeError
from mmface.estimate.shapes import Shapes
from mmface.train import memory_check
from mmface.train.memory import Place, training_peak
from mmface.train.parallel.world import World

PHASE = "phases=[{resolution: 64, steps: 1, batch_size: 32}]"


@pytest.fixture(scope="module")
def small() -> Recipe:
    return load_recipe("demo", [PHASE, "model.hidden_size=64", "model.depth=2", "model.num_heads=4"])


def limit(monkeypatch: pytest.MonkeyPatch, folder: Path, content: str) -> None:
    (folder / "memory.max").write_text(content)
    monkeypatch.setattr(memory_check, "CGROUP_LIMIT", folder / "memory.max")


def test_the_memory_limit_of_the_container_counts(small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needed = int(training_peak(Shapes(small), small.phases[0], Place(1, "cpu")).total)
    limit(monkeypatch, tmp_path, f"{needed + 1}\n")
    memory_check.check_memory(small, 0, World())
    limit(monkeypatch, tmp_path, f"{needed - 1}\n")
    with pytest.raises(RecipeError, match=r"phases\.0.*a step needs .* has .*; raise phases.accumulation"):
        memory_check.check_memory(small, 0, World())
    limit(monkeypatch, tmp_path, f"{needed + 1}\n")
    with pytest.raises(RecipeError, match="but a worker has"):
        memory_check.check_memory(small, 0, World(), neighbours=2)


def test_the_copy_of_a_checkpoint_counts(small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # With few activations, the copy for a checkpoint needs more memory than a step.
    large = load_recipe("demo", ["phases=[{resolution: 64, steps: 1, batch_size: 1}]", "model.depth=4"])
    peak = training_peak(Shapes(large), large.phases[0], Place(1, "cpu"))
    copied = 2 * sum(peak.parts[kind] for kind in ("weights", "optimizer", "average"))
    assert copied > peak.total
    limit(monkeypatch, tmp_path, f"{int(copied) - 1}\n")
    with pytest.raises(RecipeError, match=r"at its peak \(checkpoint\)"):
        memory_check.check_memory(large, 0, World())
    limit(monkeypatch, tmp_path, f"{int(copied) + 1}\n")
    memory_check.check_memory(large, 0, World())


def test_without_a_container_limit_the_memory_of_the_machine_counts(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    physical = memory_check.machine_memory()
    assert physical > 2**28
    limit(monkeypatch, tmp_path, "max\n")
    assert memory_check.machine_memory() >= physical
    memory_check.check_memory(small, 0, World())


def test_a_network_of_unknown_shape_logs_a_warning(small: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    components = small.components.model_copy(update={"vae": "somebody/unknown-vae"})
    memory_check.check_memory(small.model_copy(update={"components": components}), 0, World())
    assert "memory is not checked" in caplog.text
