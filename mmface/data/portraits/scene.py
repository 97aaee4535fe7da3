"""Paints what surrounds the face: background, neck, clothes, necklace, ears."""

from __future__ import annotations

import math

import numpy as np

from mmface.data.portraits.attributes import Attributes
from mmface.data.portraits.canvas import Canvas, bump, curve, noise, ramp
from mmface.data.portraits.features import skin_colour
from mmface.data.portraits.head import Head
from mmface.data.portraits.palette import BACKGROUND_COLOURS, CLOTH_COLOURS, Array, unit

L_EAR, R_EAR, NECKLACE, NECK, CLOTH = 8, 9, 16, 17, 18


def paint_background(rng: np.random.Generator, c: Canvas, a: Attributes) -> None:
    """Paints a blurred background in one dominant colour."""
    base = unit(BACKGROUND_COLOURS[a.background])
    kind = int(rng.integers(4))
    angle = rng.uniform(0, 2 * math.pi)
    slope = c.x * math.cos(angle) + c.y * math.sin(angle)
    tone = 1 + 0.22 * rng.uniform(0.3, 1) * slope + 0.10 * noise(rng, c.x, c.y, 1.1, 1.1)
    if kind == 1:  # a wall with blurred upright panels
        tone = tone + 0.16 * noise(rng, c.x + 0.1 * c.y, c.y, 2.6, 0.15)
    elif kind == 2:  # shelves, a horizon
        tone = tone + 0.18 * np.tanh(noise(rng, c.x, c.y, 0.12, 1.5) * 6) + 0.05 * noise(rng, c.x, c.y, 3, 3)
    tint = (0.05 * noise(rng, c.x, c.y, 0.9, 0.9))[..., None] * np.array([1.0, 0.1, -1.0], np.float32)
    c.rgb[:] = base * tone[..., None] + tint
    if kind == 3:
        for _ in range(int(rng.integers(5, 11))):  # lights out of focus
            bx, by, br = rng.uniform(-1, 1), rng.uniform(-1, 0.6), rng.uniform(0.07, 0.2)
            v = c.view(bx - br - 0.05, bx + br + 0.05, by - br - 0.05, by + br + 0.05)
            disc = v.alpha(np.hypot(v.x - bx, v.y - by) - np.float32(br), 0.035)
            glow = np.clip(base * rng.uniform(1.1, 1.5) + rng.uniform(0.02, 0.14), 0, 1).astype(np.float32)
            v.paint(disc * np.float32(rng.uniform(0.25, 0.6)), glow)
    np.clip(c.rgb, 0, 1, out=c.rgb)


def paint_body(rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes) -> None:
    """Paints neck, shoulders, clothes and necklace."""
    s = head.shape
    jx, jy = head.to_picture(float(head.swing(np.array(0.6))) * 0.8, 0.5)
    c = canvas.view(-1, 1, jy - 0.35, 1)
    y0 = jy + 0.31 * s.scale  # where the neck meets the shoulders
    drift = (jx * 0.7) + (jx * 0.3) * ramp(c.y, y0, jy)
    x = (c.x - drift).astype(np.float32)
    woman = a.person == "woman"
    neck = (0.265 if woman else 0.335) * s.width
    half = curve(c.y, [(jy - 0.3, neck), (y0 - 0.04, neck * 0.98), (y0 + 0.03, neck * 1.15)])
    wide = 0.9 if woman else 1.05
    slope = curve(c.y, [(y0 - 0.02, neck), (y0 + 0.04, neck * 1.5), (y0 + 0.12, wide * 0.85), (y0 + 0.24, wide * 1.5)])
    body = np.minimum(c.distance(np.abs(x) - half), c.distance(np.abs(x) - slope))
    round_neck = np.sqrt(np.clip(1 - (x / neck) ** 2 * 0.55, 0.05, 1))
    rgb = skin_colour(a) * (0.93 * round_neck * (0.96 + 0.03 * noise(rng, c.x, c.y, 4, 4)))[..., None]
    under = ramp(c.y, y0 + 0.10, jy + 0.10) * 0.5
    rgb = rgb * (1 - under[..., None] * np.array([0.8, 1.0, 1.0], np.float32))
    rgb *= (1 + 0.30 * s.light_x * np.clip(x / neck, -1.3, 1.3))[..., None]
    cords = 0.10 * bump(np.abs(np.abs(x) - 0.12 - 0.25 * (y0 - c.y)), c.y, 0, y0, 0.02, 0.15)
    rgb *= (1 - cords)[..., None]
    c.paint(c.alpha(body), np.clip(rgb, 0, 1).astype(np.float32), NECK)
    if a.cloth != "turtleneck":
        _necklace(c, x, y0, neck, a)
    _cloth(rng, c, x, y0, neck, body, a, s.light_x)
    if a.cloth == "turtleneck":
        _necklace(c, x, y0 + 0.02, neck * 1.15, a)


