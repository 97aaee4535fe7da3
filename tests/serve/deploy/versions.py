"""Helpers: a replica's models that follow the aliases, and damage to a bundle's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmface.config import Serve
from serve.deploy.models import Models

NAME = "mmface-dit"
Register = Callable[..., str]


def models(settings: Serve) -> tuple[Models, list[tuple[str, str]]]:
    outcomes: list[tuple[str, str]] = []
    made = Models(settings, lambda *_: None, lambda version, outcome: outcomes.append((version, outcome)), "cpu")
    return made, outcomes


def no_json(folder: Path) -> None:
    (folder / "metrics.json").write_text("no JSON")


def unknown_key(folder: Path) -> None:
    (folder / "preview" / "request.json").write_text('{"colour": "red"}')


def cut_weights(folder: Path) -> None:
    (file,) = folder.glob("transformer/*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])


def wrong_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("colour: red")
