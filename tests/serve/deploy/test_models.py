"""Following the aliases: good versions are served, bad ones refused, and running requests keep their version."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmface.bundles.bundle import Bundle, write_bundle
from mmface.bundles.reference import Preview
from mmface.bundles.registry import fetched_bundle, register_bundle, rollback, set_alias, start_run
from mmface.config import Serve
from mmface.errors import ServiceError, UnreachableError
from mmface.networks.precision import keep_in_bf16
from mmface.pipeline import MMFacePipeline
from serve.deploy.app import _environment
from serve.deploy.deployments import Replica
from serve.deploy.models import Models
from tests.serve.engine.test_generator import job
from tests.serve.service import sketch_png, tiny_recipe

pytestmark = pytest.mark.anyio

NAME = "mmface-dit"
Register = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def register(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Registers a variant of the tiny bundle under an alias.

    Unless ``honest``, its registered preview is another picture. ``damage`` changes the registered files.
    """
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def do(
        number: int, alias: str = "champion", *, honest: bool = True, damage: Callable[[Path], None] | None = None
    ) -> str:
        folder = tmp_path / f"bundle-{number}"
        painted = bundle.pipeline(
            "a face",
            Image.open(BytesIO(sketch_png())),
            "sketch",
            num_inference_steps=bundle.recipe.sampling.num_inference_steps,
            guidance_scale=bundle.recipe.sampling.guidance_scale,
            seeds=[number],
        ).images[0]
        sink = BytesIO()
        (painted if honest else Image.new("RGB", painted.size, "red")).save(sink, "PNG")
        preview = Preview(sketch_png(), sink.getvalue(), "sketch", "a face", number)
        write_bundle(bundle.pipeline, folder, bundle.recipe, {"number": number}, {}, preview)
        if damage is not None:
            damage(folder)
        version = register_bundle(folder, start_run(f"tiny-{number}"))
        set_alias(NAME, alias, version)
        return version

    return do


def models(settings: Serve) -> tuple[Models, list[tuple[str, str]]]:
    outcomes: list[tuple[str, str]] = []
    made = Models(settings, lambda *_: None, lambda version, outcome: outcomes.append((version, outcome)), "cpu")
    return made, outcomes


async def test_without_a_champion_it_is_not_ready_and_says_why(register: Register) -> None:
    following, _ = models(tiny_recipe().serve)
    await following.look()
    with pytest.raises(ServiceError, match="has no champion yet: run mmface retrain"):
        following.champion()
    register(1)
    await following.look()
    assert following.champion().info.version == "1"


async def test_swap_refusal_and_rollback_work_under_traffic(register: Register) -> None:
    following, outcomes = models(tiny_recipe(max_queued=50).serve)
    register(1)
    await following.look()
    answers: list[str] = []
    stop = asyncio.Event()

    async def ask(seed: int) -> None:
        while not stop.is_set():
            made = await following.choose(one := job(seed, num_inference_steps=4)).generate(one)
            assert made.images.std() > 0
            answers.append(made.version)

    clients = [asyncio.create_task(ask(seed)) for seed in range(4)]
    register(2)
    await following.look()
    register(3, honest=False)
    await following.look()
    await following.look()
    rollback()  # from the bad version, which is not served, to the second
    await following.look()
    rollback()
    await following.look()
    await asyncio.sleep(0.2)
    stop.set()
    await asyncio.gather(*clients)
    assert set(answers) == {"1", "2"}
    assert (answers[0], answers[-1]) == ("1", "1")
    assert outcomes == [
        ("1", "serving"),
        ("2", "serving"),
        ("1", "retired"),
        ("3", "refused"),
        ("1", "serving"),
        ("2", "retired"),
    ]


async def test_a_running_request_keeps_its_version(register: Register) -> None:
    following, _ = models(tiny_recipe().serve)
    register(1)
    await following.look()
    first = following.champion()
    task = asyncio.create_task(first.generate(job(5, num_inference_steps=60)))
    while first.engine.counters.steps < 2:
        await asyncio.sleep(0.001)
    register(2)
    await following.look()
    second = await following.champion().generate(job(5, num_inference_steps=60))
    made = await task
    assert (made.version, second.version) == ("1", "2")
    np.testing.assert_array_equal(made.images, second.images)  # the same weights
    for _ in range(100):
        if not first.engine.alive:
            break
        await asyncio.sleep(0.01)
    assert not first.engine.alive


