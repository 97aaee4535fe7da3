"""The command line: fast help, errors in one line, exit code 2, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli.command_line import main


def test_help_starts_quickly():
    took = []
    for _ in range(3):  # the best of three, since other processes slow the machine down
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "flows.cli", "--help"], check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    assert min(took) <= 1


def test_help_imports_nothing_heavy():
    code = (
        "import flows.cli, sys; print([m for m in ('torch', 'ray', 'prefect', 'mlflow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["retrain", "--recipe", "no-such"], "recipe"),
        (["retrain", "--set", "phases.0.stepz=1"], "phases.0.stepz"),
        (["retrain", "--set", "phases.0.steps=-5"], "phases.0.steps"),
        (["retrain", "--images", "no-such-folder"], "sources.0.images"),
        (["retrain", "--images", "{empty}"], "sources.0.images"),
        (["retrain", "--images", "{empty}", "--captions", "no-such.jsonl"], "sources.0.captions"),
        (["retrain", "--masks", "{empty}"], "--images"),
        (["retrain", "--set", "train.start=nowhere"], "train.start"),
        (["retrain", "--set", "train.start={empty}"], "train.start"),
        (["retrain", "--set", "train.start=models:/mmface-dit@nobody"], "alias"),
        (["retrain", "--set", "train.balance={a: 0}"], "train.balance"),
        (["convert", "nowhere", "--out", "bundle"], "FOLDER"),
        (["convert", "{empty}", "--out", "{empty}"], "--out"),
        (["portraits", "--n", "0", "--out", "drawn"], "n"),
        (["portraits", "--size", "7", "--out", "drawn"], "size"),
        (["generate", "--prompt", "x", "--mask", "no-such.png"], "--mask"),
        (["generate", "--prompt", "x", "--mask", "{words}"], "--mask"),
        (["generate", "--prompt", "x", "--mask", "{words}", "--n", "0"], "--n"),
        (["models", "rollback"], "alias"),
        (["serve", "--set", "serve.port=0"], "serve.port"),
        (["serve"], "serve.alias"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_input_is_one_line_that_names_the_field(
    arguments: list[str],
    field: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.png").write_text("words")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    places = {"{empty}": str(tmp_path / "empty"), "{words}": str(tmp_path / "words.png")}
    for name, place in places.items():
        arguments = [one.replace(name, place) for one in arguments]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(f"mmface: error: {field}: ")
    assert "Traceback" not in "".join(lines)
    assert not list(tmp_path.glob("home/datasets/*/*/manifest.json"))


@pytest.mark.parametrize(
    ("variable", "address"), [("RAY_ADDRESS", "127.0.0.1:9"), ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")]
)
def test_an_unreachable_service_is_named(
    variable: str,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, address)
    assert main(["retrain", "--recipe", "demo"]) == 2
    assert f"mmface: error: {variable}: " in capsys.readouterr().err


def test_doctor_reports_what_is_missing_with_the_fix(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "MISSING RAY_ADDRESS" in out
    assert "unset RAY_ADDRESS" in out
    assert "champion" in out
