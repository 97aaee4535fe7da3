"""``mmface recipe``: what ships, what a resolved recipe holds and why, what a key means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli.command_line import main
from mmface.config.load import RECIPES, load_recipe
from mmface.config.reference import reference

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["recipe", *arguments]) == 0
    return capsys.readouterr().out


def test_list_names_every_recipe_that_ships_with_its_purpose(capsys: pytest.CaptureFixture[str]):
    lines = printed(capsys, "list").splitlines()[1:]
    assert [line.split()[0] for line in lines] == NAMES
    assert all(line.endswith((".", ")")) and len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_show_prints_the_resolved_recipe_as_yaml(name: str, capsys: pytest.CaptureFixture[str]):
    assert yaml.safe_load(printed(capsys, "show", name)) == load_recipe(name).model_dump(mode="json")


def test_what_show_prints_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sources = "sources=[{name: ours, images: 's3://faces/a: b #c', licence: 'CC-BY 4.0'}]"
    overrides = ["--set", sources, "--set", "train.balance={ours: 2}", "--set", "jobs.timeout_s={train: 60}"]
    path = tmp_path / "shown.yaml"
    path.write_text(printed(capsys, "show", "demo", *overrides))
    assert load_recipe(str(path)) == load_recipe("demo", [one for one in overrides if one != "--set"])


def test_show_says_where_each_value_comes_from(capsys: pytest.CaptureFixture[str]):
    text = printed(capsys, "show", "faces", "--set", "train.ema_decay=0.5")
    lines = {line.partition("  # ")[0].strip(): line.partition("  # ")[2] for line in text.splitlines()}
    assert lines["name: faces"] == "file faces"
    assert lines["hidden_size: 256"] == "base demo"
    assert lines["port: 8000"] == "default"
    assert lines["ema_decay: 0.5"] == "--set"
    assert lines["- resolution: 64"] == "file faces"
    assert lines["model:"] == ""


def test_show_as_json_holds_the_recipe_and_the_origins_by_key(capsys: pytest.CaptureFixture[str]):
    told = json.loads(printed(capsys, "show", "faces", "--json", "--set", "seed=7"))
    assert told["recipe"] == load_recipe("faces", ["seed=7"]).model_dump(mode="json")
    assert told["origins"]["seed"] == "--set"
    assert told["origins"]["phases.1.steps"] == "file faces"
    assert told["origins"]["model.depth"] == "base demo"


@pytest.mark.parametrize("key", [key.key for key in reference()])
def test_explain_knows_every_key_of_the_reference(key: str, capsys: pytest.CaptureFixture[str]):
    assert printed(capsys, "explain", key).startswith(f"{key}\n")


def test_explain_tells_type_default_limits_and_meaning(capsys: pytest.CaptureFixture[str]):
    text = printed(capsys, "explain", "data.holdout")
    for line in ("type     number", "default  0.15", "limits   0 to 1", "Share of the photographs that is held out"):
        assert f"  {line}" in text


def test_explain_of_a_section_lists_its_keys(capsys: pytest.CaptureFixture[str]):
    text = printed(capsys, "explain", "train")
    assert "  train.ema_decay " in text
    assert "data.holdout" not in text
    assert "phases.N.steps" in printed(capsys, "explain", "phases.0")


def test_explain_without_a_key_lists_all(capsys: pytest.CaptureFixture[str]):
    lines = printed(capsys, "explain").splitlines()[1:]
    assert [line.split()[0] for line in lines] == [key.key for key in reference()]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["explain", "train.ema_decoy"], "train.ema_decoy: there is no such recipe key; did you mean train.ema_decay"),
        (["show", "no-such"], "recipe: no recipe 'no-such'; known: ablation-1"),
        (["show", "demo", "--set", "train.lr=1"], "train.lr: unknown key 'lr'; known here: parallel"),
        (["show", "demo", "--set", "data.holdout=2"], "data.holdout: Input should be less than or equal to 1 (got 2)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]):
    assert main(["recipe", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1].startswith(f"mmface: error: {error}")
    assert not said.out


def test_help_loads_no_recipe():
    code = "import flows.cli.recipe, sys; print([m for m in ('pydantic', 'yaml', 'mmface.config') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["list", "show demo"])
def test_a_closed_pipe_ends_the_command_silently(command: str):
    given = [sys.executable, "-m", "flows.cli", "recipe", *command.split()]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""
    assert running.returncode == 141