async def test_weights_kept_in_bf16_paint_what_autocast_paints(bundle: Bundle) -> None:
    request = {
        "prompt": "a face",
        "condition": Image.open(BytesIO(sketch_png())),
        "modality": "sketch",
        "seeds": [3, 4],
    }
    pipeline = copy.copy(bundle.pipeline)
    pipeline.register_to_config(precision="bf16")
    cast = pipeline(**request).images
    pipeline.transformer = copy.deepcopy(pipeline.transformer)
    keep_in_bf16(pipeline.transformer)
    kept = pipeline(**request).images
    for one, other in zip(cast, kept, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


async def test_a_canary_gets_its_share_of_the_seeds(register: Register) -> None:
    settings = tiny_recipe(canary="challenger", canary_share=0.25).serve
    following, _ = models(settings)
    register(1)
    register(2, "challenger")
    await following.look()
    chosen = [following.choose(job(seed)).info.version for seed in range(2000)]
    assert chosen.count("2") / len(chosen) == pytest.approx(0.25, abs=0.02)
    assert chosen == [following.choose(job(seed)).info.version for seed in range(2000)]
    assert chosen[0] == "1"  # the most frequent seed, 0, goes to the champion
    assert [one.info.version for one in following.serving()] == ["1", "2"]


async def test_damaged_files_are_refused_and_an_unreachable_registry_changes_nothing(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, outcomes = models(tiny_recipe().serve)
    register(1)
    await following.look()
    register(2)
    for file in (tmp_path / "home").rglob("bundles/*/transformer/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-10])
    await following.look()
    assert following.champion().info.version == "1"
    assert outcomes[-1] == ("2", "refused")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    await following.look()
    assert following.champion().info.version == "1"


def no_json(folder: Path) -> None:
    (folder / "metrics.json").write_text("no JSON")


def unknown_key(folder: Path) -> None:
    (folder / "preview" / "request.json").write_text('{"colour": "red"}')


def cut_weights(folder: Path) -> None:
    (file,) = folder.glob("transformer/*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])


def wrong_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("colour: red")


async def test_a_version_that_raises_any_error_is_refused_for_good(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, outcomes = models(tiny_recipe().serve)
    register(1)
    await following.look()
    for number, damage in enumerate((no_json, unknown_key, cut_weights, wrong_recipe), 2):
        register(number, damage=damage)
        await following.look()
        assert following.champion().info.version == "1"
        assert following.refused == str(number)
        with monkeypatch.context() as patch:
            patch.setattr("serve.deploy.models.monotonic", lambda: 1e9)
            await following.look()
        assert outcomes == [("1", "serving"), *((str(one), "refused") for one in range(2, number + 1))]
    set_alias(NAME, "champion", "1")
    await following.look()
    assert following.refused is None


async def test_transient_failures_are_retried_at_growing_intervals(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, outcomes = models(tiny_recipe(follow_s=5).serve)
    register(1)
    await following.look()
    register(2)
    errors = OSError(errno.ENOSPC, "No space left on device"), MemoryError(), UnreachableError("no MLflow answers")
    tried: list[float] = []
    clock = [0.0]

    @contextmanager
    def failing(name: str, version: str) -> Iterator[Path]:
        tried.append(clock[0])
        if len(tried) < 9:
            raise copy.copy(errors[len(tried) % 3])
        with fetched_bundle(name, version) as folder:
            yield folder

    monkeypatch.setattr("serve.deploy.loader.fetched_bundle", failing)
    monkeypatch.setattr("serve.deploy.models.monotonic", lambda: clock[0])
    for clock[0] in (0, 5, 10, 25, 30, 70, 145, 150, 310, 605, 610, 905, 910, 1210):
        await following.look()
        assert following.champion().info.version == ("2" if len(tried) == 9 else "1")
    assert tried == [0, 10, 30, 70, 150, 310, 610, 910, 1210]
    assert outcomes[-2:] == [("2", "serving"), ("1", "retired")]


async def test_a_refused_version_keeps_no_weights(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    following, _ = models(tiny_recipe().serve)
    loaded: list[weakref.ref[object]] = []

    def own(pipeline: MMFacePipeline) -> None:
        loaded.append(weakref.ref(pipeline.transformer))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("serve.deploy.loader._own_weights", own)
    register(1)
    await following.look()
    gc.collect()
    assert [one() for one in loaded] == [None]
    with pytest.raises(ServiceError, match="version 1 cannot be served: OutOfMemoryError: CUDA out of memory"):
        following.champion()


async def test_a_restarted_replica_takes_the_newest_former_champion_that_loads(register: Register) -> None:
    for number in (1, 2, 3):
        register(number)
    rollback()  # version 3 was rolled back, so it is not used again
    register(4, damage=no_json)
    register(5, "challenger")  # never passed the gate
    register(6, damage=no_json)
    following, outcomes = models(tiny_recipe().serve)
    await following.look()
    assert outcomes == [("6", "refused"), ("4", "refused"), ("2", "serving")]
    await following.look()
    assert len(outcomes) == 3
    replica = Replica.__new__(Replica)
    await replica.__init__(tiny_recipe().serve, 1, {})  # type: ignore[misc]
    await replica.check_health()
    readiness = await replica.ready()
    assert (readiness.model, readiness.refused) == (f"{NAME}:2", "6")
    register(7)
    await following.look()
    assert outcomes[-2:] == [("7", "serving"), ("2", "retired")]
    assert following.refused is None


async def test_a_registry_that_is_unreachable_at_the_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    following, _ = models(tiny_recipe().serve)
    await following.look()
    with pytest.raises(ServiceError, match=r"MLflow does not answer at http://127\.0\.0\.1:9"):
        following.champion()


def test_replicas_get_the_variables_that_reach_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    credentials = {
        "MLFLOW_TRACKING_USERNAME": "somebody",
        "MLFLOW_TRACKING_PASSWORD": "a secret",
        "MLFLOW_TRACKING_TOKEN": "a token",
        "MLFLOW_S3_ENDPOINT_URL": "http://s3:8333",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": "another secret",
    }
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    assert credentials.items() <= _environment().items()


async def test_broken_weights_are_refused(register: Register, bundle: Bundle, tmp_path: Path) -> None:
    following, outcomes = models(tiny_recipe().serve)
    register(1)
    await following.look()
    weight = bundle.pipeline.transformer.x_embedder.proj.weight
    kept = weight.clone()
    with torch.no_grad():
        weight[0] = torch.nan
    try:
        write_bundle(bundle.pipeline, tmp_path / "broken", bundle.recipe, {"number": 9}, {})
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    set_alias(NAME, "champion", register_bundle(tmp_path / "broken", start_run("broken")))
    await following.look()
    assert following.champion().info.version == "1"
    assert outcomes[-1] == ("2", "refused")
