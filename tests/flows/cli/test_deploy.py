"""The files and errors of `mmface deploy`; tests/e2e/test_cluster_mode.py runs it against a server."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.events import DeploymentTriggerTypes
from prefect.events.schemas.automations import AutomationCore
from pydantic import TypeAdapter

from flows.arrivals import EVENT
from flows.cli.command_line import main
from flows.cli.operations.deploy import AUTOMATIONS, DEFAULT_FILE, SLOTS, read, with_recipe
from flows.steps.tasks import LIMITS


def test_every_deployment_names_a_flow_and_valid_parameters():
    declared = read(DEFAULT_FILE)
    PrefectYamlModel.model_validate(declared)
    for one in declared["deployments"]:
        module, _, name = one["entrypoint"].rpartition(".")
        flow = getattr(import_module(module), name)
        assert isinstance(flow, Flow)
        flow.validate_parameters({**one.get("parameters", {})})
        for trigger in one.get("triggers", ()):
            TypeAdapter(DeploymentTriggerTypes).validate_python(trigger)
    assert EVENT in DEFAULT_FILE.read_text()
    assert {"nightly", "weekly"} <= {s["slug"] for one in declared["deployments"] for s in one.get("schedules", ())}


def test_prefect_accepts_the_automations():
    for one in yaml.safe_load(DEFAULT_FILE.with_name(AUTOMATIONS).read_text()):
        AutomationCore.model_validate(one)


def test_deploy_creates_exactly_the_limits_that_stages_use():
    assert set(SLOTS) == set(LIMITS.values())


def test_with_another_recipe_the_overrides_of_a_deployment_come_last():
    declared = with_recipe(read(DEFAULT_FILE), "laptop", ["seed=1"])
    by_name = {(one["entrypoint"], one["name"]): one["parameters"] for one in declared["deployments"]}
    assert by_name["flows.retrain.retrain", "full"] == {
        "recipe": "laptop",
        "overrides": ["seed=1", "train.start=scratch"],
    }
    assert by_name["flows.maintenance.reap", "periodic"] == {}


@pytest.mark.parametrize(
    ("address", "expected"),
    [(None, "mmface up --env"), ("http://127.0.0.1:9/api", "nothing answers")],
)
def test_a_missing_or_unreachable_server_is_named(
    address: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if address:
        monkeypatch.setenv("PREFECT_API_URL", address)
    assert main(["deploy"]) == 2
    err = capsys.readouterr().err
    assert "PREFECT_API_URL" in err
    assert expected in err


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "cannot read"), ("a: [", "not YAML"), ("name: x", "no deployments")]
)
def test_a_missing_or_malformed_file_is_named(
    content: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "prefect.yaml"
    if content:
        file.write_text(content)
    assert main(["deploy", "--file", str(file)]) == 2
    assert expected in capsys.readouterr().err
