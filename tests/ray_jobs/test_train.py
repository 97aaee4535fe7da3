"""Training as a real Ray Train run: two workers, restarts, publishing, and doing nothing the second time."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from mmface.bundles import tracking
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.records import LATENTS, TEXT
from mmface.errors import DatasetError, InputError, RecipeError, TrainingError
from mmface.model import MMFaceDiT
from mmface.store import Store
from mmface.store.tables import to_parquet
from mmface.train.checkpoints.run import RECORD
from ray_jobs import train

SETTINGS = {
    "components.vae": "made/up",  # unknown shapes: known ones would be compared with the made-up data
    "components.text_encoder": "made/up",
    "model": "{hidden_size: 16, depth: 2, num_heads: 2}",
    "phases.0.steps": "6",
    "phases.0.batch_size": "6",  # in micro-batches of 3, which two workers cannot share equally
    "phases.0.accumulation": "2",
    "phases.1.steps": "4",
    "phases.1.batch_size": "4",
    "train.log_every": "2",
    "train.checkpoint_every": "4",
    "train.num_workers": "2",
    "train.precision": "fp32",  # so that one and two workers agree up to rounding
}

ALONE = {"train.num_workers": "1"}

pytestmark = pytest.mark.usefixtures("ray_session")


@dataclass(frozen=True)
class Shared:
    home: Store
    database: str
    run: str
    text: str
    arguments: list[str]
    uri: str
    log: str


def publish_latents(home: Store, side: int, *, bad: bool = False) -> str:
    random = np.random.default_rng(side)

    def latent() -> bytes:
        return random.standard_normal((2, side, side), dtype=np.float32).tobytes()

    rows = [
        {"id": f"{i:064d}", "split": "train", "image_logvar": None}
        | {f"{name}_mean": latent() for name in ("image", "mask", "sketch")}
        for i in range(9)
    ]
    if bad:
        rows[5]["image_mean"] = np.full((2, side, side), np.nan, np.float32).tobytes()
    extra = {"latent_views": 1, "latent_shape": [2, side, side], "latent_mean": [0.0, 0.0], "latent_std": [1.0, 1.0]}
    publisher = Publisher(home, Identity(stage=f"latents-{16 * side}", version=1, config={"bad": bad}))
    publisher.write("data/part-00000.parquet", to_parquet(rows, LATENTS))
    return publisher.publish({}, extra=extra)


def publish_text(home: Store) -> str:
    text = np.random.default_rng(0).standard_normal((2, 3, 8), dtype=np.float32)
    said = {"places": [0, 1], "lengths": [3, 3], "sequence": text.tobytes(), "pooled": text[:, 0].tobytes()}
    rows = [{"id": f"{i:064d}", **said} for i in range(9)]
    publisher = Publisher(home, Identity(stage="text", version=1, config={}))
    publisher.write("data/part-00000.parquet", to_parquet(rows, TEXT))
    empty = {"sequence": text[0], "pooled": text[0, 0].copy(), "length": np.array([3])}
    publisher.write("empty.safetensors", save_safetensors(empty))
    return publisher.publish({}, extra={"text_shape": [2, 3, 8]})


def arguments(home: Store, phase: int, *, settings: dict[str, str] | None = None, **inputs: str) -> list[str]:
    chosen = [part for key, value in {**SETTINGS, **(settings or {})}.items() for part in ("--set", f"{key}={value}")]
    given = [part for name, uri in inputs.items() for part in ("--inputs", f"{name}={uri}")]
    return ["--recipe", "demo", "--home", home.uri, "--phase", str(phase), *chosen, *given]


def history(uri: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in open_dataset(uri).read("history.jsonl").decode().splitlines()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Shared:
    """Phase 0 on two workers, not interrupted."""
    folder = tmp_path_factory.mktemp("shared")
    home, database = Store(folder / "home"), f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tracking.TRACKING_VARIABLE, database)
        run = tracking.start_run("test")
        text = publish_text(home)
        given = [*arguments(home, 0, latents=publish_latents(home, 4), text=text), "--mlflow-run", run]
        lines = io.StringIO()
        logger, handler = logging.getLogger("ray_jobs"), logging.StreamHandler(lines)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        uri = train.main(given)
        logger.removeHandler(handler)
    return Shared(home, database, run, text, given, uri, lines.getvalue())


def weights(uri: str) -> dict[str, np.ndarray]:
    return load_safetensors(open_dataset(uri).read("transformer/diffusion_pytorch_model.safetensors"))


def test_a_phase_on_two_workers(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "train 0 (64 px): step 6/6  loss " in shared.log
    manifest = open_dataset(shared.uri).manifest
    assert manifest.stage == "train-0-64"
    assert manifest.extra["steps"] == 6
    assert manifest.extra["rows"] == 9
    assert [entry["step"] for entry in history(shared.uri)] == [2, 4, 6]
    folder = open_dataset(shared.uri).download("transformer", tmp_path)
    model = MMFaceDiT.from_pretrained(folder, low_cpu_mem_usage=False)
    assert (model.config.in_channels, model.config.text_embed_dim) == (4, 8)
    assert not shared.home.list("runs"), "checkpoints are deleted after the weights are published"
    assert not shared.home.list("progress")

    def trained_again(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "fit", trained_again)
    assert train.main(shared.arguments) == shared.uri


def test_the_next_phase_continues_the_numbering_of_steps(shared: Shared, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(tracking.TRACKING_VARIABLE, shared.database)
    latents = publish_latents(shared.home, 8)
    given = arguments(shared.home, 1, settings=ALONE, latents=latents, text=shared.text, previous=shared.uri)
    second = train.main([*given, "--mlflow-run", shared.run])
    assert [entry["step"] for entry in history(second)] == [2, 4]
    steps = [metric.step for metric in tracking.open_tracking().get_metric_history(shared.run, "train/loss")]
    assert steps == [2, 4, 6, 8, 10], "numbered over both phases"


def killed_once(worker: Callable[[dict], object], marker: Path) -> Callable[[dict], object]:
    """The function ``worker``, except that its process is killed at step 5 unless ``marker`` exists."""

    def run(config: dict) -> object:
        import os

        from mmface.train import loop, optim

        def die(step: int, *rest: object) -> float:
            if step == 5 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), 9)
            return optim.learning_rate(step, *rest)

        loop.learning_rate = die
        return worker(config)

    return run


def test_a_run_that_loses_a_worker_and_a_driver_equals_an_undisturbed_run(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The worker dies between two checkpoints, the driver before publishing; ``shared`` had two workers."""
    monkeypatch.setenv(tracking.TRACKING_VARIABLE, f"sqlite:///{tmp_path}/mlflow.db")
    home, run, marker = Store(tmp_path / "home"), tracking.start_run("test"), tmp_path / "killed"

    def crash(*_: object) -> str:
        raise KeyboardInterrupt

    given = arguments(home, 0, settings=ALONE, latents=publish_latents(home, 4), text=publish_text(home))
    given += ["--mlflow-run", run]
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_worker", killed_once(train.train_worker, marker))
        patch.setattr(train, "publish", crash)
        with pytest.raises(KeyboardInterrupt):
            train.main(given)
    assert marker.exists()
    kept = records(home)
    assert [key.split("/")[2] for key in kept] == ["step-00000004", "step-00000006"]

    def publish_kept(*rest: object) -> str:
        assert records(home) == kept, "nothing was trained again"
        return publish(*rest)

    publish = train.publish
    monkeypatch.setattr(train, "publish", publish_kept)
    again = train.main(given)

    for name, value in weights(shared.uri).items():
        np.testing.assert_allclose(weights(again)[name], value, atol=1e-5, err_msg=name)
    for one, two in zip(history(shared.uri), history(again), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    logged = Counter(metric.step for metric in tracking.open_tracking().get_metric_history(run, "train/loss"))
    assert logged == {2: 1, 4: 1, 6: 1}


def records(home: Store) -> dict[str, str]:
    """The complete checkpoints of a run, with versions that change if a checkpoint is written again."""
    return {entry.key: entry.version for entry in home.list("runs") if entry.key.endswith(RECORD)}


def test_a_loss_that_is_not_finite_fails_at_once_and_publishes_nothing(tmp_path: Path):
    home = Store(tmp_path)
    given = arguments(
        home,
        0,
        settings=ALONE,
        latents=publish_latents(home, 4, bad=True),
        text=publish_text(home),
    )
    with pytest.raises(TrainingError, match="not finite at step"):
        train.main(given)
    assert not home.list("datasets/train-0-64")


def test_wrong_inputs_are_refused_before_training_starts(tmp_path: Path):
    home = Store(tmp_path)
    with pytest.raises(InputError, match="--inputs previous=URI"):
        train.main(arguments(home, 1, latents="x/1", text="y/2"))
    with pytest.raises(DatasetError, match=r"never published; run the stage"):
        train.main(arguments(home, 0, latents="x/1", text="y/2"))
    latents, text = publish_latents(home, 4), publish_text(home)
    with pytest.raises(DatasetError, match=r"inputs.latents: phase 0 reads latents-64, but .* is latents-128"):
        train.main(arguments(home, 0, latents=publish_latents(home, 8), text=text))
    known = {"components.vae": "zoo:vae", "components.text_encoder": "zoo:clip"}
    for name, shape, found in (("vae", r"\[16, 8, 8\]", r"\[2, 4, 4\]"), ("text_encoder", r"\[\d+\]", r"\[8\]")):
        settings = {f"components.{name}": known[f"components.{name}"]}
        with pytest.raises(
            DatasetError, match=rf"components.{name}: the recipe's .* makes {shape}, but .* has {found}"
        ):
            train.main(arguments(home, 0, settings=settings, latents=latents, text=text))
    with pytest.raises(DatasetError, match=r"inputs.previous: phase 1 reads train-0-64, but .* is text"):
        train.main(arguments(home, 1, latents=publish_latents(home, 8), text=text, previous=text))
    with pytest.raises(RecipeError, match="99 workers need a CPU each, but Ray has 2"):
        train.main(arguments(home, 0, settings={"train.num_workers": "99"}, latents=latents, text=text))
    with pytest.raises(RecipeError, match=r"train.use_gpu: 2 workers need a GPU each, but Ray has 0"):
        train.main(arguments(home, 0, settings={"train.use_gpu": "true"}, latents=latents, text=text))


def test_every_number_of_workers_that_an_elastic_run_may_get_is_checked():
    def sharded(least: int, most: int, *more: str) -> Recipe:
        workers = [f"train.min_workers={least}", f"train.num_workers={most}", "train.parallel=fsdp"]
        return load_recipe("paper-flow", [*workers, *more])

    train.check_sizes(sharded(1, 4))
    with pytest.raises(RecipeError, match=r"^train.optimizer: 5 workers divide .* not a multiple of 256"):
        train.check_sizes(sharded(4, 8))
    train.check_sizes(sharded(8, 8))
    train.check_sizes(sharded(4, 8, "train.optimizer=adamw"))
