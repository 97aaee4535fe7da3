"""Who becomes champion, on a real SQLite MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.release import gate
from mmface import registry
from mmface.recipes import load_recipe

GOOD, BAD = ({"mask/miou": value, "mask/hair_colour_accuracy": value} for value in (0.9, 0.01))


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two registered versions; nobody is champion yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    run = registry.start_run("r")
    made = []
    for text in ("one", "two"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "README.md").write_text(text)  # registering needs files, not a loadable model
        made.append(registry.register_bundle(tmp_path / text, run))
    return made


def champion() -> str | None:
    return registry.get_alias("mmface-dit", "champion")


def test_only_who_passes_becomes_champion_and_who_was_rolled_back_never_again(versions: list[str]) -> None:
    recipe = load_recipe("demo")
    first, second = versions
    assert gate.fn(recipe, GOOD, first).passed
    assert not gate.fn(recipe, BAD, second).passed
    assert champion() == first

    assert gate.fn(recipe, GOOD, second).passed
    assert champion() == second
    assert registry.rollback() == first

    # The schedule retrains with nothing changed: the same version stands at the gate again.
    again = gate.fn(recipe, GOOD, second)
    assert not again.passed
    assert again.reason == f"version {second} was rolled back: change the recipe, or give it the alias in MLflow"
    assert champion() == first
