"""Training of one phase: exact resume, accumulation, errors that name their samples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.errors import RecipeError, TrainingError
from mmface.model import MMFaceDiT
from mmface.networks.precision import computes_in_bf16
from mmface.train.checkpoints.state import TrainState, load_checkpoint, read_history, read_summary, take_snapshot
from mmface.train.hooks import Hooks
from mmface.train.loop import make_state, train_phase
from mmface.train.optim import learning_rate
from mmface.train.parallel.world import World
from mmface.train.watch.clock import WALL_TIME


@dataclass
class Recorder:
    folder: Path
    logged: list[dict[str, float]] = field(default_factory=list)

    @property
    def hooks(self) -> Hooks:
        return Hooks(self.logged.append, lambda state: save_checkpoint(state, self.folder / f"{state.step}"))


def save_checkpoint(state: TrainState, folder: Path) -> None:
    """The files of a checkpoint, in a plain folder."""
    snapshot = take_snapshot(state)
    for path in (*snapshot.texts, *snapshot.tensors):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    for path, text in snapshot.texts.items():
        (folder / path).write_text(text)
    for path in snapshot.tensors:
        snapshot.save_tensors(path, folder / path)


class Killed(Exception):
    pass


def changed(recipe: Recipe, **train: object) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})


def without_wall_time(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in entry.items() if name not in WALL_TIME} for entry in history]


def assert_same(one: TrainState, other: TrainState) -> None:
    for a, b in ((one.model, other.model), (one.ema.module, other.ema.module)):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y), name
    states = one.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert without_wall_time(one.history) == without_wall_time(other.history)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_a_resumed_run_equals_an_uninterrupted_one(recipe, data, tmp_path, optimizer):
    recipe = changed(recipe, optimizer=optimizer)
    if optimizer == "adamw8bit":  # quantises matrices with 4096 weights or more
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"hidden_size": 48})})
    uninterrupted = train_phase(recipe, 0, data, hooks=Recorder(tmp_path / "a").hooks)

    def die(state: TrainState) -> None:
        save_checkpoint(state, tmp_path / "b" / f"{state.step}")
        if state.step == 4:  # between two logged steps
            raise Killed

    with pytest.raises(Killed):
        train_phase(recipe, 0, data, hooks=Hooks(lambda entry: None, die))
    torch.manual_seed(99)  # the global random state must not change the result
    recorder = Recorder(tmp_path / "c")
    resumed = train_phase(recipe, 0, data, hooks=recorder.hooks, resume=tmp_path / "b" / "4")
    assert_same(uninterrupted, resumed)
    assert [entry["step"] for entry in recorder.logged] == [6, 9, 12]
    assert [entry["step"] for entry in read_history(tmp_path / "c" / "12")] == [3, 6, 9, 12]
    assert read_summary(tmp_path / "c" / "12")["steps"] == 12


def test_resuming_a_finished_phase_trains_nothing(recipe, data, tmp_path):
    recorder = Recorder(tmp_path)
    finished = train_phase(recipe, 0, data, hooks=recorder.hooks)
    again = Recorder(tmp_path / "again")
    assert_same(finished, train_phase(recipe, 0, data, hooks=again.hooks, resume=tmp_path / "12"))
    assert not again.logged
    assert not (tmp_path / "again").exists()


def test_the_loss_falls_and_figures_are_logged(recipe, data, tmp_path):
    recipe = load_recipe("demo", ["phases.0.steps=1"]).model_copy(
        update={"model": recipe.model, "phases": (recipe.phases[0].model_copy(update={"steps": 100}),)}
    )
    recorder = Recorder(tmp_path)
    train_phase(recipe, 0, replace(data, image_std=None), hooks=recorder.hooks)
    first, last = recorder.logged[0], recorder.logged[-1]
    assert last["loss"] < 0.9 * first["loss"]
    assert last["lr"] == recipe.phases[0].final_learning_rate
    assert {"loss_mask", "loss_sketch", "loss_t0", "loss_t7", "grad_norm", *(WALL_TIME - {"mfu"})} <= first.keys()
    assert first["lr"] == learning_rate(9, recipe.phases[0], 100)


def test_a_phase_starts_from_the_average_of_the_previous_phase(recipe, data, tmp_path):
    first = train_phase(recipe, 0, data, hooks=Recorder(tmp_path).hooks)
    second = make_state(recipe, data, World(), previous=tmp_path / "12")
    for name, weight in first.ema.module.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    frozen = [name for name, parameter in second.model.named_parameters() if not parameter.requires_grad]
    assert any("mlp_t" in name for name in frozen)
    assert train_phase(recipe, 1, data, hooks=Recorder(tmp_path / "2").hooks, previous=tmp_path / "12").step == 4
    loaded = MMFaceDiT.from_pretrained(tmp_path / "2" / "4" / "transformer", low_cpu_mem_usage=False)
    assert loaded.config.in_channels == 4


def test_weights_of_another_architecture_are_refused(recipe, data, tmp_path):
    train_phase(recipe, 0, data, hooks=Recorder(tmp_path).hooks)
    wider = recipe.model_copy(update={"model": recipe.model.model_copy(update={"depth": 3})})
    with pytest.raises(RecipeError, match=r"model.depth: the recipe has depth 3, but the weights have 2"):
        make_state(wider, data, World(), previous=tmp_path / "12")


def test_accumulation_gives_the_same_step(recipe, data, tmp_path):
    phase = recipe.phases[0].model_copy(update={"accumulation": 2})
    split = recipe.model_copy(update={"phases": (phase,)})
    one = train_phase(recipe, 0, data, hooks=Recorder(tmp_path / "a").hooks)
    two = train_phase(split, 0, data, hooks=Recorder(tmp_path / "b").hooks)
    for (name, x), y in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.allclose(x, y, atol=1e-5), name


@pytest.mark.parametrize("setting", [{"gradient_checkpointing": True}, {"precision": "bf16"}])
def test_saving_memory_hardly_changes_the_loss(recipe, data, tmp_path, setting):
    plain = train_phase(recipe, 0, data, hooks=Recorder(tmp_path / "a").hooks)
    saving = train_phase(changed(recipe, **setting), 0, data, hooks=Recorder(tmp_path / "b").hooks)
    tolerance = 1e-5 if "gradient_checkpointing" in setting else 0.05
    assert saving.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=tolerance)
    assert all(parameter.dtype == torch.float32 for parameter in saving.model.parameters())


def test_auto_precision_is_bf16_if_the_cpu_multiplies_bf16(recipe, monkeypatch):
    for capabilities, native in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        precisions = {"auto": native, "bf16": True, "fp32": False}
        for precision, wanted in precisions.items():
            train = changed(recipe, precision=precision).train
            assert computes_in_bf16(train.precision, torch.device("cpu")) is wanted


def test_a_loss_that_is_not_finite_stops_and_names_the_sample(recipe, data, tmp_path):
    image = data.image.copy()
    image[3] = np.nan
    named = replace(data, image=image, ids=np.array([b"%016d" % row for row in range(len(data))]))
    with pytest.raises(TrainingError, match=r"^phases.0: the loss is not finite at step \d+ \(samples 0{15}3\)"):
        train_phase(recipe, 0, named, hooks=Recorder(tmp_path).hooks)


def test_a_checkpoint_of_another_run_is_refused(recipe, data, tmp_path):
    state = make_state(recipe, data, World(), run="one")
    save_checkpoint(state, tmp_path / "c")
    with pytest.raises(TrainingError, match="of run one, not of two"):
        load_checkpoint(make_state(recipe, data, World(), run="two"), tmp_path / "c")


def test_more_workers_than_samples_is_refused(recipe, data):
    with pytest.raises(RecipeError, match="fewer than the 5 workers"):
        train_phase(recipe, 0, data, hooks=Recorder(Path()).hooks, world=World(0, 5))


def test_the_seed_of_training_replaces_that_of_the_recipe(recipe, data, tmp_path):
    short = recipe.model_copy(update={"phases": (recipe.phases[1],)})
    own = train_phase(changed(short, seed=3), 0, data, hooks=Recorder(tmp_path / "a").hooks)
    meant = train_phase(short.model_copy(update={"seed": 3}), 0, data, hooks=Recorder(tmp_path / "b").hooks)
    other = train_phase(short, 0, data, hooks=Recorder(tmp_path / "c").hooks)
    assert_same(own, meant)
    assert not torch.equal(own.model.x_embedder.proj.weight, other.model.x_embedder.proj.weight)
