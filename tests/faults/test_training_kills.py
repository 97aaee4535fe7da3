"""Kills a training worker or the driver (SIGKILL) at seeded random steps of two phases, and loses a machine.

The resumed run must equal the undisturbed one to the last bit: weights, EMA, optimizer, learning rate, logged losses.
``make faults`` tries twelve moments and prints a table.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from mmface.datasets.dataset import open_dataset
from mmface.store import Store
from ray_jobs import train
from tests.faults.lab import Driver
from tests.ray_jobs.test_train import publish_latents, publish_text

MOMENTS = int(os.environ.get("FAULT_MOMENTS", "2"))
SEED = int(os.environ.get("FAULT_SEED", "3"))
KINDS = ("trainer", "driver")
STEPS = 60  # of each phase
SETTINGS = {
    "components.vae": "made/up",  # see test_train
    "components.text_encoder": "made/up",
    "model": "{hidden_size: 16, depth: 2, num_heads: 2}",
    "phases.0.steps": STEPS,
    "phases.0.batch_size": 6,
    "phases.0.accumulation": 2,
    "phases.1.steps": STEPS,
    "phases.1.batch_size": 4,
    "train.checkpoint_every": 5,
    "train.log_every": 1,
    "train.num_workers": 2,
    "train.precision": "fp32",
}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"

PHASES = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from ray_jobs import train
made = []
for phase in json.loads(sys.argv[2]):
    previous = ["--inputs", f"previous={made[-1]}"] if made else []
    made.append(train.main([*phase, *previous]))
print("DATASETS", json.dumps(made), flush=True)
"""

ELASTIC = (
    """
import logging, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)

def lose():
    while not list(Path(sys.argv[3]).glob("runs/*/step-*/checkpoint.json")):
        time.sleep(0.01)
    cluster.remove_node(second, allow_graceful=False)

threading.Thread(target=lose, daemon=True).start()
"""
    + PHASES
)


@dataclass
class Trial:
    """The result of one kill; a row of the table."""

    kind: str
    at: int
    code: int
    resumed: str
    same: bool


TABLE: list[Trial] = []

pytestmark = [pytest.mark.timeout(3600)]


def phases(home: Path, inputs: Path, **settings: object) -> list[list[str]]:
    """The arguments of both phases, without the input ``previous`` of the second."""
    chosen = [p for key, value in {**SETTINGS, **settings}.items() for p in ("--set", f"{key}={value}")]
    text, *latents = json.loads((inputs / "inputs.json").read_text())
    common = ["--recipe", "demo", "--home", str(home), *chosen, "--inputs", f"text={text}"]
    return [[*common, "--phase", str(n), "--inputs", f"latents={uri}"] for n, uri in enumerate(latents)]


def run_here(given: list[list[str]]) -> list[str]:
    first = train.main(given[0])
    return [first, train.main([*given[1], "--inputs", f"previous={first}"])]


def content(uris: list[str]) -> list[Any]:
    """All that a run made, except wall time: checksums of weights and optimizer, rates and losses of all steps."""
    found: list[Any] = []
    for dataset in map(open_dataset, uris):
        found.append({f.path: f.sha256 for f in dataset.manifest.files if f.path != "history.jsonl"})
        found.append(dataset.manifest.extra["checkpoint"])
        found.append(figures(dataset.uri))
    return found


def figures(uri: str) -> list[dict[str, float]]:
    lines = open_dataset(uri).read("history.jsonl").decode().splitlines()
    computed = ("step", "lr", "loss", "grad_norm")
    return [{k: v for k, v in json.loads(line).items() if k.startswith(computed)} for line in lines]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    home = Store(folder)
    uris = [publish_text(home), publish_latents(home, 4), publish_latents(home, 8)]
    (folder / "inputs.json").write_text(json.dumps(uris))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: Path, ray_session: None) -> list[str]:
    return run_here(phases(tmp_path_factory.mktemp("undisturbed"), inputs))


