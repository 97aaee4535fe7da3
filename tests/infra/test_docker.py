"""The image is built as hadolint advises, from what there is, and leaves secrets and data outside."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.infra.commands import check_command
from tests.infra.manifests import INFRA, ROOT, tool

DOCKERFILE = INFRA / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text("utf-8")


def test_hadolint_agrees() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_bases_are_pinned_and_nobody_is_root() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", TEXT, re.MULTILINE)
    names = {name for _, name in stages}
    assert [base for base, _ in stages if base not in names] == ["python:${PYTHON}"]
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-slim-[a-z]+$", TEXT, re.MULTILINE)
    for target in ("cpu", "cuda"):
        stage = TEXT.partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
        assert re.findall(r"^USER (.+)$", stage, re.MULTILINE) == ["1000:1000"], target
    assert "HEALTHCHECK" in TEXT


def test_dependencies_are_the_tested_ones() -> None:
    for line in re.findall(r"pip install[^\n\\]*", TEXT):
        assert "--constraint constraints.txt" in line or "--no-deps" in line, line


def test_what_is_copied_goes_to_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    for sources in re.findall(r"^COPY (?!--)(.+) \S+$", TEXT, re.MULTILINE):
        for source in sources.split():
            assert source in allowed
            assert (ROOT / source).exists()


@pytest.mark.parametrize("path", [".env", "infra/compose/.env", ".git/config", "mmface-home/mlflow.db", "faces/0.jpg"])
def test_secrets_and_data_do_not(path: str) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert lines[1] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert not any(fnmatch.fnmatch(path, each) or path.startswith(f"{each}/") for each in allowed)


def test_a_plain_run_asks_for_a_token_that_a_read_only_root_can_hold(tmp_path: Path) -> None:
    """Without a token ``ray start`` lets everybody in; Ray keeps the one that it makes below the home."""
    shell, option, script = json.loads(re.findall(r"^CMD (.+)$", TEXT, re.MULTILINE)[0])
    assert (shell, option) == ("sh", "-c")
    generate, start = re.split(r" > /dev/null && exec ", script)
    check_command(start)
    ((target, link),) = re.findall(r"ln -s (\S+) (\S+)", TEXT)
    assert target.startswith("/tmp/"), "the one folder that is writable everywhere"
    kept = tmp_path / target.removeprefix("/")
    kept.parent.mkdir()
    (tmp_path / link).parent.mkdir()
    (tmp_path / link).symlink_to(kept)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    program, *arguments = shlex.split(generate)
    done = subprocess.run(
        [tool(program), *arguments],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout) >= 32
    assert kept.read_text() == done.stdout
