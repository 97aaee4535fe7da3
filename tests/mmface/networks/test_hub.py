"""A hub id without a revision is pinned to one commit: the newest on the hub or, offline, the one in the cache."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from mmface.bundles import weights
from mmface.config import Components
from mmface.config.load import load_recipe
from mmface.errors import RecipeError
from mmface.networks import hub
from mmface.networks.components import component_identity, load_vae
from mmface.networks.hub import choose_components, pin_components
from mmface.networks.places import resolve

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in the layout of huggingface_hub, with one repository at ``OLD``; the hub is offline."""
    repository = tmp_path / "hub" / "models--faces--small"
    shutil.copytree(resolve("zoo:vae"), repository / "snapshots" / OLD / "vae")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(OLD)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A hub on loopback; yields its commits by path, which a test may change; any other path is 404."""
    commits = {"/api/models/faces/small?expand=sha": NEW}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sha = commits.get(self.path)
            body = json.dumps({"id": "faces/small", "sha": sha} if sha else {"error": "Repository not found"}).encode()
            self.send_response(200 if sha else 404)
            self.send_header("Content-Length", str(len(body)))
            if not sha:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield commits
    server.shutdown()


def test_the_newest_commit_on_the_hub_is_taken(answering: dict[str, str]) -> None:
    assert hub.pin("faces/small/vae", "components.vae") == f"faces/small/vae@{NEW}"
    answering["/api/models/faces/small?expand=sha"] = OLD
    assert hub.pin("faces/small", "components.vae") == f"faces/small@{OLD}"


def test_a_pinned_recipe_does_not_ask_the_hub_again(answering: dict[str, str]) -> None:
    recipe = load_recipe("demo", ["components.vae=faces/small/vae", "components.clip=faces/small@v1"])
    pinned = pin_components(recipe)
    assert pinned.components == Components(vae=f"faces/small/vae@{NEW}", clip="faces/small@v1")
    assert component_identity(pinned.components.vae) == f"hub:faces/small/vae@{NEW}"
    answering.clear()
    assert pin_components(pinned) == pinned
    assert pin_components(recipe, ("clip",)).components.vae == "faces/small/vae"


def test_offline_the_cached_commit_is_used(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "mmface"):
        name = hub.pin("faces/small/vae", "components.vae")
    assert name == f"faces/small/vae@{OLD}"
    assert f"components.vae: using faces/small at the cached commit {OLD}" in caplog.text
    assert type(load_vae(name)).__name__ == type(load_vae("zoo:vae")).__name__
    assert weights.pin("faces/small/transformer") == f"faces/small/transformer@{OLD}"


@pytest.mark.parametrize("cached", ["nothing", "a name alone"])
def test_without_hub_and_cache_pinning_fails(cached: str, cache: Path) -> None:
    if cached == "nothing":
        shutil.rmtree(cache)
    else:
        shutil.rmtree(cache / "models--faces--small" / "snapshots")
    with pytest.raises(
        RecipeError, match=r"components\.vae: faces/small is not in the cache .*offline.*; go online once"
    ):
        pin_components(load_recipe("demo", ["components.vae=faces/small/vae"]))


def test_an_unknown_repository_or_invalid_hub_id_is_refused(answering: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"components\.clip: faces/none is not in the cache .*404"):
        hub.pin("faces/none", "components.clip")
    with pytest.raises(RecipeError, match=r"components\.clip: '-- -' is not a hub id"):
        hub.pin("-- -", "components.clip")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_a_hub_that_cannot_be_reached_is_like_being_offline(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert hub.pin("faces/small", "components.vae") == f"faces/small@{OLD}"
    with pytest.raises(RecipeError, match=r"faces/none is not in the cache and the hub gave no commit"):
        hub.pin("faces/none", "components.vae")


def test_names_that_are_not_hub_ids_stay_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own" / "vae").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("zoo:vae", "own/vae", str(tmp_path / "own"), "./gone", "~/gone", "a/b.safetensors", "a/b@v1"):
        assert hub.pin(name, "components.vae") == name
    recipe = load_recipe("demo")
    assert pin_components(recipe) == recipe
    assert weights.pin("scratch") == "scratch"


def test_preferred_networks_replace_the_zoo_where_they_can_be_reached(
    answering: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["preferred.vae=faces/small/vae", "preferred.parser=faces/none", "preferred.clip=faces/small"]
    recipe = load_recipe("demo", [*wanted, "components.clip=faces/own@v1"])
    with caplog.at_level("INFO", "mmface"):
        chosen = choose_components(recipe)
    assert chosen.components == Components(vae=f"faces/small/vae@{NEW}", clip="faces/own@v1")
    assert f"components.vae: faces/small/vae@{NEW} is used instead of zoo:vae" in caplog.text
    assert "components.parser: zoo:parser is used instead of faces/none: faces/none is not in the cache" in caplog.text
    assert choose_components(chosen) == chosen  # a saved recipe does not ask again
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert choose_components(recipe).components.vae == f"faces/small/vae@{OLD}"


def test_networks_that_only_measure_are_pinned_with_clip() -> None:
    recipe = load_recipe(
        "demo", ["evaluate.parser=faces/small/parser", "metrics.dino=faces/small", "metrics.lpips=a.pth"]
    )
    pinned = pin_components(recipe)
    assert pinned.evaluate.parser == f"faces/small/parser@{OLD}"
    assert (pinned.metrics.dino, pinned.metrics.lpips) == (f"faces/small@{OLD}", "a.pth")
    assert pin_components(recipe, ("clip",)).metrics == pinned.metrics
    assert pin_components(recipe, ("vae",)).metrics == recipe.metrics
    absent = load_recipe("demo", ["metrics.inception=faces/none"])
    with pytest.raises(RecipeError, match=r"metrics.inception: faces/none is not in the cache"):
        pin_components(absent)
