"""Runs every example of ``docs/api.md`` and of the README's section on HTTP."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mmface.bundles.bundle import Bundle
from mmface.data.portraits import draw
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests.serve.service import listening, mask_png, sketch_png, tiny_recipe

ROOT = Path(__file__).parents[3]
HERE = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)

Example = tuple[str, str, str | None]


def examples(text: str) -> list[Example]:
    """Language, code, and the output if the page shows it."""
    return [(kind, code, shown or None) for kind, code, shown in BLOCK.findall(text)]


@pytest.fixture(scope="module")
def address(bundle: Bundle) -> Iterator[str]:
    settings = tiny_recipe(max_queued=20).serve
    with listening(create_app(Generator(bundle, settings), settings)) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mask.png").write_bytes(mask_png())
    (tmp_path / "sketch.png").write_bytes(sketch_png())
    Image.fromarray(draw(1, 96).image).save(tmp_path / "photo.jpg")
    return tmp_path


def run(example: Example, first: str, address: str, folder: Path) -> str:
    """Runs an example and returns its output; ``first`` is put before shell commands."""
    kind, code, _ = example
    code = (first + code if kind == "sh" else code).replace(HERE, address)
    command = ["bash", "-euo", "pipefail", "-c", code] if kind == "sh" else [sys.executable, "-c", code]
    variables = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "MMFACE_KEY": "any"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (code, done.stdout, done.stderr)
    return done.stdout


def matches(shown: str, printed: str) -> bool:
    """Whether the output equals the one on the page, in which … matches anything."""
    pattern = ".*".join(re.escape(part) for part in shown.rstrip("\n").split("…"))
    return re.fullmatch(pattern + r"\s*", printed.replace("\r", ""), re.DOTALL) is not None


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples want curl")
def test_the_examples_of_the_api_page_work(address: str, folder: Path) -> None:
    (_, first, _), *rest = examples((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    assert len(rest) > 12
    for example in rest:
        printed = run(example, first, address, folder)
        assert example[2] is None or matches(example[2], printed), (example, printed)
    assert "{" in (folder / "two.json").read_text()
    for name, kind in (("face.png", "PNG"), ("face.webp", "WEBP"), ("face.jpg", "JPEG"), ("its-mask.png", "PNG")):
        assert Image.open(folder / name).format == kind
    assert (folder / "mmface-dit-7-11.png").is_file()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples want curl")
def test_the_http_examples_of_the_readme_work(address: str, folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = re.search(r"^## HTTP\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert part is not None
    found = examples(part[1])
    assert len(found) >= 3
    for example in found:
        run(example, "", address, folder)
    assert Image.open(folder / "face.png").size == (64, 64)


def test_every_route_has_an_example(bundle: Bundle) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = create_app(Generator(bundle, bundle.recipe.serve), bundle.recipe.serve).openapi()["paths"]
    assert [path for path in paths if f'"$URL{path.partition("{")[0]}' not in text] == []
