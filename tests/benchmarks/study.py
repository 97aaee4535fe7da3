"""Kills an ablation of tiny models with SIGKILL, resumes it, and checks that nothing was done twice.

Then a sweep with early stopping: the trial that learns nothing is stopped, and stays so in a rerun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmface.bundles import tracking
from mmface.bundles.registry import list_versions
from mmface.store import HOME_VARIABLE, Store
from tests.benchmarks._common import finish, folder, parse, verdict
from tests.faults.lab import ROOT, Driver

SMALL = [
    "portraits.n=24",
    "portraits.size=64",
    "data.min_size=32",
    "data.holdout=0.3",
    "model.hidden_size=64",
    "model.depth=2",
    "model.num_heads=4",
    "phases=[{resolution: 32, steps: 24, batch_size: 4, learning_rate: 1.0e-3}]",
    "train.log_every=4",
    "train.checkpoint_every=4",
    "watch.held_out_rows=4",
    "sampling.num_inference_steps=2",
    "evaluate.n=4",
    "evaluate.n_sketch=2",
    "evaluate.grid=2",
]
# Long enough to be stopped in the middle; with the second learning rate nothing is learnt.
SWEEP = ["--stop-early", "--grid", "phases.0.learning_rate=[1.0e-3, 1.0e-12]"]
LONGER = ["phases.0.steps=600", "watch.held_out_every=50", "train.checkpoint_every=50"]
WAIT_SECONDS = 1200.0


def main() -> None:
    given = parse(__doc__, seeds=1)
    with folder(given.home) as place:
        home = Store(place / "home")
        os.environ[HOME_VARIABLE] = home.uri
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
            os.environ.pop(name, None)
        ablate = ["ablate", "--seeds", str(given.seeds)]
        before = killed(ablate, home, place)
        first, seconds = completed(ablate, place)
        after = datasets(home)
        again, rerun_seconds = completed(ablate, place)
        print(first)
        print(f"     resumed in {seconds:.0f} s; a rerun takes {rerun_seconds:.0f} s")
        results = [
            verdict("datasets that the kill left and the rerun changed", changed(before, after), 0),
            verdict("models trained", trained(after), 4 * given.seeds, at_most=False),
            verdict("models trained more often than once", trained(after) - 4 * given.seeds, 0),
            verdict("datasets of each stage of the data", most_of_a_stage(after), 1),
            verdict("datasets that a rerun made", len(datasets(home)) - len(after), 0),
            verdict("runs of the study in MLflow", len(runs(None)), 1),
            verdict("trials that are no finished child of it", 5 * given.seeds - finished_children(), 0),
            verdict("steps logged twice", steps_logged_twice(), 0),
            verdict("registered versions", len(list_versions()), 0),
            verdict("tables that differ in a rerun", int(first != again), 0),
            *sweep(home, place),
        ]
    finish(results)


def sweep(home: Store, place: Path) -> list[bool]:
    """A trial that learns nothing is stopped early; the rerun leaves it alone."""
    arguments = ["sweep", *SWEEP, *(word for one in LONGER for word in ("--set", one))]
    before = trained(datasets(home))
    first, _ = completed(arguments, place)
    made = trained(datasets(home)) - before
    again, _ = completed(arguments, place)
    print(first)
    return [
        verdict("trials stopped early", first.count("1 stopped early"), 2, at_most=False),  # in two tables
        verdict("models trained to the end", made, 1),
        verdict("models that the rerun trained", trained(datasets(home)) - before - made, 0),
        verdict("trials stopped early in the rerun", again.count("1 stopped early"), 2, at_most=False),
    ]


def killed(arguments: Sequence[str], home: Store, place: Path) -> dict[str, bytes]:
    """Starts a study and kills it with all that it started when its third model trains; the datasets it leaves."""
    log = place / "killed.log"
    with log.open("w") as sink:
        process = subprocess.Popen(command(arguments), stdout=sink, stderr=sink, text=True, cwd=ROOT)
    driver, end = Driver(process, log), time.monotonic() + WAIT_SECONDS
    while not (trained(datasets(home)) == 2 and any("/train-" in one.key for one in home.list("runs"))):
        assert process.poll() is None, f"the study ended before it was killed: {log.read_text()[-2000:]}"
        assert time.monotonic() < end, "no third model was trained"
        driver.descendants()
        time.sleep(0.2)
    driver.kill("driver", min)
    process.wait()
    driver.clean()
    return datasets(home)


def completed(arguments: Sequence[str], place: Path) -> tuple[str, float]:
    """Runs a study to its end; returns what it prints, and the seconds."""
    start = time.monotonic()
    with (place / "study.log").open("a") as log:
        done = subprocess.run(command(arguments), stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, (place / "study.log").read_text()[-2000:]
    return done.stdout, time.monotonic() - start


def command(arguments: Sequence[str]) -> list[str]:
    settings = [word for one in SMALL for word in ("--set", one)]
    kind, *options = arguments
    return [sys.executable, "-m", "flows.cli", kind, *settings, *options]


def datasets(home: Store) -> dict[str, bytes]:
    """The manifests of all published datasets."""
    keys = (entry.key for entry in home.list("datasets") if entry.key.endswith("/manifest.json"))
    return {key: home.read(key) for key in keys}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> int:
    return sum(after.get(key) != data for key, data in before.items())


def trained(found: dict[str, bytes]) -> int:
    return sum(key.startswith("datasets/train-") for key in found)


def most_of_a_stage(found: dict[str, bytes]) -> int:
    """The largest number of datasets of one stage of the data."""
    stages = Counter(json.loads(data)["stage"] for data in found.values())
    return max(count for stage, count in stages.items() if stage in ("portraits", "images", "text", "latents-32"))


def runs(parent: str | None) -> list[Any]:
    """The MLflow runs of studies, or those below a run."""
    client = tracking.open_tracking()
    wanted = f"tags.`{tracking.PARENT_TAG}` = '{parent}'" if parent else "tags.`mmface.study` = 'ablation'"
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], wanted))


def children() -> list[Any]:
    return runs(runs(None)[0].info.run_id)


def finished_children() -> int:
    return sum(one.info.status == "FINISHED" and "mask/miou" in one.data.metrics for one in children())


def steps_logged_twice() -> int:
    """Number of steps whose loss MLflow has twice; a run of a model that was trained has every logged step."""
    client, twice = tracking.open_tracking(), 0
    for one in children():
        steps = Counter(metric.step for metric in client.get_metric_history(one.info.run_id, "train/loss"))
        twice += sum(count > 1 for count in steps.values())
    return twice


if __name__ == "__main__":
    main()
