"""Kills every stage (SIGKILL) at seeded random moments: a rerun loses, doubles, changes and recomputes no row (§6).

``make faults`` tries every moment and prints a table; a plain test run tries each kind of kill once on one stage.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmface import plan
from mmface.config.load import load_recipe
from mmface.datasets.dataset import Dataset, open_dataset
from mmface.datasets.manifest import Identity
from mmface.store import Store
from tests.faults.lab import GONE_AFTER_S, KINDS, Driver, Run, rows_made, uris_of

STAGES = ("images", "conditions", "captions", "latents", "text")
MOMENTS = int(os.environ.get("FAULT_MOMENTS", "0"))  # for each stage; set by make faults
SEED = int(os.environ.get("FAULT_SEED", "3"))
ROWS, SHARD = 48, 2
INPUTS = {
    "images": (),
    "conditions": ("images",),
    "captions": ("images", "conditions"),
    "latents": ("images", "conditions"),
    "text": ("captions",),
}
SETTINGS = [
    f"portraits.n={ROWS}",
    "portraits.size=64",
    f"data.shard_rows={SHARD}",
    "data.min_size=32",
    "data.captions_per_image=2",
    "phases.0.resolution=32",
    "phases.1.resolution=64",
]


@dataclass
class Undisturbed:
    """The datasets of every stage without a kill: the last dataset of a stage, and the content of all."""

    folder: Path
    datasets: dict[str, Dataset]
    content: dict[str, dict[str, str]]

    @property
    def settings(self) -> list[str]:
        source = Path(self.datasets["portraits"].uri)
        return [*SETTINGS, f"sources=[{{name: photos, images: {source}/images, masks: {source}/masks}}]"]

    def identity(self, stage: str, home: Store) -> Identity:
        recipe = load_recipe("demo", self.settings)
        given = {name: self.datasets[name].uri for name in INPUTS[stage]}
        make = getattr(plan, stage)
        more = {"images": [home], "latents": [recipe.resolutions[-1]]}.get(stage, [])
        return make(recipe, *more, **given)  # type: ignore[no-any-return]

    def arguments(self, stage: str, home: str) -> list[str]:
        inputs = [part for name in INPUTS.get(stage, ()) for part in ("--inputs", f"{name}={self.datasets[name].uri}")]
        settings = self.settings if "portraits" in self.datasets else SETTINGS
        return ["--recipe", "demo", "--home", home, *(p for s in settings for p in ("--set", s)), *inputs]


@dataclass
class Trial:
    """The result of one kill; a row of the table."""

    stage: str
    kind: str
    at: int
    code: int
    on_disk: int
    again: int
    rerun: int
    total: int
    same: bool


TABLE: list[Trial] = []

pytestmark = [pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Undisturbed:
    folder = tmp_path_factory.mktemp("faults")
    made = Undisturbed(folder, {}, {})
    for stage in ("portraits", *STAGES[: 1 + max(STAGES.index(stage) for stage, _, _ in moments())]):
        uris = run_here(stage, made.arguments(stage, str(folder / "home")))
        made.datasets[stage], made.content[stage] = open_dataset(uris[-1]), content(uris)
    return made


def run_here(stage: str, arguments: list[str]) -> list[str]:
    """Runs an entrypoint in this process, without a kill."""
    return uris_of(importlib.import_module(f"ray_jobs.{stage}").main(arguments))


def content(uris: list[str]) -> dict[str, str]:
    """Checksums of all files of datasets of different stages."""
    found = [(one.manifest.stage, file) for one in map(open_dataset, uris) for file in one.manifest.files]
    return {f"{stage}/{file.path}": file.sha256 for stage, file in found}


def moments() -> list[tuple[str, str, int]]:
    """(stage, kind, number) of each kill; the kinds are used in turn."""
    if not MOMENTS:
        return [("images", kind, number) for number, kind in enumerate(KINDS)]
    return [(stage, KINDS[number % len(KINDS)], number) for stage in STAGES for number in range(MOMENTS)]


@pytest.mark.parametrize(("stage", "kind", "number"), moments())
def test_a_killed_stage_resumes_and_equals_the_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path, caplog, stage: str, kind: str, number: int
):
    chance = random.Random(f"{SEED}-{stage}-{number}")  # noqa: S311
    identity = undisturbed.identity(stage, Store(tmp_path))
    arguments = undisturbed.arguments(stage, str(tmp_path))
    folder = tmp_path / identity.key / ("work/read" if stage == "images" else "data")
    parts = ROWS // SHARD
    at = chance.randrange(parts if kind in ("actor", "worker") else parts + 1)
    driver = Driver.start(stage, arguments, tmp_path)
    before = strike(driver, kind, folder, at, chance)
    killed = driver.finish(GONE_AFTER_S) if kind == "ray" else driver.finish()
    rerun = killed
    if kind in ("driver", "ray"):
        assert killed.code, "it was killed but exited with 0"
        before = finished(folder)
        with caplog.at_level(logging.INFO, "ray_jobs.shared.job"):
            uris = run_here(stage, arguments)
        rerun = Run(0, uris, rows_made("\n".join(caplog.messages)), caplog.text)
    trial = judge(undisturbed, stage, kind, at, killed, rerun, before, folder, tmp_path)
    TABLE.append(trial)
    assert trial.same
    assert not trial.again


def strike(driver: Driver, kind: str, folder: Path, at: int, chance: random.Random) -> dict[str, tuple[int, int]]:
    """Kills when ``at`` parts exist; returns the parts that existed before the kill."""
    while len(finished(folder)) < at and driver.process.poll() is None:
        time.sleep(0.002)
    # Before the first part the actors may still be loading their networks.
    time.sleep(chance.uniform(0, 0.05 if at else 2.0))
    while driver.process.poll() is None:
        before = finished(folder)
        if driver.kill(kind, chance.choice):
            return before
        time.sleep(0.01)
    pytest.fail(f"the run ended before it could be killed: {driver.log.read_text()}")


def judge(
    undisturbed: Undisturbed,
    stage: str,
    kind: str,
    at: int,
    killed: Run,
    rerun: Run,
    before: dict[str, tuple[int, int]],
    folder: Path,
    home: Path,
) -> Trial:
    """Compares the published dataset with the undisturbed run."""
    assert rerun.uris, rerun.log
    dataset, expected = open_dataset(rerun.uris[-1]), undisturbed.datasets[stage]
    ids, known = (one.table(["id"])["id"].to_pylist() for one in (dataset, expected))
    counts = dataset.manifest.counts
    assert counts == expected.manifest.counts
    assert counts["in"] == sum(counts[name] for name in ("out", "quarantined", "duplicates", "filtered")) == ROWS
    assert len(ids) == len(set(ids))
    for file in dataset.manifest.files:
        dataset.read(file.path)
    assert not [path for path in home.rglob(".tmp-*") if path.is_file()]
    assert not Store(dataset.uri).list("work")
    after = finished(folder)
    again = [name for name, mark in before.items() if name in after and after[name] != mark]
    made_again = SHARD * len(again)
    if rerun is not killed:
        # The rerun must compute only the rows that no part had.
        made_again += max(0, rerun.rows - (ROWS - SHARD * len(before)))
    same = content(rerun.uris) == undisturbed.content[stage] and sorted(ids) == sorted(known)
    return Trial(stage, kind, at, killed.code, SHARD * len(before), made_again, rerun.rows, ROWS, same)


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """The existing parts, each with inode and time of change, which would differ if the part were rewritten."""
    found = {}
    for path in folder.glob("part-*.parquet"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found[path.name] = (stat.st_ino, stat.st_mtime_ns)
    return found


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print(f"\n{'stage':<11}{'killed':<8}{'parts':>6}{'exit':>6}{'rows kept':>12}{'computed':>11}{'again':>7} content")
    for one in TABLE:
        print(
            f"{one.stage:<11}{one.kind:<8}{one.at:>6}{one.code:>6}{one.on_disk:>12}{one.rerun:>11}{one.again:>7} "
            f"{'identical' if one.same else 'DIFFERS'}"
        )
    print(f"{len(TABLE)} kills")
