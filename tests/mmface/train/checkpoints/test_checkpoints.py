"""Checkpoints in a folder and on S3: written atomically in the background, damage detected, old ones deleted."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
import torch.multiprocessing

from mmface.errors import ServiceError, TrainingError
from mmface.store import Entry, Store
from mmface.train.checkpoints.keeper import Keeper, resume
from mmface.train.checkpoints.run import RECORD, RUNS, Checkpoints
from mmface.train.checkpoints.state import TrainState, load_checkpoint, take_snapshot
from mmface.train.checkpoints.trees import flatten, unflatten
from mmface.train.hooks import Hooks
from mmface.train.loop import make_state, train_phase
from mmface.train.parallel.ranks import from_first, together
from mmface.train.parallel.world import World
from tests.mmface.train.test_loop import Killed, assert_same

FILES = [
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "weights.safetensors",
    "optimizer.safetensors",
    "optimizer.json",
    "state.json",
    "history.jsonl",
]


@dataclass
class Watched:
    """A backend that calls ``before`` ahead of every change, so that a test can forbid or delay the change."""

    inner: Any
    before: Callable[[str, str], None]
    changes: list[tuple[str, str]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def child(self, prefix: str) -> Watched:
        return Watched(self.inner.child(prefix), self.before, self.changes)

    def _change(self, kind: str, key: str) -> None:
        self.before(kind, key)
        self.changes.append((kind, key))

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        self._change("write", key)
        return self.inner.write(key, data, if_absent)

    def write_file(self, key: str, path: Path) -> None:
        self._change("write", key)
        self.inner.write_file(key, path)

    def delete(self, key: str) -> None:
        self._change("delete", key)
        self.inner.delete(key)

    def walk(self, prefix: str, follow_links: bool = False) -> Iterator[Entry]:
        return self.inner.walk(prefix, follow_links)


def watched(home: Store, before: Callable[[str, str], None]) -> Store:
    return Store("", _backend=Watched(home._backend, before))


@pytest.fixture(params=["folder", "s3"])
def home(request, tmp_path) -> Store:
    if request.param == "folder":
        return Store(tmp_path / "home")
    return Store(request.getfixturevalue("s3_bucket")).child(request.node.name.replace("[", "-").rstrip("]"))


@pytest.fixture
def state(recipe, data) -> TrainState:
    return make_state(recipe, data, World(), run="run")


def write(checkpoints: Checkpoints, state: TrainState, step: int, held_out: float | None = None) -> None:
    """Writes a checkpoint whose content depends on the step."""
    with torch.no_grad():
        for weight in state.model.parameters():
            weight.fill_(step)
    state.step, state.held_out, state.history = step, held_out, [{"step": step, "loss": 1 / 3}]
    checkpoints.write(take_snapshot(state))


def steps(home: Store) -> list[int]:
    return sorted(int(e.key.split("/")[-2][5:]) for e in home.list("runs") if e.key.endswith(RECORD))


def run_kept(recipe, data, home: Store, scratch: Path, on_log: Callable[[Any], None] = lambda entry: None) -> Any:
    checkpoints = Checkpoints(home, "run")
    found = resume(checkpoints, World(), scratch)
    with Keeper(checkpoints, World(), found.record.step if found else None) as keeper:
        where = scratch if found else None
        return train_phase(recipe, 0, data, hooks=Hooks(on_log, keeper.save), run="run", resume=where)


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(recipe, data, home, tmp_path):
    def die(entry: dict[str, float]) -> None:
        if entry["step"] == 9:
            raise Killed

    uninterrupted = run_kept(recipe, data, home.child("other"), tmp_path / "a")
    with pytest.raises(Killed):
        run_kept(recipe, data, home, tmp_path / "b", die)
    assert steps(home) == [4, 8]
    assert_same(uninterrupted, run_kept(recipe, data, home, tmp_path / "c"))
    assert steps(home) == [8, 12]
    one, two = (Checkpoints(place, "run").record(12) for place in (home, home.child("other")))
    assert sorted(file.path for file in one.files) == sorted(FILES)
    for a, b in zip(one.files, two.files, strict=True):
        assert a == b or a.path == "history.jsonl", "only wall time differs"
    # A finished run trains nothing more, and remove() deletes all its files.
    assert run_kept(recipe, data, home, tmp_path / "d", pytest.fail).step == 12
    Checkpoints(home, "run").remove()
    assert not home.list("runs")
    assert Checkpoints(home, "run").newest(tmp_path / "e") is None


def test_the_record_is_written_last_and_deleted_first(state, tmp_path):
    home = watched(Store(tmp_path), lambda kind, key: None)
    checkpoints = Checkpoints(home, "run", keep_last=1)
    for step in (1, 2):
        write(checkpoints, state, step)
        checkpoints.prune()
    changes = home._backend.changes
    written = [key for kind, key in changes if kind == "write"]
    assert written[7::8] == [RECORD, RECORD]
    deleted = [key for kind, key in changes[changes.index(("write", RECORD), 12) + 1 :]]
    assert (deleted[0], len(deleted)) == (RECORD, 8)
    assert {entry.key.split("/")[2] for entry in home.list("runs")} == {"step-00000002"}


@pytest.mark.parametrize("path", [*FILES, RECORD])
@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_a_damaged_newest_checkpoint_is_skipped(state, tmp_path, caplog, path, harm):
    home = Store(tmp_path)
    checkpoints = Checkpoints(home, "run")
    for step in (4, 8):
        write(checkpoints, state, step)
    damage(home, f"runs/run/step-00000008/{path}", harm)
    found = Checkpoints(home, "run").newest(tmp_path / "scratch")
    assert found is not None
    assert found.record.step == 4
    if (path, harm) != (RECORD, "lose"):
        (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        expected = "run resumes from the checkpoint of step 4; newer checkpoints are damaged: step-00000008/"
        assert line.startswith(expected + path)
    load_checkpoint(state, tmp_path / "scratch")
    assert state.step == 4
    assert all((weight == 4).all() for weight in state.model.parameters())


def test_a_newest_checkpoint_that_the_disk_cannot_read_is_skipped(state, tmp_path, monkeypatch):
    checkpoints = Checkpoints(Store(tmp_path), "run")
    for step in (4, 8):
        write(checkpoints, state, step)
    read = Store.chunks

    def chunks(self: Store, key: str, size: int) -> Iterator[bytes]:
        if "step-00000008" in key:
            raise OSError(errno.EIO, "Input/output error")
        return read(self, key, size)

    monkeypatch.setattr(Store, "chunks", chunks)
    found = checkpoints.newest(tmp_path / "scratch")
    assert found is not None
    assert found.record.step == 4


def damage(home: Store, key: str, harm: str) -> None:
    data = home.read(key)
    if harm == "lose":
        home.delete(key)
    elif harm == "cut":
        home.write(key, data[:-1])
    else:
        place = data.index(b'"') if key.endswith(RECORD) else len(data) // 2
        home.write(key, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_damaged_checkpoints_do_not_count_towards_keep_last(state, tmp_path):
    home = Store(tmp_path)
    for step in (4, 8, 12):
        write(Checkpoints(home, "run"), state, step)
    damage(home, "runs/run/step-00000012/weights.safetensors", "flip")
    checkpoints = Checkpoints(home, "run")
    assert checkpoints.newest(tmp_path / "scratch").record.step == 8
    write(checkpoints, state, 10)
    checkpoints.prune()
    assert steps(home) == [8, 10]


def test_if_all_checkpoints_are_damaged_the_error_names_the_remedy(state, home, tmp_path):
    for step in (4, 8):
        write(Checkpoints(home, "run"), state, step)
        damage(home, f"runs/run/step-{step:08d}/weights.safetensors", "flip")
    with pytest.raises(TrainingError, match=r"step-00000008/weights.* step-00000004/weights.*; restore one, or delete"):
        Checkpoints(home, "run").newest(tmp_path / "scratch")


def test_a_crash_at_any_change_leaves_a_complete_checkpoint(state, tmp_path):
    """With two checkpoints in the store, writing a third and deleting the first stops before the n-th change."""
    for step in (4, 8):
        write(Checkpoints(Store(tmp_path / "before"), "run"), state, step)
    for allowed in range(9 + 8 + 1):
        shutil.copytree(tmp_path / "before", tmp_path / str(allowed))
        home, left = Store(tmp_path / str(allowed)), iter(range(allowed))

        def crash(kind: str, key: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed

        checkpoints = Checkpoints(watched(home, crash), "run")
        with contextlib.nullcontext() if allowed == 9 + 8 else pytest.raises(Killed):
            write(checkpoints, state, 12)
            checkpoints.prune()
        found = Checkpoints(home, "run").newest(tmp_path / "scratch")
        load_checkpoint(state, tmp_path / "scratch")
        # One deletion, seven files and the record; after these nine changes the new checkpoint is complete.
        assert state.step == found.record.step == (8 if allowed < 9 else 12)
        assert not found.damage
        assert (state.model.x_embedder.proj.weight == state.step).all()
        # The resumed run deletes the remains of incomplete checkpoints.
        Checkpoints(home, "run", keep_last=1).prune()
        assert {entry.key.split("/")[2] for entry in home.list("runs")} == {found.record.folder}


def test_the_last_checkpoints_are_kept_regardless_of_their_loss(state, tmp_path):
    home = Store(tmp_path)
    losses = {1: 0.5, 2: 0.3, 3: None, 4: 0.4, 5: 0.3, 6: 0.6, 7: 0.7}
    checkpoints = Checkpoints(home, "run", keep_last=2)
    seen = []
    for step, loss in losses.items():
        write(checkpoints, state, step, loss)
        checkpoints.prune()
        seen.append(steps(home))
    assert seen == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7]]
    write(one := Checkpoints(home, "run", keep_last=1), state, 8, 0.1)
    one.prune()
    assert steps(home) == [8]


def test_the_operations_manual_names_the_folder_of_checkpoints():
    manual = (Path(__file__).parents[4] / "docs" / "operations" / "troubleshooting.md").read_text()
    assert f"| checkpoints | `{RUNS}/` below `MMFACE_HOME` |" in manual


def test_training_continues_while_a_checkpoint_is_written_and_the_next_one_waits(state, tmp_path):
    gate, entered = threading.Event(), threading.Event()

    def slow(kind: str, key: str) -> None:
        entered.set()
        assert gate.wait(20)

    checkpoints = Checkpoints(watched(Store(tmp_path), slow), "run")
    with Keeper(checkpoints, World()) as keeper:
        state.step = 1
        keeper.save(state)
        assert entered.wait(20)
        with torch.no_grad():
            for weight in [*state.model.parameters(), *state.ema.module.parameters()]:
                weight.fill_(-1)  # later changes of the weights must not reach the checkpoint
        second = threading.Thread(target=keeper.save, args=(state,))
        state.step = 2
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert not steps(Store(tmp_path))
        gate.set()
        second.join()
        assert steps(Store(tmp_path))[0] == 1
    assert steps(Store(tmp_path)) == [1, 2]
    checkpoints.fetch(checkpoints.record(1), tmp_path / "scratch")
    load_checkpoint(state, tmp_path / "scratch")
    for model in (state.model, state.ema.module):
        assert not any((weight == -1).any() for weight in model.parameters())


def refuse(kind: str, key: str) -> None:
    raise ServiceError("the disk is full; make room", field="MMFACE_HOME")


def test_an_error_of_the_thread_is_raised_at_the_next_checkpoint(recipe, data, tmp_path):
    expected = (
        r"^MMFACE_HOME: the checkpoint of step 4 could not be written \(the disk is full; make room\); "
        "newest complete checkpoint: none; fix"
    )
    logged: list[float] = []
    with pytest.raises(TrainingError, match=expected):
        run_kept(recipe, data, watched(Store(tmp_path), refuse), tmp_path, lambda entry: logged.append(entry["step"]))
    assert logged == [3, 6]


def test_an_error_of_the_thread_is_raised_at_the_end(state, tmp_path, caplog):
    def save(then: Callable[[], None]) -> None:
        with Keeper(Checkpoints(watched(Store(tmp_path), refuse), "run"), World(), safe=3) as keeper:
            state.step = 4
            keeper.save(state)
            then()

    def fail() -> None:
        raise TrainingError("the loss is not finite")

    with pytest.raises(TrainingError, match="newest complete checkpoint: step 3; fix the cause and run again"):
        save(lambda: None)
    with pytest.raises(TrainingError, match="the loss is not finite"):
        save(fail)
    assert "the checkpoint of step 4 could not be written" in caplog.text


def test_the_safe_step_is_that_of_a_complete_checkpoint(state, tmp_path):
    keeper = Keeper(Checkpoints(Store(tmp_path / "good"), "run"), World())
    assert keeper.safe is None
    state.step = 4
    keeper.save(state)
    assert keeper.safe == 4
    keeper = Keeper(Checkpoints(watched(Store(tmp_path / "bad"), refuse), "run"), World(), safe=3)
    keeper.save(state)
    assert keeper.safe == 3


def wait_for(home: Store, step: int) -> None:
    """Waits until the thread has written a checkpoint."""
    while step not in steps(home):
        time.sleep(0.01)
    time.sleep(0.2)


def test_a_bucket_that_vanishes_stops_the_run(recipe, data, s3_bucket, tmp_path):
    home = Store(f"{s3_bucket}/vanishing")

    def vanish(entry: dict[str, float]) -> None:
        if entry["step"] == 6:
            wait_for(home, 4)
            bucket = boto3.resource("s3").Bucket("faces")
            bucket.objects.all().delete()
            bucket.delete()

    expected = r"step 8 could not be written \(.*NoSuchBucket; .*create it.*complete checkpoint: step 4"
    with pytest.raises(TrainingError, match=expected):
        run_kept(recipe, data, home, tmp_path, vanish)


def test_a_folder_that_cannot_be_written_stops_the_run(recipe, data, tmp_path):
    home = Store(tmp_path / "home")

    def block(entry: dict[str, float]) -> None:
        if entry["step"] == 6:
            wait_for(home, 4)
            (tmp_path / "home/runs/run/step-00000008").write_text("in the way")

    expected = r"checkpoint of step 8 could not be written .*; newest complete checkpoint: step 4"
    with pytest.raises(TrainingError, match=expected):
        run_kept(recipe, data, home, tmp_path / "scratch", block)
    assert steps(home) == [4]


def test_an_error_of_the_scratch_space_names_tmpdir(state, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ServiceError, match=r"TMPDIR: cannot write .*nowhere"):
        Checkpoints(Store(tmp_path / "home"), "run").write(take_snapshot(state))


def test_an_optimizer_state_survives_as_tensors_and_json():
    tree = {"state": {0: {"step": torch.tensor(3.0), "m": torch.arange(4, dtype=torch.uint8)}, 7: {}}, "none": None}
    tree["param_groups"] = [{"lr": 0.1, "betas": (0.9, 0.999), "fused": True, "params": [0, 7]}]
    built, tensors = flatten(tree)
    assert set(tensors) == {"state/0/step", "state/0/m"}
    back = unflatten(json.loads(json.dumps(built)), tensors)
    assert back["state"][0]["m"] is tree["state"][0]["m"]
    assert back["param_groups"] == tree["param_groups"]
    assert list(back["state"]) == [0, 7]


def two_ranks(rank: int, recipe: Any, data: Any, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.set_num_threads(1)
    world, home = World(rank, 2), Store(folder / "home")

    def first_only() -> int:
        assert rank == 0
        return 5

    assert from_first(world, first_only) == 5
    for failing in (0, 1):
        with pytest.raises(TrainingError, match=f"rank {failing}"):
            together(world, lambda failing=failing: fail_on(rank, failing))
    with pytest.raises(TrainingError, match="the disk is full"), keep(home, world, refuse) as keeper:
        train_phase(recipe, 0, data, hooks=Hooks(print, keeper.save), world=world, run="run")
    assert resume(Checkpoints(home, "run"), world, folder / f"nothing-{rank}") is None

    with pytest.raises(Killed), keep(home, world, lambda kind, key: None) as keeper:
        train_phase(recipe, 0, data, hooks=halting(keeper), world=world, run="run")
    found = resume(Checkpoints(home, "run"), world, folder / f"rank-{rank}")
    assert found is not None
    assert found.record.step == 4
    assert (folder / f"rank-{rank}" / "weights.safetensors").exists()
    torch.distributed.destroy_process_group()


def fail_on(rank: int, failing: int) -> None:
    if rank == failing:
        raise TrainingError(f"rank {rank}")


def keep(home: Store, world: World, before: Callable[[str, str], None]) -> Keeper:
    return Keeper(Checkpoints(watched(home, before), "run"), world)


def halting(keeper: Keeper) -> Hooks:
    def halt(state: TrainState) -> None:
        if state.step == 8:
            raise Killed
        keeper.save(state)

    return Hooks(lambda entry: None, halt)


def test_two_ranks_fail_together_and_one_rank_resumes_alone(recipe, data, tmp_path):
    torch.multiprocessing.spawn(two_ranks, (recipe, data, tmp_path), nprocs=2)
    logged: list[float] = []
    alone = run_kept(recipe, data, Store(tmp_path / "alone"), tmp_path / "a")
    elastic = run_kept(
        recipe, data, Store(tmp_path / "home"), tmp_path / "b", lambda entry: logged.append(entry["step"])
    )
    assert logged == [6, 9, 12]
    for (name, x), y in zip(alone.model.state_dict().items(), elastic.model.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=0, msg=name)
    for one, two in zip(alone.history, elastic.history, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
