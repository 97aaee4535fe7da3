"""Following the aliases: new versions take over, running requests keep theirs, canaries get their share."""

from __future__ import annotations

import asyncio
import copy
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmface.bundles.bundle import Bundle
from mmface.bundles.registry import rollback, set_alias
from mmface.errors import ServiceError
from mmface.networks.precision import keep_in_bf16
from serve.deploy.app import _environment
from serve.deploy.deployments import Replica
from tests.serve.deploy.versions import NAME, Register, models, no_json
from tests.serve.engine.test_generator import job
from tests.serve.service import sketch_png, tiny_recipe

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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


async def test_a_promoted_canary_answers_on_without_being_loaded_again(register: Register) -> None:
    following, outcomes = models(tiny_recipe(canary={"alias": "challenger", "share": 0.25}).serve)
    register(1)
    version = register(2, "challenger")
    await following.look()
    canary = following.serving()[1]
    set_alias(NAME, "champion", version)  # the alias of the canary still points to it
    await following.look()
    await following.look()
    assert following.serving() == [canary]
    assert canary.engine.alive
    assert outcomes[2:] == [("2", "serving"), ("1", "retired")]


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
