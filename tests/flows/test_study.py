"""The flow ``study``: errors before anything is computed, nested MLflow runs, trials that stay stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli.command_line import main
from flows.steps.line import Prepared, Run
from flows.study import assign, check_losses, mark_stopped, open_study, stopped_before, study, variant_of
from flows.trials import STEPS, stopping_early
from mmface.bundles import tracking
from mmface.errors import RecipeError
from mmface.studies.trials import HELD_OUT, Outcome, Trial, ablation, sweep

DATA = Prepared("images", "conditions", "captions", "text", {64: "latents"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--grid", "train.ema_dekay=[0.9]"], "train.ema_dekay: unknown key 'ema_dekay'"),
        (["sweep", "--grid", "train.ema_decay=[0.9, 2]"], "train.ema_decay: Input should be less than or equal to 1"),
        (["sweep", "--grid", "seed=[1, 2]"], "--grid: seed is not an axis"),
        (["ablate", "--seeds", "0"], "--seeds: at least 1 is needed"),
        (["ablate", "--set", "model.rope=false"], "model.rope: false already"),
    ],
)
def test_a_mistake_on_the_command_line_is_named_before_anything_starts(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("prefect_server")
def test_a_value_out_of_range_fails_the_flow_before_data_is_prepared(run: Run) -> None:
    state = study(grid=["train.ema_decay=[0.9, 2]"], return_state=True)
    assert state.is_failed()
    assert "train.ema_decay" in str(state.message)
    assert not list(run.home.list("datasets"))


def test_a_study_and_its_trials_are_nested_and_the_same_in_a_rerun_and_with_more_seeds(run: Run) -> None:
    client = tracking.open_tracking()
    few, more = ablation(run.recipe), ablation(run.recipe, seeds=2)
    parent = open_study(run, "ablation", few)
    assert open_study(run, "ablation", more) == parent
    assert open_study(run, "sweep", sweep(run.recipe, ["train.ema_decay=[0.9]"])) != parent
    assert client.get_run(parent).data.tags["mmface.study"] == "ablation"
    began = replace(run, mlflow_run=parent)
    keys = [assign(began, trial, variant_of(run, trial), DATA).key for trial in more]
    assert len(set(keys)) == 10
    assert [assign(began, trial, variant_of(run, trial), DATA).key for trial in few] == keys[::2]
    child = tracking.start_run("Model-1", key=keys[0], parent=parent)
    assert tracking.start_run("Model-1", key=keys[0], parent=parent) == child
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_a_trial_that_was_stopped_early_is_known_to_the_next_run(run: Run) -> None:
    trials = sweep(run.recipe, ["train.ema_decay=[0.9, 0.99]"])
    began = replace(run, mlflow_run=open_study(run, "sweep", trials))
    good, bad = (assign(began, trial, variant_of(run, trial), DATA) for trial in trials)
    assert stopped_before([good, bad]) == {}
    mark_stopped(bad, Outcome(bad.trial, 0.5, stopped=40))
    found = stopped_before([good, bad])
    assert {name: one.stopped for name, one in found.items()} == {bad.trial.name: 40}


def test_only_losses_that_can_be_compared_stop_a_trial(run: Run) -> None:
    def runs(*changes: dict[str, object]) -> list[Run]:
        return [variant_of(run, Trial("one", 0, change)) for change in changes]

    check_losses(runs({"train.ema_decay": 0.9}, {"model.depth": 2}), 1)
    with pytest.raises(RecipeError, match=r"watch\.held_out_rows"):
        check_losses(runs({"watch.held_out_rows": 0}), 1)
    with pytest.raises(RecipeError, match="--stop-early: losses on other data or of another objective"):
        check_losses(runs({"objective.name": "flow"}, {"objective.name": "ddpm"}), 1)
    with pytest.raises(RecipeError, match="--stop-early: losses on other data"):
        check_losses(runs({}, {}), 2)


def test_the_worse_half_is_stopped_at_a_quarter_and_at_half_of_the_steps() -> None:
    scheduler = stopping_early(100)

    def decide(name: str, steps: int, loss: float) -> str:
        trial = SimpleNamespace(trial_id=name, config={})
        if name not in scheduler._trial_info:
            scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {STEPS: steps, HELD_OUT: loss})

    assert [decide("good", steps, 0.5) for steps in (10, 25, 50, 100)] == ["CONTINUE"] * 4
    assert [decide("bad", steps, 0.6) for steps in (24, 26)] == ["CONTINUE", "STOP"]
    assert [decide("late", steps, loss) for steps, loss in ((25, 0.4), (40, 0.9), (51, 0.7))] == [
        "CONTINUE",
        "CONTINUE",
        "STOP",
    ]
