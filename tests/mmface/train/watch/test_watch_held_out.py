"""The held-out loss: computed by hand, on any number of workers, and in an interrupted run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmface import plan
from mmface.config import Recipe, Watch
from mmface.estimate.hardware import GPUS, find_gpu
from mmface.model import Conditioning, MMFaceDiT
from mmface.objectives import make_objective
from mmface.train.checkpoints.state import TrainState
from mmface.train.hooks import Hooks
from mmface.train.loop import build_transformer, train_phase
from mmface.train.parallel.world import World
from mmface.train.rows.sets import TrainingSet
from mmface.train.watch.clock import WALL_TIME, Clock, training_flops
from mmface.train.watch.held_out import FixedRows, HeldOut
from tests.mmface.train.test_loop import Killed, save_checkpoint

OBJECTIVES = {
    "flow": {"name": "flow", "timestep_sampling": "logit_normal"},
    "ddpm": {"name": "ddpm", "min_snr_gamma": 5.0},
}


@pytest.fixture
def held_out(data: TrainingSet) -> TrainingSet:
    return data.part(slice(5, 8))


@pytest.fixture
def model(recipe: Recipe, data: TrainingSet) -> MMFaceDiT:
    model = build_transformer(recipe, data, None).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # a new model returns 0 for any input
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def made(recipe: Recipe, held_out: TrainingSet, objective: str = "flow", batch_size: int = 7) -> HeldOut:
    return HeldOut(FixedRows(held_out, recipe.seed), make_objective(**OBJECTIVES[objective]), recipe.train, batch_size)


@pytest.mark.parametrize("objective", OBJECTIVES)
@torch.no_grad()
def test_the_held_out_loss_is_the_mean_over_rows_modalities_and_eighths(recipe, held_out, model, objective):
    gauge = made(recipe, held_out, objective)
    figures = gauge.measure(model, World())
    score = make_objective(**OBJECTIVES[objective])
    loss, mse = torch.zeros(3, 2, 8), torch.zeros(3, 2, 8)
    for row in range(3):
        sequence, pooled = (torch.from_numpy(array)[None] for array in held_out.texts.read(row, 0))
        for kind in range(2):
            drawing = torch.from_numpy(held_out.conditions[kind][row])[None]
            given = Conditioning(drawing, sequence, pooled, torch.tensor([kind]))
            for k in range(8):
                t = score.timesteps(torch.tensor([(k + 0.5) / 8]))
                one = score(model, gauge.rows.latents[row : row + 1], gauge.rows.noise[row : row + 1], t, given)
                loss[row, kind, k], mse[row, kind, k] = one.loss, one.mse
    expected = {"held_out/loss": loss, "held_out/mse": mse}
    expected |= {f"held_out/loss_{name}": loss[:, kind] for kind, name in enumerate(("mask", "sketch"))}
    expected |= {f"held_out/loss_t{k}": loss[:, :, k] for k in range(8)}
    assert figures == {name: pytest.approx(float(part.mean()), rel=1e-5) for name, part in expected.items()}
    assert gauge.measure(model, World()) == figures


@dataclass(frozen=True)
class Simulated(World):
    """One of several ranks that run one after the other; the sum of the last rank is the sum of all."""

    parts: list[Tensor] = field(default_factory=list)

    def sum(self, tensor: Tensor) -> Tensor:
        self.parts.append(tensor.clone())
        return torch.stack(self.parts).sum(0)


@pytest.mark.parametrize("size", [2, 3, 5, 49, 60])
def test_any_number_of_workers_measures_the_same(recipe, held_out, model, size):
    gauge, parts = made(recipe, held_out), []
    for rank in range(size):
        figures = gauge.measure(model, Simulated(rank, size, parts=parts))
    assert figures == pytest.approx(made(recipe, held_out, batch_size=48).measure(model, World()), rel=1e-5)
    assert not np.count_nonzero(np.count_nonzero(torch.stack(parts)[..., 0], axis=0) - 1), "each case once"
    calls = {tuple(map(len, gauge.shares(World(rank, size)))) for rank in range(size)}
    assert len(calls) == 1, "with sharded weights every rank must make the same number of calls"


def test_noise_depends_on_seed_and_row_id(held_out):
    rows = FixedRows(held_out, 7)
    alone = FixedRows(held_out.part(slice(1, 2)), 7)
    assert torch.equal(rows.noise[1:2], alone.noise)
    assert torch.equal(rows.latents[1:2], alone.latents)
    assert not torch.equal(rows.noise[0], rows.noise[1])
    assert not torch.equal(rows.noise, FixedRows(held_out, 8).noise)
    assert 0.05 < float((rows.latents - torch.from_numpy(np.array(held_out.image))).std()) < 0.2
    plain = FixedRows(replace(held_out, image_std=None), 7)
    np.testing.assert_array_equal(plain.latents, held_out.image)


def watched(recipe: Recipe, **watch: object) -> Recipe:
    return recipe.model_copy(update={"watch": recipe.watch.model_copy(update=watch)})


def figures_of(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in entry.items() if name not in WALL_TIME} for entry in history]


def test_a_phase_measures_at_checkpoints_and_at_its_end(recipe, data, held_out, tmp_path):
    known: dict[int, float | None] = {}

    def keep(state: TrainState) -> None:
        known[state.step] = state.held_out
        save_checkpoint(state, tmp_path / f"{state.step}")

    recipe = recipe.model_copy(update={"phases": (recipe.phases[0].model_copy(update={"steps": 10}),)})
    lines: list[dict[str, float]] = []
    train_phase(recipe, 0, data, hooks=Hooks(lines.append, keep), held_out=held_out)
    assert [line["step"] for line in lines] == [3, 4, 6, 8, 9, 10]
    assert {line["step"]: line["held_out/loss"] for line in lines if "held_out/loss" in line} == known
    assert list(known) == [4, 8, 10]
    saved = MMFaceDiT.from_pretrained(tmp_path / "8" / "transformer", low_cpu_mem_usage=False)
    gauge = HeldOut(FixedRows(held_out, 7), make_objective(**recipe.objective.model_dump()), recipe.train, 4)
    assert gauge.measure(saved.eval(), World())["held_out/loss"] == known[8]


def test_held_out_every_sets_the_steps_and_other_steps_have_no_held_out_loss(recipe, data, held_out):
    known: dict[int, float | None] = {}
    hooks = Hooks(lambda line: None, lambda state: known.update({state.step: state.held_out}))
    train_phase(watched(recipe, held_out_every=8), 0, data, hooks=hooks, held_out=held_out)
    assert [step for step, loss in known.items() if loss is not None] == [8, 12]
    assert known[4] is None


def test_a_resumed_run_logs_the_same_as_an_uninterrupted_one(recipe, data, held_out, tmp_path):
    recipe = watched(recipe, held_out_every=5)

    def run(hooks: Hooks, resume: Path | None = None) -> TrainState:
        return train_phase(recipe, 0, data, hooks=hooks, held_out=held_out, resume=resume)

    whole = run(Hooks(lambda line: None, lambda state: None))

    def die(state: TrainState) -> None:
        save_checkpoint(state, tmp_path / f"{state.step}")
        if state.step == 8:
            raise Killed

    with pytest.raises(Killed):
        run(Hooks(lambda line: None, die))
    resumed = run(Hooks(lambda line: None, lambda state: None), tmp_path / "4")
    assert figures_of(resumed.history) == figures_of(whole.history)
    assert [line["step"] for line in whole.history] == [3, 5, 6, 9, 10, 12]


def test_watching_changes_neither_the_weights_nor_the_fingerprint(recipe, data, held_out):
    hooks = Hooks(lambda line: None, lambda state: None)
    plain = train_phase(recipe, 0, data, hooks=hooks)
    seen = train_phase(recipe, 0, data, hooks=hooks, held_out=held_out)
    for (name, one), other in zip(plain.model.state_dict().items(), seen.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    other = recipe.model_copy(update={"watch": Watch(held_out_rows=3, preview_every=5, max_loss_ratio=None)})
    names = [plan.train(each, 0, "latents/1", "text/2", None).fingerprint for each in (recipe, other)]
    assert names[0] == names[1]


def test_speed_excludes_time_that_is_not_training(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(10, 30, 8, flops=6, peak=96.0, device=torch.device("cpu"))

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    with clock.waiting():
        pass_by(1.0)
    pass_by(3.0)
    with clock.aside():
        pass_by(16.0)
    first = clock.read(15)
    pass_by(4.0)
    second = clock.read(20)
    assert first.pop("memory_gib") > 0.05
    assert first == {"images_per_s": 10, "data_wait": 0.25, "eta_s": 60, "flops_per_s": 60, "mfu": 0.625}
    assert (second["images_per_s"], second["data_wait"], second["eta_s"]) == (10, 0, 24)
    assert first.keys() <= WALL_TIME


def test_training_flops_are_three_forward_passes(recipe, data):
    tokens, text, hidden = 4, 5, 16
    both = tokens + text
    block = 2 * (4 + 2 * 2) * hidden**2 * both + 4 * both**2 * hidden + 2 * 12 * hidden**2
    unread = 2 * (2 + 4) * hidden**2 * text + 4 * text * both * hidden
    ends = 2 * hidden * (tokens * 16 + text * 12 + 12 + 256 + hidden) + 4 * hidden**2 + 2 * tokens * hidden * 8
    assert training_flops(recipe, data) == 3 * (2 * block - unread + ends)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_found_by_its_device_name(device: str, name: str | None):
    assert find_gpu(device) == (GPUS[name] if name else None)
