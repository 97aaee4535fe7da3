"""The page on scale says what ``mmface estimate`` says."""

from __future__ import annotations

import re

import pytest

from flows.cli.command_line import main
from tests.infra.manifests import ROOT

SIZES = (100_000, 10_000_000)


def test_the_figures_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "operations" / "scale.md").read_text("utf-8")
    assert "mmface estimate --recipe paper-flow --images N --gpus 8xA100" in page
    printed = []
    for images in SIZES:
        assert main(["estimate", "--recipe", "paper-flow", "--images", str(images), "--gpus", "8xA100"]) == 0
        table = capsys.readouterr().out.partition("USD:")[0]
        printed.append(re.findall(r"^(\S+) +([\d,.]+) +([\d,.]+ \w+) +-$", table, re.MULTILINE))
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    told = [row for row in rows if row[0] in {stage for stage, *_ in printed[0]}]
    small, large = printed
    assert len(small) == 10
    assert told == [[*one, *other[1:]] for one, other in zip(small, large, strict=True)]
