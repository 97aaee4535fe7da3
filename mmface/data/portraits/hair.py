"""Paints hair: an outline, an opening for the face, and strands from the crown along the outline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmface.data.portraits.attributes import Attributes, Shape
from mmface.data.portraits.canvas import Canvas, Profile, bump, noise, ramp
from mmface.data.portraits.head import Head
from mmface.data.portraits.palette import HAIR_COLOURS, Array, unit

HAIR = 13


@dataclass(frozen=True)
class HairCut:
    """The outline of the hair and the opening for the face, in the head frame."""

    outline: Profile
    opening: Profile
    end: float  # y where the hair ends
    part: float  # sideways shift of the opening's top


def cut(a: Attributes, s: Shape) -> HairCut:
    """The cut for the sampled length, texture and hairdo."""
    w, vol = s.width, s.volume + (0.7 if a.hair_texture == "curly" else 0.0)
    top = -0.87 - 0.07 * vol
    line = -0.57 + s.hairline - 0.06 * (a.age == "old" and a.person == "man")
    if a.hair_length == "balding":
        outline = Profile(-0.62, [(-0.25, 0.54 * w), (0.0, 0.55 * w), (0.2, 0.50 * w)])
        return HairCut(outline, Profile(-1.4, [(-0.5, 0.36 * w), (-0.2, 0.43 * w), (0.2, 0.50 * w)]), 0.2, 0.0)
    if a.hair_length == "short" or a.hair_do in ("ponytail", "bun"):
        side = 0.02 + 0.05 * vol
        outline = Profile(top, [(-0.34, (0.50 + side) * w), (0.0, (0.51 + side) * w), (0.2, 0.50 * w)])
        opening = Profile(line, [(-0.34, 0.345 * w), (-0.18, 0.41 * w), (0.02, 0.45 * w), (0.2, 0.51 * w)])
        return HairCut(outline, _bangs(a, opening, w), 0.14, 0.12 * s.part)
    drop = 0.05 + 0.09 * vol
    opening = Profile(line, [(-0.14, 0.40 * w), (0.1, 0.44 * w), (0.45, 0.43 * w), (0.8, 0.40), (1.4, 0.46)])
    if a.hair_length == "medium":
        wide = [(-0.3, (0.52 + drop) * w), (0.15, 0.57 + drop), (0.5, 0.57 + drop), (0.72, 0.50 + drop)]
        return HairCut(Profile(top, wide), _bangs(a, opening, w), 0.70 + 0.06 * vol, 0.22 * s.part)
    wide = [(-0.3, (0.52 + drop) * w), (0.15, 0.58 + drop), (0.6, 0.62 + drop), (1.4, 0.70 + drop)]
    return HairCut(Profile(top, wide), _bangs(a, opening, w), 1.6, 0.24 * s.part)


def _bangs(a: Attributes, opening: Profile, w: float) -> Profile:
    if a.hair_do != "bangs":
        return opening
    below = [(y, v) for y, v in opening.points if y > -0.1]
    return Profile(-0.33, [(-0.19, 0.40 * w), *below])


class Hair:
    """The hair of one portrait, painted in two layers: behind the neck and in front of the face."""

    def __init__(self, rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes) -> None:
        s = head.shape
        self.a, self.s, self.head, self.cut = a, s, head, cut(a, s)
        x, y = head.frame(canvas)
        x = (x - 0.55 * head.swing(y) + 0.06 * math.sin(s.yaw)).astype(np.float32)
        self.x, self.y = x, y
        rough = {"straight": 0.008, "wavy": 0.028, "curly": 0.06, "none": 0.0}[a.hair_texture]
        cells = {"straight": 5.0, "wavy": 4.0, "curly": 6.5, "none": 1.0}[a.hair_texture]
        edge = rough * noise(rng, x, y, cells, cells) + 0.007 * noise(rng, x, y, 22, 22)
        half = self.cut.outline.half(y)
        self.hull = canvas.profile(x, y, self.cut.outline) + edge
        # Strand coordinate: its level lines start at the crown and follow the outline downwards.
        s_across = x / np.maximum(half, 0.06)
        wave = {"straight": 0.015, "wavy": 0.075, "curly": 0.16, "none": 0.0}[a.hair_texture]
        bend = noise(rng, s_across, y, 2.2, 3.4 if a.hair_texture == "wavy" else 6.5)
        self.across = (s_across + 0.12 * s.part * ramp(y, 0.2, -0.8) + wave * bend).astype(np.float32)
        self.texture = self._texture(rng, bend)
        tips = 0.05 * noise(rng, self.across, y, 26, 1.5) if a.hair_length != "long" else np.float32(0)
        self.end = (y - self.cut.end + tips).astype(np.float32)
        self.opening = self._opening(rng, canvas)

    def _texture(self, rng: np.random.Generator, bend: Array) -> Array:
        """The pattern of the strands, as factors around 1."""
        fine = noise(rng, self.across, self.y, 46, 1.2)
        locks = noise(rng, self.across, self.y, 13, 0.9)
        t = 1 + 0.17 * fine + 0.20 * locks
        if self.a.hair_texture == "curly":
            t = t + 0.26 * noise(rng, self.x + 0.05 * bend, self.y, 15, 15)
        elif self.a.hair_texture == "wavy":
            t = t + 0.16 * bend
        crown = -0.62 + 0.22 * self.x**2
        band = np.exp(-(((self.y - crown) / 0.13) ** 2)) * np.clip(0.7 + 0.6 * fine, 0, 2)
        side = 1 + 0.28 * np.clip(self.across, -1, 1) * self.s.light_x
        return np.asarray((t + 0.32 * band) * side, np.float32)

    def _opening(self, rng: np.random.Generator, canvas: Canvas) -> Array:
        """Signed distance to the opening for the face, negative where the face shows."""
        y = self.y
        top = self.cut.opening.top
        shift = self.cut.part * ramp(y, 0.0, top) if self.a.hair_do != "bangs" else np.float32(0)
        face_x = self.x - 0.28 * math.sin(self.s.yaw) * ramp(y, -1.0, -0.2)
        amount = 0.055 if self.a.hair_do == "bangs" else 0.02
        ragged = amount * noise(rng, self.across, y, 17, 2.0) * ramp(y, 0.0, -0.25)
        yy = y + ragged
        d = canvas.profile((face_x - shift).astype(np.float32), yy.astype(np.float32), self.cut.opening)
        return np.asarray(d + 0.006 * noise(rng, self.across, y, 30, 3), np.float32)

    def _colour(self, shade: Array, alpha: Array, mean: float = 1.0) -> Array:
        """Coloured strands; their mean over the painted pixels is ``mean`` times the reference colour."""
        base = unit(HAIR_COLOURS[self.a.hair_colour])
        t = self.texture * shade
        t *= np.float32(mean * (alpha.sum() + 1e-3) / ((t * alpha).sum() + 1e-3))
        return np.asarray(np.clip(base * t[..., None] + 0.012 * (t - 1)[..., None], 0, 1), np.float32)

    def paint_back(self, c: Canvas, rng: np.random.Generator) -> None:
        """Paints the hair behind neck and shoulders, with ponytail or bun."""
        if self.a.hair_length == "bald":
            return
        if self.a.hair_do in ("ponytail", "bun"):
            self._paint_tail(c)
        d = np.maximum(self.hull, self.end)
        inner = 0.62 + 0.38 * ramp(np.abs(self.x), 0.28, 0.6)
        alpha = c.alpha(d * np.float32(self.s.scale))
        c.paint(alpha, self._colour(inner, alpha, 0.9), HAIR)

    def _paint_tail(self, c: Canvas) -> None:
        x, y, side = self.x, self.y, 1.0 if self.s.part >= 0 else -1.0
        if self.a.hair_do == "bun":
            d = np.hypot(x - 0.05 * side, (y + 0.93) * 1.15) - (0.20 + 0.05 * self.s.volume)
            swirl = 0.75 + 0.25 * np.cos(14 * np.hypot(x - 0.05 * side, y + 0.9) * 3)
        else:
            d = np.abs(x - side * (0.52 + 0.10 * np.sin(y * 2.4))) - (0.13 + 0.05 * self.s.volume) * ramp(y, -0.5, 0.1)
            d = np.maximum(d, -0.5 - y)
            swirl = 0.8 + 0.2 * ramp(np.abs(x), 0.4, 0.6)
        alpha = c.alpha(d.astype(np.float32))
        c.paint(alpha, self._colour(swirl.astype(np.float32), alpha, 0.95), HAIR)

    def front(self) -> Array:
        """Signed distance to the hair in front of head and shoulders."""
        return np.maximum(np.maximum(self.hull, self.end), -self.opening)

    def shadow(self, c: Canvas) -> None:
        """Darkens the face where the front hair casts a shadow."""
        if self.a.hair_length in ("bald", "balding"):
            return
        skin = ((c.label >= 1) & (c.label <= 12)) | (c.label == 17)
        near = skin * ramp(self.opening, -0.10, 0.0) * ramp(self.hull, 0.02, -0.02) * ramp(self.end, 0.25, 0.0)
        c.rgb *= 1 - (0.42 * near)[..., None] * np.array([0.8, 0.95, 1.0], np.float32)

    def paint_front(self, c: Canvas) -> None:
        """Paints the hair over the forehead, the temples and, if long, the shoulders."""
        if self.a.hair_length == "bald":
            return
        d = self.front()
        depth = 0.70 + 0.30 * ramp(self.opening, 0.0, 0.10) - 0.14 * ramp(self.y, 0.3, 1.0)
        rim = 1 - 0.22 * ramp(self.hull, -0.06, 0.0)
        if abs(self.s.part) > 0.1 and self.a.hair_do == "loose":
            seam = self.cut.part * 0.95
            rim = rim * (1 - 0.4 * bump(self.x, self.y, seam, -0.72, 0.014, 0.16))
        alpha = c.alpha(d * np.float32(self.s.scale))
        c.paint(alpha, self._colour((depth * rim).astype(np.float32), alpha), HAIR)
