"""Fixtures: a tiny bundle, its generator, and a client of the real routes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests import tiny
from tests.serve.service import tiny_recipe


@pytest.fixture(scope="session", autouse=True)
def no_access_log() -> None:
    """Keeps the access log off a test's stdout, which is closed when the next test logs."""
    logging.getLogger("serve.access").addHandler(logging.NullHandler())


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("tiny")
    return Bundle(tiny.pipeline(root / "tokenizer"), "7", tiny_recipe(tiny.components(root)), {}, {})


@pytest.fixture
def generator(bundle: Bundle) -> Generator:
    return Generator(bundle, bundle.recipe.serve)


@pytest.fixture(scope="session")
def client(bundle: Bundle) -> Iterator[TestClient]:
    app = create_app(Generator(bundle, bundle.recipe.serve), bundle.recipe.serve)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
