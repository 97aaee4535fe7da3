"""The whole service: MLflow on SQLite, Ray Serve, HTTP over loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from mmface.bundles.bundle import Bundle, write_bundle
from mmface.bundles.registry import register_bundle, set_alias, start_run
from mmface.errors import RegistryError, ServiceError
from tests.serve.service import mask_png, pixels, png, sketch_png, tiny_recipe

MASK, SKETCH = "/v1/generate/mask", "/v1/generate/sketch"
LONG = 1000


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def service(
    ray_session: None, bundle: Bundle, free_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    from serve.deploy.app import run, shutdown

    root = tmp_path_factory.mktemp("home")
    recipe = tiny_recipe(port=free_port, max_batch=1, follow_s=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMFACE_HOME", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(RegistryError, match="no champion yet: run mmface retrain"):
            run(recipe)
        register(bundle, root / "bundle")
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", free_port))
            busy.listen()
            with pytest.raises(ServiceError, match=r"--set serve\.port=PORT"):
                run(recipe)
        url = run(recipe)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client
        shutdown()


def register(bundle: Bundle, folder: Path, note: str = "") -> None:
    write_bundle(bundle.pipeline, folder, bundle.recipe, {"note": note}, {})
    set_alias("mmface-dit", "champion", register_bundle(folder, start_run(f"tiny{note}")))


def post(client: httpx.Client, path: str = MASK, accept: str = "application/json", **fields: Any) -> httpx.Response:
    condition = fields.pop("condition", mask_png() if path == MASK else sketch_png())
    files = {"condition": ("drawing.png", condition)}
    return client.post(path, files=files, data={"prompt": "a face"} | fields, headers={"Accept": accept})


def test_ready_with_the_champion(service: httpx.Client) -> None:
    answer = service.get("/readyz")
    assert answer.json()["model"] == "mmface-dit:1"
    assert answer.headers["X-Model-Version"] == "1"
    assert service.get("/healthz").status_code == service.get("/docs").status_code == 200
    assert service.get("/v1/models").json()["data"][0]["id"] == "mmface-dit:1"


@pytest.mark.parametrize("path", [MASK, SKETCH])
def test_a_seed_gives_one_png(service: httpx.Client, path: str) -> None:
    first, again, other = (post(service, path, "image/png", seed=seed) for seed in (1, 1, 2))
    assert (first.status_code, first.headers["Content-Type"]) == (200, "image/png")
    assert (first.headers["X-Model-Version"], first.headers["X-Seed"]) == ("1", "1")
    np.testing.assert_array_equal(pixels(first.content), pixels(again.content))
    assert (pixels(first.content) != pixels(other.content)).any()


def test_a_batch_of_two_equals_two_single_calls(service: httpx.Client) -> None:
    batch = post(service, seed=8, n=2).json()
    assert batch["model"] == "mmface-dit:1"
    for seed, item in zip((8, 9), batch["data"], strict=True):
        assert item["seed"] == seed
        single = pixels(post(service, accept="image/png", seed=seed).content)
        np.testing.assert_array_equal(pixels(base64.b64decode(item["b64_json"])), single)


def test_streams_work_through_ray_and_end_with_the_picture_of_a_plain_request(service: httpx.Client) -> None:
    text = post(service, seed=3, stream="true", partial_images=1, num_inference_steps=6).text
    kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert kinds[0] == "queued"
    assert kinds[-1] == "completed"
    assert kinds.count("partial_image") == 1
    last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
    plain = post(service, accept="image/png", seed=3, num_inference_steps=6)
    np.testing.assert_array_equal(pixels(base64.b64decode(last["data"][0]["b64_json"])), pixels(plain.content))


def test_a_client_that_disconnects_from_a_stream_frees_the_replica(service: httpx.Client) -> None:
    before = service.get("/readyz").json()["cancelled"]
    data = {"prompt": "", "stream": "true", "num_inference_steps": str(LONG)}
    with service.stream("POST", MASK, files={"condition": mask_png()}, data=data) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: step"):
                break
    assert post(service).status_code == 200
    assert service.get("/readyz").json()["cancelled"] == before + 1


def test_request_ids_are_returned_or_made(service: httpx.Client) -> None:
    kept = service.get("/healthz", headers={"X-Request-Id": "mine-1"})
    assert kept.headers.get_list("X-Request-Id") == ["mine-1"]
    assert len(service.get("/healthz").headers.get_list("X-Request-Id")) == 1


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"n": 0}, 422, "n"),
        ({"size": "63"}, 422, "size"),
        ({"num_inference_steps": LONG + 1}, 422, "num_inference_steps"),
        ({"prompt": b"caf\xe9"}, 400, "prompt"),
        ({"condition": b"no image"}, 400, "condition"),
        ({"condition": b"x" * 300_000}, 413, None),
    ],
    ids=["n", "size", "steps", "utf8", "no-image", "too-large"],
)
def test_errors_arrive_through_ray_in_the_envelope(
    service: httpx.Client, fields: Any, status: int, param: str | None
) -> None:
    answer = post(service, **fields)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert service.get("/nowhere").json()["error"]["code"] == "not_found"


def test_a_large_streamed_body_is_refused(service: httpx.Client) -> None:
    chunks = (b"x" * 10_000 for _ in range(100))
    answer = service.post(MASK, content=chunks, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_client_that_disconnects_frees_the_replica(service: httpx.Client) -> None:
    before = service.get("/readyz").json()
    started = time.monotonic()
    whole = post(service, num_inference_steps=50)
    step = (time.monotonic() - started) / 50
    assert whole.status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        service.post(
            MASK,
            files={"condition": mask_png()},
            data={"prompt": "", "num_inference_steps": str(LONG)},
            timeout=httpx.Timeout(30, read=0.5),
        )
    left = time.monotonic()
    assert post(service).status_code == 200
    freed = time.monotonic() - left
    assert freed < 0.5 * LONG * step, "the next request waited for the cancelled one"
    after = service.get("/readyz").json()
    assert (after["cancelled"], after["completed"]) == (before["cancelled"] + 1, before["completed"] + 2)


def test_overload_is_429_with_retry_after(service: httpx.Client) -> None:
    async def burst() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as client:
            posts = (
                client.post(MASK, files={"condition": mask_png()}, data={"prompt": "", "num_inference_steps": "60"})
                for _ in range(8)
            )
            return await asyncio.gather(*posts)

    answers = asyncio.run(burst())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert sorted({answer.status_code for answer in answers}) == [200, 429]
    assert 1 <= len(refused) <= 5  # one runs and two may wait
    for answer in refused:
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
    assert service.get("/readyz").status_code == 200


def test_a_photograph_becomes_conditions_that_generate(service: httpx.Client) -> None:
    photo = png(Image.new("RGB", (80, 64), "tan"))
    for modality in ("mask", "sketch"):
        answer = service.post(f"/v1/conditions/{modality}", files={"image": photo})
        assert answer.status_code == 200, answer.text
        assert pixels(answer.content).shape == (64, 64)
        assert post(service, f"/v1/generate/{modality}", condition=answer.content).status_code == 200
    refused = service.post("/v1/conditions/mask", files={"image": b"no image"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "image")


def test_keys_are_required_below_rays_route_prefix(service: httpx.Client) -> None:
    """Deploys a second ingress to the same replica, as ``route_prefix: /faces`` in a config does."""
    from ray import serve

    from serve.deploy.deployments import Ingress
    from serve.guards.access import Key

    keys = (Key("tests", hashlib.sha256(b"secret").hexdigest()),)
    replica = serve.get_deployment_handle("Replica", "mmface")
    ingress: Any = serve.deployment(serve.ingress()(Ingress), name="Prefixed", ray_actor_options={"num_cpus": 0})
    settings = tiny_recipe(api_keys_env="UNUSED", requests_per_minute=600).serve
    serve.run(ingress.bind(replica, settings, keys), name="prefixed", route_prefix="/faces")
    try:
        with httpx.Client(base_url=f"{service.base_url}/faces", timeout=60) as client:
            for path in ("generate/mask", "generate/sketch", "conditions/mask", "conditions/sketch", "images/edits"):
                assert client.post(f"/v1/{path}", content=b"x" * 150_000).status_code == 401
            for path in ("/v1/models", "//v1/models", "/v1/models/mmface-dit", "/%2Fv1/models", "/nowhere"):
                assert client.get(path).status_code == client.head(path).status_code == 401, path
            for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/playground/app.js"):
                assert client.get(path).status_code == client.head(path).status_code == 200, path
            bare = client.get(str(client.base_url).rstrip("/"))
            assert (bare.status_code, bare.headers["Location"]) == (307, "faces/")
            known = {"Authorization": "Bearer secret", "X-Request-Id": "not one", "Accept": "image/png"}
            made = client.post("/v1/generate/mask", files={"condition": mask_png()}, data={"prompt": ""}, headers=known)
            assert made.status_code == 200, made.text
            image = Image.open(io.BytesIO(made.content))
            assert made.headers.get_list("X-Request-Id") == [
                image.info["mmface:request_id"],
                "not one",
            ]  # Ray returns the client's id too
            assert (
                service.get("/facesX/v1/models").status_code == 404
            )  # not below the prefix, so it reaches the other application
    finally:
        serve.delete("prefixed")


def test_a_new_champion_takes_over_and_a_damaged_one_does_not(
    service: httpx.Client, bundle: Bundle, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        stop = threading.Event()
        clients = [pool.submit(ask_until, stop, str(service.base_url), seed) for seed in range(2)]
        register(bundle, tmp_path / "second", "second")
        wait_for(service, "2")
        register(bundle, tmp_path / "third", "third")
        for file in Path(os.environ["MMFACE_HOME"]).rglob("bundles/*/transformer/*.safetensors"):
            file.write_bytes(file.read_bytes()[:-10])
        time.sleep(2)
        assert service.get("/readyz").json()["model"] in ("mmface-dit:2", "mmface-dit:3")
        stop.set()
        answers = [answer for client in clients for answer in client.result()]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["X-Model-Version"] for answer in answers} >= {"1", "2"}
    same = {pixels(answer.content).tobytes() for answer in answers if answer.headers["X-Seed"] == "0"}
    assert len(same) == 1  # three versions of the same weights


def ask_until(stop: threading.Event, url: str, seed: int) -> list[httpx.Response]:
    answers = []
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            answers.append(post(client, accept="image/png", seed=seed))
    return answers


def wait_for(service: httpx.Client, version: str) -> None:
    end = time.monotonic() + 60
    while service.get("/readyz").json()["model"] != f"mmface-dit:{version}":
        assert time.monotonic() < end
        time.sleep(0.1)
