"""The playground in a real browser, with the real service over loopback."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmface.bundles.bundle import Bundle
from mmface.imaging.labels import mask_from_png
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests.serve.service import listening, mask_png, png, tiny_recipe

CHROMIUM = shutil.which("chromium")
SIDE = 512  # pixels of a drawing in the page
HAIR, SKIN = 13, 1
WIDE: ViewportSize = {"width": 1280, "height": 1300}
ACCEPTED = re.compile("queue|ahead|of 1000")  # progress texts of a request that the service has accepted
NARROW: ViewportSize = {"width": 360, "height": 640}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # the machine may be busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Recorder:
    """The service, and the last body sent to it; the browser's API does not show the files of a form."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.body = app, b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def recorded() -> Message:
            message = await receive()
            self.body += message.get("body", b"")
            return message

        if scope.get("method") == "POST":
            self.body = b""
        await self.app(scope, recorded, send)


@dataclass(frozen=True)
class Served:
    url: str
    generator: Generator
    recorder: Recorder


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


def opened(context: BrowserContext) -> Page:
    page = context.new_page()
    page.goto("/")
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("#model")).to_contain_text("mmface-dit:7")
    return page


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Window coordinates of a point of the drawing; ``x`` and ``y`` are fractions of its side."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def stroke(page: Page, *points: tuple[float, float]) -> None:
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=4)
    page.mouse.up()


