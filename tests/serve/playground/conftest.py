"""Fixtures: a real browser, the service, and a page of the playground."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests.serve.playground.page_actions import WIDE, Recorder, Served, opened
from tests.serve.service import listening, tiny_recipe

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH; on Debian: apt-get install chromium")
    expect.set_options(timeout=20_000)  # the machine may be busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> Iterator[Served]:
    """A service that handles one request at a time."""
    settings = tiny_recipe(bundle.recipe.components.model_dump(), max_batch=1, max_queued=1).serve
    generator = Generator(bundle, settings)
    recorder = Recorder(create_app(generator, settings))
    with listening(recorder) as url:
        yield Served(url, generator, recorder)


@pytest.fixture
def context(browser: Browser, served: Served) -> Iterator[BrowserContext]:
    """A browser profile. A request to another origin or a JavaScript error in any of its pages fails the test."""
    context = browser.new_context(base_url=served.url, viewport=WIDE)
    context.set_default_timeout(20_000)
    unexpected: list[str] = []
    context.on(
        "request", lambda request: request.url.startswith((served.url, "blob:")) or unexpected.append(request.url)
    )
    context.on("weberror", lambda error: unexpected.append(str(error.error)))
    yield context
    context.close()
    assert unexpected == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return opened(context)
