"""Versions that do not load: refused for good or retried, while the old version keeps serving."""

from __future__ import annotations

import copy
import errno
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mmface.bundles.bundle import Bundle, write_bundle
from mmface.bundles.registry import fetched_bundle, register_bundle, set_alias, start_run
from mmface.errors import ServiceError, UnreachableError
from mmface.pipeline import MMFacePipeline
from tests.serve.deploy.versions import NAME, Register, cut_weights, models, no_json, unknown_key, wrong_recipe
from tests.serve.service import tiny_recipe

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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


async def test_a_registry_that_is_unreachable_at_the_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    following, _ = models(tiny_recipe().serve)
    await following.look()
    with pytest.raises(ServiceError, match=r"MLflow does not answer at http://127\.0\.0\.1:9"):
        following.champion()


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