def _necklace(c: Canvas, x: Array, y0: float, neck: float, a: Attributes) -> None:
    if a.necklace == "none":
        return
    t = x / (neck * 1.08)
    line = y0 - 0.03 + 0.125 * np.sqrt(np.clip(1 - t * t, 0, 1))
    d = c.distance(c.y - line)
    on = np.abs(t) < 1
    gold, pearl = np.array([0.86, 0.68, 0.30], np.float32), np.array([0.95, 0.93, 0.89], np.float32)
    if a.necklace == "pearls":
        bead = np.mod(np.arcsin(np.clip(t, -1, 1)) / 0.19, 1) - 0.5
        r = np.hypot(bead * 0.05, d)
        c.paint(c.alpha(np.abs(d) - 0.022) * on, pearl * (0.62 + 0.38 * ramp(r, 0.03, 0.005))[..., None], NECKLACE)
        return
    glint = 0.75 + 0.35 * np.cos(x * 150)
    c.paint(c.alpha(np.abs(d) - 0.012) * on, gold * glint[..., None], NECKLACE)
    if a.necklace == "pendant":
        r = np.hypot(x, (c.y - y0 - 0.135) * 0.8)
        c.paint(c.alpha(r - 0.042), gold * (0.6 + 0.55 * ramp(r + 0.4 * x, 0.04, 0.0))[..., None], NECKLACE)


def _cloth(
    rng: np.random.Generator, c: Canvas, x: Array, y0: float, neck: float, body: Array, a: Attributes, light_x: float
) -> None:
    side = np.abs(x)
    depth = {"t-shirt": 0.10, "v-neck": 0.34, "shirt": 0.22, "turtleneck": -0.13, "top": 0.22}[a.cloth]
    if a.cloth in ("v-neck", "shirt"):
        line = y0 - 0.02 + depth * np.clip(1 - side / (neck * 1.12), 0, 1)
    elif a.cloth == "turtleneck":
        line = np.full_like(x, y0 + depth) + 0.03 * np.clip(1 - (x / neck) ** 2, 0, 1)
    else:
        width = neck * (1.9 if a.cloth == "top" else 1.25)
        line = y0 - 0.03 + depth * np.sqrt(np.clip(1 - (x / width) ** 2, 0, 1))
    d = np.maximum(body - 0.025, c.distance(line - c.y))
    base = unit(CLOTH_COLOURS[a.cloth_colour])
    folds = noise(rng, x * 1.0 + 0.4 * c.y, c.y - 0.6 * side, 2.5, 5.0)
    tone = 0.86 + 0.16 * folds + 0.03 * noise(rng, x, c.y, 50, 50) + 0.2 * light_x * x - 0.25 * ramp(side, 0.6, 1.1)
    if rng.random() < 0.22:
        tone = tone * (0.86 + 0.14 * np.tanh(4 * np.sin((c.y + 0.15 * side) * 46)))
    tone = tone * (1 - 0.3 * np.exp(-(((c.y - line) / 0.02) ** 2)))
    c.paint(c.alpha(d), np.clip(base * tone[..., None] + 0.02, 0, 1).astype(np.float32), CLOTH)
    if a.cloth == "shirt":
        along = (c.y - y0 + 0.06) / 0.30
        flap = np.abs(side - neck * (1.1 - 0.75 * along)) - 0.10 * (0.55 + 0.5 * along)
        collar = np.maximum(flap, np.abs(along - 0.42) - 0.44 - 0.8 * (side - neck * 0.5))
        shade = 0.95 - 0.35 * ramp(collar, -0.02, 0.0)
        c.paint(c.alpha(c.distance(collar)), np.clip(base * shade[..., None] + 0.04, 0, 1).astype(np.float32), CLOTH)


def ear_centre(head: Head, sign: int) -> tuple[float, float]:
    """The centre of an ear in the head frame; the far ear of a turned head moves behind the cheek."""
    s = head.shape
    return sign * 0.505 * s.width * (1 - 0.10 * abs(s.yaw)) - 0.17 * math.sin(s.yaw), 0.08 + 0.1 * math.sin(s.pitch)


def paint_ears(rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes) -> None:
    """Paints both ears, behind the head."""
    s = head.shape
    for sign, label in ((1, L_EAR), (-1, R_EAR)):
        ex, ey = ear_centre(head, sign)
        cx, cy = head.to_picture(ex, ey)
        c = canvas.view(cx - 0.2, cx + 0.2, cy - 0.28, cy + 0.28)
        x, y = head.frame(c)
        ex = float(np.clip(abs(ex), 0.42, 0.53)) * sign
        u, v = (x - ex) * sign, y - ey
        lean = u - 0.22 * v * -1
        r = np.hypot(lean / 0.082, v / 0.165) + 0.18 * ramp(v, 0.0, 0.2) * (u > 0)
        d = (r - 1) * 0.085
        inner = np.exp(-(((r - 0.72) / 0.12) ** 2)) * 0.22 + 0.35 * bump(lean, v, -0.01, 0.01, 0.035, 0.07)
        rgb = skin_colour(a) * np.array([1.0, 0.93, 0.92], np.float32) * (0.86 - inner)[..., None]
        rgb *= 1 + 0.32 * s.light_x * sign
        c.paint(c.alpha(d * np.float32(s.scale)), np.clip(rgb, 0, 1).astype(np.float32), label)
