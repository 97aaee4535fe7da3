"""The playground in a real browser: drawing, generating, the gallery, files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from mmface.imaging.labels import mask_from_png
from tests.serve.playground.page_actions import (
    ACCEPTED,
    HAIR,
    NARROW,
    SIDE,
    SKIN,
    Served,
    begin_with_example,
    choose,
    labels,
    opened,
    paint,
    pictures,
    place,
    saved,
    stroke,
    until,
)
from tests.serve.service import mask_png, png


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