def moments() -> list[tuple[str, int]]:
    """(kind, global step) of each kill; every third is near the border of the phases."""
    chosen = []
    for number in range(MOMENTS):
        chance = random.Random(f"{SEED}-{number}")  # noqa: S311
        at = STEPS + chance.randrange(-3, 4) if number % 3 == 1 else chance.randrange(2 * STEPS)
        chosen.append((KINDS[number % 2], at))
    return chosen


@pytest.mark.parametrize(("kind", "at"), moments())
def test_a_killed_training_resumes_and_equals_the_undisturbed_one(
    undisturbed: list[str], inputs: Path, tmp_path: Path, caplog, kind: str, at: int
):
    chance = random.Random(f"{SEED}-{kind}-{at}")  # noqa: S311
    home = tmp_path / "home"
    given = phases(home, inputs)
    driver = Driver.start("train", [json.dumps(given)], tmp_path, PHASES)
    strike(driver, kind, home, at, chance)
    killed = driver.finish()
    uris, log = killed.uris, killed.log
    if kind == "driver":
        assert killed.code, "it was killed but exited with 0"
        with caplog.at_level("INFO", "ray_jobs"):
            uris = run_here(given)
        log = caplog.text
    assert uris, log
    resumed = re.findall(r"resumes from the checkpoint of step (\d+)(.*)", log)
    assert not [rest for _, rest in resumed if "damaged" in rest], "no kill damages a checkpoint"
    same = content(uris) == content(undisturbed)
    TABLE.append(Trial(kind, at, killed.code, ",".join(step for step, _ in resumed) or "-", same))
    assert same
    assert not Store(home).list("runs")


def strike(driver: Driver, kind: str, home: Path, at: int, chance: random.Random) -> None:
    """Kills when ``at`` steps of both phases are done."""
    while reached(home) < at and driver.process.poll() is None:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))
    while driver.process.poll() is None:
        if driver.kill(kind, chance.choice):
            return
        time.sleep(0.005)
    pytest.fail(f"the run ended before it could be killed: {driver.log.read_text()}")


def reached(home: Path) -> int:
    """The number of steps done in both phases, by the progress file of the run."""
    finished = len(list(home.glob("datasets/train-*/*/manifest.json")))
    for path in home.glob("progress/train-*"):
        try:
            step = re.search(r"step (\d+)/", path.read_text())
        except FileNotFoundError:
            continue
        finished = max(finished, int(path.name.split("-")[1]))
        if step:
            return STEPS * int(path.name.split("-")[1]) + int(step[1])
    return STEPS * finished


def test_after_a_lost_machine_the_remaining_workers_finish(
    undisturbed: list[str], inputs: Path, tmp_path: Path, monkeypatch
):
    """Two machines with one worker each; one is lost after the first checkpoint, and the other finishes alone."""
    given = phases(tmp_path / "home", inputs, **{"train.min_workers": 1})[:1]
    # In the default folder other processes would find and join this cluster; paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as apart:
        monkeypatch.setenv("RAY_TMPDIR", apart)
        driver = Driver.start("train", [json.dumps(given), str(tmp_path / "home")], tmp_path, ELASTIC)
        while driver.process.poll() is None:
            driver.descendants()
            time.sleep(0.5)
        run = driver.finish()
    assert run.uris, run.log
    assert re.search(r"resumes from the checkpoint of step \d+ \(1 workers\)", run.log), run.log
    one, two = (load_safetensors(open_dataset(uri).read(WEIGHTS)) for uri in (undisturbed[0], run.uris[0]))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)
    for known, found in zip(figures(undisturbed[0]), figures(run.uris[0]), strict=True):
        assert found == pytest.approx(known, rel=1e-3, abs=1e-6)


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print(f"\n{'killed':<9}{'at step':>8}{'exit':>6}{'resumed from':>14}  weights, EMA, optimizer, rates, losses")
    for one in TABLE:
        word = "identical" if one.same else "DIFFER"
        print(f"{one.kind:<9}{one.at:>8}{one.code:>6}{one.resumed:>14}  {word}")
    print(f"{len(TABLE)} kills")
