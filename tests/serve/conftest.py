"""One tiny replica for the tests of this folder, behind the real routes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tiny import TinyBundle, tiny_pipeline, tiny_recipe

from serve.api import create_app
from serve.generator import Generator


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    return TinyBundle(tiny_pipeline(Path(tmp_path_factory.mktemp("tokenizer"))), tiny_recipe())


@pytest.fixture
def generator(bundle: TinyBundle) -> Generator:
    return Generator(bundle, bundle.recipe.serve)


@pytest.fixture(scope="session")
def client(bundle: TinyBundle) -> Iterator[TestClient]:
    app = create_app(Generator(bundle, bundle.recipe.serve), bundle.recipe.serve)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
