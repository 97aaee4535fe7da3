"""Helpers for tests of the playground: the service behind the page, and what a user does on it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import BrowserContext, Page, ViewportSize, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmface.imaging.labels import mask_from_png
from serve.engine.generator import Generator

SIDE = 512  # pixels of a drawing in the page
HAIR, SKIN = 13, 1
WIDE: ViewportSize = {"width": 1280, "height": 1300}
ACCEPTED = re.compile("queue|ahead|of 1000")  # progress texts of a request that the service has accepted
NARROW: ViewportSize = {"width": 360, "height": 640}


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


def saved(page: Page, place: int, folder: Path) -> Path:
    with page.expect_download() as download:
        page.locator("#pictures > li").nth(place).get_by_role("button", name="Download").click()
    path = folder / f"{time.monotonic_ns()}.png"
    download.value.save_as(path)
    return path


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
