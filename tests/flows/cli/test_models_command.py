"""``mmface models list|show|promote|rollback`` on a real MLflow: what they print, refuse and record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.command_line import _parser, main
from flows.steps import promotion
from mmface.bundles import registry
from mmface.bundles.moves import read_past
from mmface.bundles.verdicts import record_decision
from mmface.evaluate.figures import Figure
from mmface.store import Store
from tests.flows.releases import NAME, champion, loads

LINEAGE = {"images": {"dataset": "datasets/images/0a1b", "counts": {"in": 9, "out": 8}, "code_version": "0.4.0"}}
FIGURES = [
    Figure(name="mask/miou", value=0.61234, low=0.59, high=0.63, n=64, extractor="zoo:parser 0a1b2c"),
    Figure(name="mask/fid", value=None, unavailable="needs metrics.inception"),
]


@pytest.fixture
def bundles(registry_home: Store, tmp_path: Path) -> Iterator[list[str]]:
    """Three versions: passed, rejected, never gated; the first has figures, the last only metrics."""
    run, made = registry.start_run("r"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "run_job", loads)  # the warm-up of a loadable bundle
        for name in ("one", "two", "three"):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "README.md").write_text(name)
            (folder / "lineage.json").write_text(json.dumps(LINEAGE))
            (folder / "metrics.json").write_text('{"mask/miou": 0.5, "mask/n": null}')
            if name == "one":
                (folder / "figures.json").write_text(json.dumps([one.model_dump() for one in FIGURES]))
            made.append(registry.register_bundle(folder, run))
        record_decision(NAME, made[0], "passed", "passed 2 checks", '{"checks": [{"name": "mask/miou"}]}')
        record_decision(NAME, made[1], "rejected", "mask/miou is 0.1, required >= 0.3", "{}")
        yield made


def test_a_version_is_promoted_forced_shown_and_rolled_back(
    bundles: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = bundles
    assert main(["models", "promote", first, "--why", "the first"]) == 0
    assert capsys.readouterr().out == f"champion is version {first}; before it: none\n"
    assert main(["models", "promote", "champion", "--why", "again"]) == 0
    assert capsys.readouterr().out == f"version {first} is the champion already; nothing was moved\n"

    for version, why in ((second, "the gate rejected version 2"), (third, "no decision of the gate is recorded")):
        assert main(["models", "promote", version, "--why", "hurry"]) == 2
        said = capsys.readouterr().err
        assert why in said
        assert f"mmface models promote {version} --force --why TEXT" in said
    assert champion() == first

    assert main(["models", "promote", second, "--force", "--why", "the judge is broken"]) == 0
    assert [(one.kind, one.why) for one in read_past(NAME).moves] == [
        ("promoted", "the first"),
        ("forced", "the judge is broken"),
    ]
    capsys.readouterr()
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [NAME, third, second, first]
    assert lines[1].split()[3] == "-"
    assert lines[2].split()[3] == "rejected"
    assert lines[2].endswith("champion")
    assert lines[3].endswith("previous")

    assert main(["models", "rollback", second, "--why", "blurred hair"]) == 0
    assert champion() == first
    capsys.readouterr()
    assert main(["models", "show", "champion"]) == 0
    page = capsys.readouterr().out
    for text in (
        f"{NAME} version {first}",
        "passed: passed 2 checks",
        '"name": "mask/miou"',
        "0.6123  0.59 to 0.63   64  zoo:parser 0a1b2c",
        "unavailable",
        "needs metrics.inception",
        "datasets/images/0a1b     8  0.4.0",
        f"{second}     {first}     rolled back",
        "blurred hair",
        "the judge is broken",
    ):
        assert text in page, page


def test_an_earlier_bundle_and_an_alias_moved_by_hand_are_shown_as_such(
    bundles: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, _, third = bundles
    assert main(["models", "promote", first, "--why", "the first"]) == 0
    registry.open_tracking().set_registered_model_alias(NAME, "champion", third)
    capsys.readouterr()
    remark = f"champion was moved outside mmface: it is on version {third}, the last recorded move put it on version"
    for command in (["models", "list"], ["models", "show", third]):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert f"{remark} {first}" in out
    assert "no decision is recorded" in out
    assert re.search(r"^mask/miou +0\.5$", out, re.MULTILINE)
    assert main(["models", "rollback"]) == 0
    assert main(["models", "show", third]) == 0
    assert "moved outside mmface  unknown" in capsys.readouterr().out


def test_a_corrupt_bundle_is_named_and_the_registry_unchanged(
    bundles: list[str], registry_home: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    held = registry.open_tracking().get_registered_model(NAME).aliases
    (place,) = (one.parent for one in Path(str(registry_home.local_path)).rglob("figures.json"))
    for file, content in (
        ("figures.json", b"[{"),
        ("figures.json", b'[{"name": 3}]'),
        ("figures.json", b"\xff"),
        ("lineage.json", b"[]"),
        ("lineage.json", None),
    ):
        path = place / file
        before = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        assert main(["models", "show", bundles[0]]) == 2
        said = capsys.readouterr().err
        assert f"mmface: error: {file}: {file} of {NAME} version 1 is " in said
        assert "register its bundle again or delete the version" in said
        path.write_bytes(before)
    assert registry.open_tracking().get_registered_model(NAME).aliases == held


def test_the_names_of_earlier_releases_work_and_say_where_they_moved(
    bundles: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = bundles
    for old, new in (
        (["runs"], "list"),
        (["promote", first, "--why", "the first"], "promote"),
        (["promote", second, "--why", "the second", "--force"], "promote"),
        (["rollback", second], "rollback"),
    ):
        assert main(old) == 0
        err = capsys.readouterr().err
        assert f"mmface: mmface {old[0]} is now mmface models {new}; the next release removes the old name" in err
    assert champion() == first
    listed = _parser().format_help()
    assert "models" in listed
    assert not any(line.split()[:1] in (["runs"], ["promote"], ["rollback"]) for line in listed.splitlines())


def test_a_registry_that_does_not_answer_is_named(
    registry_home: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for words in (["list"], ["show", "1"], ["promote", "1", "--why", "x"], ["rollback"]):
        assert main(["models", *words]) == 2
        assert "mmface: error: MLFLOW_TRACKING_URI: MLflow does not answer" in capsys.readouterr().err