def labels(page: Page, tmp_path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The labels of the drawing, from the file that the page saves."""
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "drawing.png")
    return mask_from_png((tmp_path / "drawing.png").read_bytes())


def choose(page: Page, label: str) -> None:
    page.locator("#palette").get_by_text(label, exact=True).click()


def paint(page: Page, **fields: str) -> None:
    for name, value in ({"prompt": "a face"} | fields).items():
        page.fill(f"#{name}", value)
    page.click("#generate")


def begin_with_example(page: Page) -> None:
    page.click("#example")
    expect(page.locator("#status")).to_contain_text("An example")


def pictures(page: Page, count: int) -> None:
    expect(page.locator("#pictures > li")).to_have_count(count)


def test_the_page_loads_within_a_second_and_150_kb(context: BrowserContext) -> None:
    page = context.new_page()
    sizes: list[int] = []
    page.on("response", lambda response: sizes.append(len(response.body())))
    page.goto("/")
    page.wait_for_selector("html[data-ready]")
    ready = page.evaluate("performance.now()")
    print(f"playground: {sum(sizes) / 1000:.0f} kB in {len(sizes)} files, ready after {ready:.0f} ms")
    assert sum(sizes) <= 150_000
    again = context.new_page()
    again.goto("/")
    again.wait_for_selector("html[data-ready]")
    assert min(ready, again.evaluate("performance.now()")) < 1000


def test_a_drawing_is_filled_undone_redone_and_sent_unchanged(page: Page, served: Served, tmp_path: Path) -> None:
    choose(page, "Hair")
    stroke(page, (0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2))
    drawn = labels(page, tmp_path)
    assert drawn.shape == (SIDE, SIDE)
    assert set(np.unique(drawn)) == {0, HAIR}
    choose(page, "Skin")
    page.click("#tool-fill")
    page.mouse.click(*place(page, 0.5, 0.5))
    filled = labels(page, tmp_path)
    assert filled[SIDE // 2, SIDE // 2] == SKIN
    assert filled[5, 5] == 0
    page.click("#undo")
    np.testing.assert_array_equal(labels(page, tmp_path), drawn)
    page.click("#redo")
    np.testing.assert_array_equal(labels(page, tmp_path), filled)

    paint(page, prompt="a face")
    pictures(page, 1)
    body = served.recorder.body
    start = body.index(b"\x89PNG")
    posted = mask_from_png(body[start : body.index(b"IEND", start) + 8])
    step = SIDE // len(posted)
    np.testing.assert_array_equal(posted, filled[step // 2 :: step, step // 2 :: step])


def test_touch_and_keyboard_draw(browser: Browser, served: Served, tmp_path: Path) -> None:
    context = browser.new_context(base_url=served.url, has_touch=True, viewport=NARROW)
    page = opened(context)
    page.locator("#canvas").scroll_into_view_if_needed()
    page.touchscreen.tap(*place(page, 0.25, 0.25))
    page.focus("#canvas")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    drawn = labels(page, tmp_path)
    assert drawn[SIDE // 4, SIDE // 4] == drawn[SIDE // 2, SIDE // 2] == drawn[SIDE // 2, SIDE // 2 + 48] == SKIN
    page.keyboard.press("Control+z")
    expect(page.locator("#status")).not_to_be_empty()
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    context.close()


def test_a_reload_keeps_the_drawing_and_the_fields(page: Page, tmp_path: Path) -> None:
    begin_with_example(page)
    page.fill("#prompt", "a man with a beard")
    before = labels(page, tmp_path)
    assert len(np.unique(before)) > 5
    page.wait_for_timeout(600)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    np.testing.assert_array_equal(labels(page, tmp_path), before)
    assert page.input_value("#prompt") == "a man with a beard"


def test_previews_progress_gallery_reuse_and_download_work(page: Page, tmp_path: Path) -> None:
    begin_with_example(page)
    paint(page, prompt="red hair", n="2", num_inference_steps="600")
    expect(page.locator("#progress-text")).to_contain_text("of 600")
    expect(page.locator("#tiles img").first).to_be_visible()
    pictures(page, 2)
    expect(page.locator("#spoken")).to_contain_text("2 pictures are finished")
    first = saved(page, 1, tmp_path)
    page.locator("#pictures > li").nth(1).get_by_role("button", name="Reuse seed").click()
    assert page.get_attribute("#lock", "aria-pressed") == "true"
    page.click("#generate")
    pictures(page, 3)
    again = saved(page, 0, tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    assert Image.open(again).info["mmface:seed"] == page.input_value("#seed")
    page.click("#clear")
    page.locator("#pictures > li").first.get_by_role("button", name="Edit this mask").click()
    assert len(np.unique(labels(page, tmp_path))) > 5


def saved(page: Page, place: int, folder: Path) -> Path:
    with page.expect_download() as download:
        page.locator("#pictures > li").nth(place).get_by_role("button", name="Download").click()
    path = folder / f"{time.monotonic_ns()}.png"
    download.value.save_as(path)
    return path


def test_the_curl_command_generates_the_same_picture(page: Page, tmp_path: Path) -> None:
    begin_with_example(page)
    paint(page, prompt='it\'s a face with "quotes" & $signs')
    pictures(page, 1)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#status")).to_contain_text("copied")
    command = page.evaluate("navigator.clipboard.readText()")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=60)
    [made] = tmp_path.glob("face-*.png")
    shown = Image.open(saved(page, 0, tmp_path))
    np.testing.assert_array_equal(np.asarray(Image.open(made)), np.asarray(shown))


def test_cancelling_frees_the_engine(page: Page, served: Served) -> None:
    generator = served.generator
    cancelled = generator.engine.counters.cancelled
    paint(page, num_inference_steps="1000", n="8")
    expect(page.locator("#progress-text")).to_contain_text(ACCEPTED)
    page.click("#cancel")
    expect(page.locator("#spoken")).to_have_text("Cancelled.")
    until(lambda: generator.engine.counters.cancelled > cancelled and not generator.engine.pending)
    pictures(page, 0)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_files_and_photos_become_drawings(page: Page, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(mask_png(64))
    page.set_input_files("#open-file", tmp_path / "mask.png")
    expect(page.locator("#status")).to_contain_text("mask.png opened")
    expected = mask_from_png(mask_png(64)).repeat(SIDE // 64, 0).repeat(SIDE // 64, 1)
    np.testing.assert_array_equal(labels(page, tmp_path), expected)

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "photo.png").write_bytes(png(Image.fromarray(noise)))
    page.set_input_files("#open-file", tmp_path / "photo.png")
    expect(page.locator("#alert")).to_contain_text("This is not a mask")
    page.set_input_files("#photo-file", tmp_path / "photo.png")
    expect(page.locator("#status")).to_contain_text("above the photo", timeout=60_000)
    expect(page.locator("#under")).to_be_visible()


def test_an_error_of_the_service_is_shown_at_its_field(page: Page) -> None:
    paint(page, num_inference_steps="5000")
    expect(page.locator("#alert")).to_contain_text("Steps: ")
    expect(page.locator("#num_inference_steps")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#num_inference_steps")).to_be_focused()
    page.fill("#num_inference_steps", "3")
    expect(page.locator("#field-error")).to_have_count(0)
    page.click("#generate")
    pictures(page, 1)
    expect(page.locator("#alert")).to_be_hidden()


def test_a_full_queue_and_an_unreachable_service_are_reported(context: BrowserContext) -> None:
    pages = [opened(context) for _ in range(3)]
    for page in pages[:2]:
        paint(page, num_inference_steps="1000", n="8")
        expect(page.locator("#progress-text")).to_contain_text(ACCEPTED)
    paint(pages[2])
    expect(pages[2].locator("#alert")).to_contain_text(" s")
    for page in pages[:2]:
        page.close()
    context.set_offline(True)
    paint(pages[2])
    expect(pages[2].locator("#alert")).to_contain_text("cannot be reached")
    context.set_offline(False)


def test_the_page_asks_for_a_key_and_does_not_store_it(
    browser: Browser, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS", f"one:{hashlib.sha256(b'secret').hexdigest()}")
    settings = tiny_recipe(api_keys_env="KEYS").serve
    with listening(create_app(Generator(bundle, settings), settings)) as url:
        context = browser.new_context(base_url=url)
        page = context.new_page()
        page.goto("/")
        expect(page.locator("#key-form")).to_be_visible()
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("mmface-dit")
        paint(page)
        pictures(page, 1)
        assert "secret" not in json.dumps(context.storage_state())
        context.close()


def test_the_page_works_below_a_prefix_with_a_key(
    browser: Browser, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KEYS", f"one:{hashlib.sha256(b'secret').hexdigest()}")
    settings = tiny_recipe(api_keys_env="KEYS").serve
    app = Starlette(routes=[Mount("/faces", create_app(Generator(bundle, settings), settings))])
    with listening(app) as url:
        context = browser.new_context(base_url=url, permissions=["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.goto("/faces")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("mmface-dit")
        begin_with_example(page)
        paint(page)
        pictures(page, 1)
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.locator("#status")).to_contain_text("copied")
        command = page.evaluate("navigator.clipboard.readText()")
        assert f"{url}/faces/v1/generate/mask" in command
        variables = os.environ | {"MMFACE_API_KEY": "secret"}
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=60, env=variables)
        [made] = tmp_path.glob("face-*.png")
        shown = Image.open(saved(page, 0, tmp_path))
        np.testing.assert_array_equal(np.asarray(Image.open(made)), np.asarray(shown))
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_enough_contrast(context: BrowserContext, scheme: str) -> None:
    page = opened(context)
    page.emulate_media(color_scheme=scheme)
    unnamed = page.evaluate(UNNAMED)
    assert unnamed == []
    pale = page.evaluate(PALE)
    assert pale == []


def tab_to(page: Page, name: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def test_a_sketch_can_be_drawn_and_sent_by_keyboard_alone(page: Page) -> None:
    tab_to(page, "kind-mask")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#kind-sketch")).to_be_checked()
    tab_to(page, "prompt")
    page.keyboard.type("a face")
    page.locator("#kind-sketch").focus()
    tab_to(page, "canvas")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    with page.expect_request("**/v1/generate/sketch"):
        page.keyboard.press("Control+Enter")
    pictures(page, 1)


# Controls without text, label or aria-label.
UNNAMED = """() => [...document.querySelectorAll('button, input, textarea, select, canvas, progress')]
  .filter((one) => !(one.textContent.trim() || one.labels?.length || one.getAttribute('aria-label')
    || one.getAttribute('aria-labelledby')))
  .map((one) => one.outerHTML)"""

# Visible texts whose contrast with their background is below 4.5 (WCAG 2.2, 1.4.3).
PALE = """() => {
  const numbers = (text) => text.match(/[0-9.]+/g).map(Number);
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const speaks = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const exempt = '.hint, .unseen, svg, noscript, [aria-disabled="true"]';
  return [...document.querySelectorAll('body *')]
    .filter((one) => one.checkVisibility() && !one.closest(exempt) && speaks(one))
    .map((one) => {
      const shades = [light(numbers(getComputedStyle(one).color)), light(ground(one))];
      return [one.textContent.trim().slice(0, 30), (Math.max(...shades) + 0.05) / (Math.min(...shades) + 0.05)];
    })
    .filter(([, ratio]) => ratio < 4.5);
}"""
