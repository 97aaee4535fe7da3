"""Every command block of *Get started* and the tutorials is run or parsed, or says on the page why it is not run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.command_line import _parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = [DOCS / "get-started.md", *sorted((DOCS / "tutorials").glob("*.md"))]
OTHERS = [
    ROOT / "README.md",
    *(page for folder in ("operations", "how") for page in sorted((DOCS / folder).glob("*.md"))),
]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
RUN, SERVED, PARSED, NOT_RUN = "Run by a test", "Run by a test, against a small model", "Parsed by a test", "Not run"
PATHS = re.compile(r"\btests(?:/[\w.]+|\.\w+)+")
# How a synopsis is written, and a command that the parser takes.
PLACEHOLDERS = {
    "[--masks DIR]": "--masks DIR",
    "[--captions FILE|DIR]": "--captions FILE",
    "[--set phases.1.steps=2000]": "--set phases.1.steps=2000",
}


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """``(language, title, code)`` of every fenced block."""
    return [(kind, title or "", code) for kind, title, code in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(code: str) -> list[list[str]]:
    """The arguments of every ``mmface`` command of a shell block."""
    for shown, plain in PLACEHOLDERS.items():
        code = code.replace(shown, plain)
    lines = code.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        inside = re.search(r"\$\((\S*mmface [^)]*)\)", line)
        words = shlex.split(inside[1] if inside else line, comments=True)
        if words and words[0].rpartition("/")[2] == "mmface":
            found.append(words[1:])
    return found


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_block_says_whether_a_test_runs_it(page: Path) -> None:
    for kind, title, code in blocks(page):
        if kind in ("sh", "python"):
            assert title in (RUN, SERVED) or title.startswith((PARSED, NOT_RUN)), (page.name, code)
            for path in PATHS.findall(title):
                place = ROOT / (path.replace(".", "/") + ".py" if "/" not in path else path)
                assert place.exists(), f"{page.name} names {path}, which is not there"
            if title.startswith(PARSED):
                assert commands(code), (page.name, code)


@pytest.mark.parametrize("page", [*GUIDES, *OTHERS], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_mmface_command_parses(page: Path) -> None:
    parser = _parser()
    for kind, _, code in blocks(page):
        for words in commands(code) if kind == "sh" else []:
            parser.parse_args(words)


def test_the_blocks_that_a_test_runs(tmp_path: Path) -> None:
    """In the order of the pages, in one folder, with a home of its own and no server."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = kept | {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "MMFACE_HOME": str(tmp_path / "home"),
    }
    (recipe,) = (code for kind, _, code in blocks(DOCS / "tutorials" / "photographs.md") if kind == "yaml")
    (tmp_path / "ours.yaml").write_text(recipe, encoding="utf-8")
    done = 0
    for page in GUIDES:
        for code in (code for _, title, code in blocks(page) if title == RUN):
            command = ["bash", "-euo", "pipefail", "-c", code]
            ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
            assert ended.returncode == 0, (page.name, code, ended.stdout, ended.stderr)
            done += 1
    assert done >= 5
    assert len(list((tmp_path / "drawn" / "masks").iterdir())) == 24


def test_make_demo_runs_the_command_of_the_first_page() -> None:
    recipe = re.search(r"^demo:.*\n\t(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    assert recipe[1] == "$(BIN)/mmface retrain --recipe demo"
    page = " ".join((DOCS / "get-started.md").read_text(encoding="utf-8").split())
    assert "`mmface retrain --recipe demo`" in page
