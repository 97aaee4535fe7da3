"""What the files of ``infra/`` say, for the tests beside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
OVERLAYS = ("dev", "prod", "dev/jobs", "prod/jobs")
RAY_KINDS = ("RayCluster", "RayJob", "RayService")


def tool(name: str) -> str:
    """A program that pip put beside this Python."""
    return str(Path(sys.executable).parent / name)


@lru_cache
def overlay(name: str) -> tuple[dict[str, Any], ...]:
    """The objects of an overlay, as ``kubectl kustomize`` makes them."""
    command = [tool("kubectl"), "kustomize", str(INFRA / "kuberay" / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def objects(*kinds: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(overlay, object)`` of all overlays; of these kinds if there are any."""
    for name in OVERLAYS:
        for made in overlay(name):
            if not kinds or made["kind"] in kinds:
                yield name, made


def pods(made: Any) -> Iterator[dict[str, Any]]:
    """Every pod's ``spec`` in an object, however deep."""
    if isinstance(made, dict):
        if "containers" in made:
            yield made
        for value in made.values():
            yield from pods(value)
    elif isinstance(made, list):
        for value in made:
            yield from pods(value)


def compose() -> dict[str, Any]:
    """The compose stack."""
    read: dict[str, Any] = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    return read
