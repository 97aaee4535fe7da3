"""The playground in a real browser: errors, API keys, path prefixes and accessibility."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests.serve.playground.page_actions import (
    ACCEPTED,
    begin_with_example,
    opened,
    paint,
    pictures,
    saved,
)
from tests.serve.service import listening, tiny_recipe


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
