"""Painting tools: a canvas with labels, soft edges from implicit functions, and smooth noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmface.data.portraits.palette import Array

_CELLS, _TEXTURE = 32, 1024  # noise cells per texture side, samples per texture side


@lru_cache(maxsize=1)
def _noise_texture() -> Array:
    """Tileable smooth noise in about -1..1, shape [1024, 1024]; each portrait reads it at random offsets."""
    lattice = np.random.default_rng(7).uniform(-1, 1, (_CELLS, _CELLS)).astype(np.float32)
    side = _TEXTURE // _CELLS
    wrapped = np.pad(lattice, 4, mode="wrap")
    big = Image.fromarray(wrapped).resize((wrapped.shape[1] * side,) * 2, Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(big, np.float32)[4 * side : -4 * side, 4 * side : -4 * side] * 1.3)


def noise(rng: np.random.Generator, u: Array, v: Array, fu: float, fv: float) -> Array:
    """Smooth noise in about -1..1 with ``fu`` and ``fv`` cells per unit of ``u`` and ``v``."""
    side = _TEXTURE // _CELLS
    ou, ov = rng.uniform(0, _TEXTURE, 2)
    iu = (u * np.float32(fu * side) + np.float32(ou)).astype(np.int32) & (_TEXTURE - 1)
    iv = (v * np.float32(fv * side) + np.float32(ov)).astype(np.int32) & (_TEXTURE - 1)
    return np.take(_noise_texture().reshape(-1), iv * _TEXTURE + iu)


def ramp(x: Array, lo: float, hi: float) -> Array:
    """Smoothstep from 0 at ``lo`` to 1 at ``hi``."""
    t = np.clip((x - np.float32(lo)) * np.float32(1 / (hi - lo)), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def bump(u: Array, v: Array, u0: float, v0: float, su: float, sv: float) -> Array:
    """A Gaussian of height 1 around (u0, v0) with deviations su and sv."""
    return np.exp(
        -(((u - np.float32(u0)) * np.float32(1 / su)) ** 2 + ((v - np.float32(v0)) * np.float32(1 / sv)) ** 2)
    )


def curve(t: Array, points: list[tuple[float, float]]) -> Array:
    """Piecewise linear interpolation through (t, value) points, sorted by t."""
    ts, values = zip(*points, strict=True)
    return np.asarray(np.interp(t, ts, values), np.float32)


def segment(u: Array, v: Array, a: tuple[float, float], b: tuple[float, float]) -> Array:
    """Distance to the segment from a to b."""
    du, dv = b[0] - a[0], b[1] - a[1]
    t = np.clip(((u - a[0]) * du + (v - a[1]) * dv) / (du * du + dv * dv), 0, 1)
    return np.asarray(np.hypot(u - a[0] - t * du, v - a[1] - t * dv), np.float32)


@dataclass(frozen=True)
class Profile:
    """A shape symmetrical in x: half-widths (y, half-width) from its shoulder down, a half ellipse above."""

    top: float
    points: list[tuple[float, float]]

    def half(self, y: Array) -> Array:
        """Half-width at each height, 0 above the top."""
        y1, w1 = self.points[0]
        arc = w1 * np.sqrt(np.clip(1 - ((y - y1) / (y1 - self.top)) ** 2, 0, 1))
        return np.where(y < y1, arc, curve(y, self.points)).astype(np.float32)


@dataclass
class Canvas:
    """An image that is being painted, or a rectangular view of one.

    ``x`` and ``y`` [H, W] run from -1 to 1 (y downwards), ``rgb`` [H, W, 3] is in 0..1, ``label`` [H, W] holds the
    face label of the topmost layer, ``step`` is the width of one pixel.
    """

    x: Array
    y: Array
    rgb: Array
    label: NDArray[np.uint8]
    step: float

    @staticmethod
    def blank(n: int) -> Canvas:
        """A black n by n canvas."""
        line = ((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1).astype(np.float32)
        x, y = np.meshgrid(line, line)
        return Canvas(x, y, np.zeros((n, n, 3), np.float32), np.zeros((n, n), np.uint8), 2 / n)

    def view(self, x0: float, x1: float, y0: float, y1: float) -> Canvas:
        """The view between these coordinates; it shares its pixels with this canvas."""
        h, w = self.x.shape
        left, top = float(self.x[0, 0]), float(self.y[0, 0])
        c0, c1 = (int(np.clip(np.floor((c - left) / self.step), 0, w - 1)) for c in (x0, x1))
        r0, r1 = (int(np.clip(np.floor((r - top) / self.step), 0, h - 1)) for r in (y0, y1))
        at = np.s_[r0 : max(r1 + 2, r0 + 2), c0 : max(c1 + 2, c0 + 2)]
        return Canvas(self.x[at], self.y[at], self.rgb[at], self.label[at], self.step)

    def alpha(self, distance: Array, soft: float = 0.0) -> Array:
        """Coverage from a signed distance (negative inside); ``soft`` widens the edge."""
        return np.asarray(np.clip(0.5 - distance * np.float32(1 / (self.step * 1.5 + soft)), 0, 1))

    def distance(self, implicit: Array) -> Array:
        """First-order signed distance of an implicit function: f / |grad f|."""
        gy, gx = np.gradient(implicit)
        return np.asarray(implicit * np.float32(self.step) / np.maximum(np.hypot(gx, gy), 1e-6), np.float32)

    def profile(self, x: Array, y: Array, shape: Profile) -> Array:
        """Distance to a :class:`Profile`."""
        (y1, w1), height = shape.points[0], shape.points[0][0] - shape.top
        arc = (np.hypot(x * np.float32(1 / w1), (y - np.float32(y1)) * np.float32(1 / height)) - 1) * np.float32(w1)
        return self.distance(np.where(y < y1, arc, np.abs(x) - curve(y, shape.points)))

    def paint(self, alpha: Array, colour: Array, label: int | None = None) -> None:
        """Blends ``colour`` ([3] or [H, W, 3]) over the image; pixels with coverage of 0.5 or more get ``label``."""
        self.rgb += alpha[..., None] * (colour - self.rgb)
        if label is not None:
            self.label[alpha >= 0.5] = label

    def multiply(self, factor: Array) -> None:
        """Darkens or lightens by a factor map [H, W]."""
        self.rgb *= factor[..., None]
