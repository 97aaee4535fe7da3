"""Training gives the same result on any number of workers, with DDP and FSDP: compares 1, 2 and 4 processes (§5).

The comment next to a tolerance is the measured difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from mmface.config import Recipe
from mmface.config.load import parse_recipe
from mmface.errors import RecipeError
from mmface.objectives import RectifiedFlow
from mmface.train.loop import make_state
from mmface.train.parallel.world import World
from mmface.train.placement import full_state, load_full_state
from mmface.train.rows.batches import Draws
from mmface.train.rows.sets import TrainingSet
from mmface.train.step import backward
from tests.mmface.train.gang import Job, Outcome, changed, distance, run_all

STEPS, SHORT, STOP, FLOOR = 50, 10, 20, 1e-5
BASE = {
    "seed": 7,
    "model": {"hidden_size": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
    # Four workers get different numbers of six samples.
    "phases": [
        {"resolution": 32, "steps": STEPS, "batch_size": 6, "learning_rate": 1e-3, "final_learning_rate": FLOOR}
    ],
    "train": {"log_every": 5, "checkpoint_every": SHORT, "ema_decay": 0.9},
}
Outcomes = dict[str, Outcome]


def base(*, phase: dict[str, object] | None = None, **train: object) -> Recipe:
    return changed(parse_recipe(BASE), phase=phase, **train)


def short(name: str, **train: object) -> Job:
    return Job(name, base(**train), stop=SHORT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gangs")


@pytest.fixture(scope="module")
def one(training_set: TrainingSet, folder: Path) -> Outcomes:
    jobs = [
        Job("plain", base()),
        Job("stopped", base(), stop=STOP),
        Job("accumulated", base(phase={"accumulation": 3})),
        short("8bit", optimizer="adamw8bit"),
        short("bf16", precision="bf16"),
        short("pure", precision="bf16-pure"),
    ]
    return run_all(1, jobs, training_set, folder / "1")


@pytest.fixture(scope="module")
def two(one: Outcomes, training_set: TrainingSet, folder: Path) -> Outcomes:
    sharded = base(parallel="fsdp")
    eight = base(parallel="fsdp", optimizer="adamw8bit")
    jobs = [
        Job("ddp", base()),
        Job("fsdp", sharded),
        Job("stopped", base(), stop=STOP),
        Job("stopped fsdp", sharded, stop=STOP),
        Job("joined", sharded, start=one["stopped"].file),
        Job("reloaded", sharded, start=one["plain"].file, stop=STEPS),
        Job("reloaded 8bit", eight, start=one["8bit"].file, stop=SHORT),
        Job("accumulated", base(parallel="fsdp", phase={"accumulation": 2})),
        short("ddp 8bit", optimizer="adamw8bit"),
        Job("fsdp 8bit", eight, stop=SHORT),
        short("fsdp bf16", parallel="fsdp", precision="bf16"),
        short("fsdp pure", parallel="fsdp", precision="bf16-pure"),
        Job("fsdp recomputed", base(parallel="fsdp", gradient_checkpointing=1), stop=STOP),
        Job("looked at", sharded, stop=STOP, look=True),
        Job("ddp recomputed", base(gradient_checkpointing=True), stop=STOP),
    ]
    return run_all(2, jobs, training_set, folder / "2")


@pytest.fixture(scope="module")
def four(one: Outcomes, training_set: TrainingSet, folder: Path) -> Outcomes:
    eight = base(parallel="fsdp", optimizer="adamw8bit")
    jobs = [Job("ddp", base()), Job("fsdp", base(parallel="fsdp")), Job("fsdp 8bit", eight, stop=SHORT)]
    jobs.append(Job("reloaded 8bit", eight, start=one["8bit"].file, stop=SHORT))
    return run_all(4, jobs, training_set, folder / "4")


def assert_agree(outcome: Outcome, expected: Outcome, tolerance: float) -> None:
    assert outcome.step == expected.step
    for part in ("model", "ema"):
        assert distance(outcome.weights(part), expected.weights(part)) < tolerance, part


def assert_equal(outcome: Outcome, expected: Outcome) -> None:
    torch.testing.assert_close(outcome.full, expected.full, rtol=0, atol=0)


def test_any_number_of_workers_draws_the_same_batches(one: Outcomes, two: Outcomes, four: Outcomes):
    drawn = one["plain"].drawn
    assert len(drawn) == STEPS * 6
    assert len({noise for _, noise in drawn.values()}) == len(drawn)
    for outcome in (one["accumulated"], two["ddp"], two["fsdp"], two["accumulated"], four["ddp"], four["fsdp"]):
        assert outcome.drawn == drawn


def test_any_number_of_workers_trains_the_same_weights(one: Outcomes, two: Outcomes, four: Outcomes):
    runs = {"1": one["accumulated"], "2": two["accumulated"]}
    runs |= {
        f"{parallel} {size}": gang[parallel] for size, gang in ((2, two), (4, four)) for parallel in ("ddp", "fsdp")
    }
    for name, outcome in runs.items():
        assert_agree(outcome, one["plain"], 1e-5)  # 6e-7
        for mine, theirs in zip(outcome.history, one["plain"].history, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5), name
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4), name


def test_the_rate_ends_at_its_floor(one: Outcomes, two: Outcomes, four: Outcomes):
    for outcome in (one["plain"], one["accumulated"], two["fsdp"], two["accumulated"], four["ddp"]):
        assert outcome.history[-1]["lr"] == FLOOR
        assert outcome.history[-2]["lr"] > FLOOR


@pytest.mark.parametrize("name", ["stopped", "stopped fsdp"])
def test_one_worker_resumes_a_run_of_two(name, one: Outcomes, two: Outcomes, training_set, tmp_path):
    resumed = run_all(1, [Job("alone", base(), start=two[name].file)], training_set, tmp_path / "1")["alone"]
    assert two[name].drawn.keys().isdisjoint(resumed.drawn)
    assert two[name].drawn | resumed.drawn == one["plain"].drawn, "no sample lost or repeated"
    assert_agree(resumed, one["plain"], 1e-5)


def test_two_workers_resume_a_run_of_one(one: Outcomes, two: Outcomes):
    assert one["stopped"].drawn | two["joined"].drawn == one["plain"].drawn
    assert_agree(two["joined"], one["plain"], 1e-5)


def test_the_full_state_survives_sharding_bit_for_bit(one: Outcomes, two: Outcomes, four: Outcomes):
    assert_equal(two["reloaded"], one["plain"])
    for outcome in (two, four):
        assert_equal(outcome["reloaded 8bit"], one["8bit"])
    moments = one["8bit"].full["optimizer"]["state"]
    assert {values["state1"].dtype for values in moments.values()} == {torch.uint8, torch.float32}


@pytest.mark.parametrize(("name", "settings"), [("fsdp", {}), ("fsdp 8bit", {"optimizer": "adamw8bit"})])
@pytest.mark.parametrize("size", [2, 4])
def test_shards_load_into_one_worker_bit_for_bit(name, settings, size, two: Outcomes, four: Outcomes, training_set):
    saved = {2: two, 4: four}[size][name]
    state = make_state(base(**settings), training_set, World())
    parts = (state.model, state.ema.module, state.optimizer)
    load_full_state(*parts, saved.full)
    torch.testing.assert_close(full_state(*parts), saved.full, rtol=0, atol=0)


def test_sharded_8bit_agrees_with_one_worker(one: Outcomes, two: Outcomes, four: Outcomes):
    # Rounding in the sum of a gradient changes 8-bit moments by whole code words; runs without shards differ as much.
    for outcome in (two["ddp 8bit"], two["fsdp 8bit"], four["fsdp 8bit"]):
        assert_agree(outcome, one["8bit"], 5e-4)  # 1.2e-4
    assert_agree(two["fsdp 8bit"], two["ddp 8bit"], 5e-4)  # 1.2e-4


@pytest.mark.skipif("TEST_EIGHT" not in os.environ, reason="eight processes of two seconds; TEST_EIGHT=1 runs it")
def test_ranks_without_a_row_of_a_weight_learn_the_same(one: Outcomes, training_set: TrainingSet, tmp_path: Path):
    """The modality embedder has two rows, so that six of eight ranks have none (above: two of four ranks)."""
    whole = base(phase={"batch_size": 8}, optimizer="adamw8bit", checkpoint_every=2)
    start, stop = one["8bit"].file, SHORT + 2
    jobs = [Job("reloaded", changed(whole, parallel="fsdp"), start, stop=SHORT)]
    jobs.append(Job("resumed", changed(whole, parallel="fsdp"), start, stop=stop))
    eight = run_all(8, jobs, training_set, tmp_path / "8")
    alone = run_all(1, [Job("resumed", whole, start, stop=stop)], training_set, tmp_path / "1")["resumed"]
    assert_equal(eight["reloaded"], one["8bit"])
    assert_agree(eight["resumed"], alone, 5e-4)  # 3e-6
    for outcome in (eight["resumed"], alone):
        assert {values["step"] for values in outcome.full["optimizer"]["state"].values()} == {stop}


@pytest.mark.parametrize("precision", ["bf16", "pure"])
def test_sharded_bf16_agrees_with_one_worker(precision: str, one: Outcomes, two: Outcomes):
    tolerance = {"bf16": 2e-3, "pure": 8e-3}[precision]  # 7e-4 and 2.4e-3
    assert_agree(two[f"fsdp {precision}"], one[precision], tolerance)
    weights = two[f"fsdp {precision}"].weights().values()
    assert {weight.dtype for weight in weights} == {torch.bfloat16 if precision == "pure" else torch.float32}
    assert {weight.dtype for weight in two[f"fsdp {precision}"].weights("ema").values()} == {torch.float32}


def test_recomputation_changes_no_bit_on_several_workers(two: Outcomes):
    assert_equal(two["ddp recomputed"], two["stopped"])
    assert_equal(two["fsdp recomputed"], two["stopped fsdp"])


def test_evaluating_sharded_weights_does_not_change_training(two: Outcomes):
    assert_equal(two["looked at"], two["stopped fsdp"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-pure"])
def test_recomputed_blocks_need_less_memory_and_give_the_same_gradients(precision, training_set: TrainingSet):
    recipes = [base(gradient_checkpointing=blocks, precision=precision) for blocks in (False, 1, True)]
    (all_of, gradients), *savers = (held_by_a_step(recipe, training_set) for recipe in recipes)
    for _, found in savers:
        torch.testing.assert_close(found, gradients, rtol=0, atol=0)
    (half, _), (none, _) = savers
    assert none < half < all_of
    assert none < 0.6 * all_of


def held_by_a_step(recipe: Recipe, data: TrainingSet) -> tuple[int, dict[str, Tensor]]:
    """Bytes of activations kept for the backward pass, and the gradients."""
    state = make_state(recipe, data, World())
    kept: dict[int, int] = {}
    with torch.no_grad():  # adaptive norms start at zero, and then most gradients are zero
        for number, parameter in enumerate(state.model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)), alpha=0.02)
    own = {parameter.data_ptr() for parameter in state.model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = Draws(0, 0, 6, 0.0, 0.0).batch(data, 0, range(6))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backward(state.model, RectifiedFlow(), [batch], 6, recipe.train, World())
    found = {name: parameter.grad for name, parameter in state.model.named_parameters() if parameter.grad is not None}
    return sum(kept.values()), found


def test_shards_that_split_quantised_blocks_are_refused_before_the_first_step(training_set: TrainingSet):
    # The MLP has 4608 weights in 96 rows, so a shard for five workers would have 20 rows, 960 weights.
    recipe = base(parallel="fsdp", optimizer="adamw8bit")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"hidden_size": 48})})
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=5)
    try:
        with pytest.raises(RecipeError, match=r"5 workers divide .* shards of 960 weights, .* multiple of 256"):
            make_state(recipe, training_set, World(0, 5))
        make_state(changed(recipe, optimizer="adamw"), training_set, World(0, 5))
    finally:
        dist.destroy_process_group()


def test_the_number_of_recomputed_blocks_is_checked():
    settings = {"model": BASE["model"]}
    assert parse_recipe({**settings, "train": {"gradient_checkpointing": True}}).train.recomputed_blocks(2) == 2
    assert parse_recipe({**settings, "train": {"gradient_checkpointing": 1}}).train.recomputed_blocks(2) == 1
    with pytest.raises(RecipeError, match=r"train\.gradient_checkpointing: 3 of 2 blocks"):
        parse_recipe({**settings, "train": {"gradient_checkpointing": 3}})


def test_pure_bf16_keeps_the_average_in_fp32(one: Outcomes):
    assert {weight.dtype for weight in one["pure"].weights().values()} == {torch.bfloat16}
    assert {weight.dtype for weight in one["pure"].weights("ema").values()} == {torch.float32}


def test_paged_moments_need_a_gpu(training_set: TrainingSet):
    with pytest.raises(RecipeError, match="adamw8bit-paged pages out of a GPU: set use_gpu"):
        parse_recipe({"train": {"optimizer": "adamw8bit-paged"}})
    with pytest.raises(RecipeError, match=r"^train.optimizer: adamw8bit-paged needs a GPU"):
        make_state(base(optimizer="adamw8bit-paged", use_gpu=True), training_set, World())


def test_compiling_needs_a_compiler(training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RecipeError, match=r"^train.compile: .* no-such-compiler was not found"):
        make_state(base(compile=True), training_set, World())


@pytest.mark.skipif("TEST_COMPILE" not in os.environ, reason="a minute of g++; TEST_COMPILE=1 runs it")
def test_compiled_blocks_train_the_same(two: Outcomes, training_set: TrainingSet, tmp_path: Path):
    alone = run_all(1, [Job("alone", base(compile=True), stop=STOP)], training_set, tmp_path / "1")["alone"]
    assert_agree(alone, two["stopped"], 1e-5)  # 1e-7
    jobs = [
        Job("ddp", base(compile=True, gradient_checkpointing=1), stop=STOP),
        Job("fsdp", base(compile=True, parallel="fsdp", gradient_checkpointing=1), stop=STOP),
    ]
    for outcome in run_all(2, jobs, training_set, tmp_path / "2").values():
        assert_agree(outcome, two["stopped"], 1e-5)
