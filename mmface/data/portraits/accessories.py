"""Paints glasses, hats and earrings."""

from __future__ import annotations

import numpy as np

from mmface.data.portraits.attributes import Attributes
from mmface.data.portraits.canvas import Canvas, bump, curve, noise, ramp
from mmface.data.portraits.features import EYE_U
from mmface.data.portraits.head import Head
from mmface.data.portraits.palette import CLOTH_COLOURS, unit
from mmface.data.portraits.scene import ear_centre

GLASSES, EARRING, HAT = 3, 15, 14


def paint_glasses(rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes) -> None:
    """Paints frames with clear or dark lenses. The label covers the lens, except where an eye shows through it."""
    s = head.shape
    square, rim = rng.uniform(2.2, 4.5), rng.uniform(0.008, 0.017)
    rx, ry = rng.uniform(0.145, 0.165), rng.uniform(0.095, 0.13)
    frame = np.array([[0.06, 0.05, 0.06], [0.32, 0.18, 0.10], [0.62, 0.55, 0.42]], np.float32)[int(rng.integers(3))]
    c = head.around(canvas, 0, -0.02, 0.75, 0.4)
    u, v = head.face(c)
    x, y = head.frame(c)
    on_head = head.outline(x, y) < 0.03
    side, vv = np.abs(u), v - np.float32(-0.03)
    lens_u = (side - EYE_U * s.eye_gap - 0.004) / rx
    r = (np.abs(lens_u) ** square + np.abs(vv / ry) ** square) ** (1 / square)
    d = (r - 1) * np.float32(ry)
    bridge = np.maximum(np.abs(vv + 0.03 - 0.3 * u * u) - rim, side - 0.07)
    temple = np.maximum(np.abs(vv + 0.035 + 0.08 * (side - 0.35)) - rim, 0.34 - side)
    wire = np.minimum(np.abs(d) - np.float32(rim), np.minimum(bridge, temple)).astype(np.float32)
    dark = a.glasses == "sunglasses"
    c.rgb *= 1 - (0.18 * ramp(np.abs(d - 0.02), 0.04, 0.0) * on_head)[..., None]
    if dark:
        lens = np.array([0.10, 0.09, 0.10], np.float32) + (0.16 * ramp(vv, 0.12, -0.12) * np.ones_like(u))[..., None]
        c.paint(c.alpha(d) * 0.96, lens.astype(np.float32))
    else:
        c.paint(c.alpha(d) * 0.10, np.array([0.85, 0.92, 0.97], np.float32))
    streak = ramp(np.abs(lens_u + vv * 3 + 0.5), 0.28, 0.05) * c.alpha(d + 0.02)
    c.paint(streak * (0.22 if dark else 0.14), np.ones(3, np.float32))
    eyes = (c.label == 4) | (c.label == 5)
    c.label[(d < 0) & ((~eyes) | dark)] = GLASSES
    sheen = frame * (1 + 0.5 * noise(rng, u, v, 3, 3))[..., None]
    c.paint(c.alpha(wire, 0.004) * on_head, np.clip(sheen, 0, 1).astype(np.float32), GLASSES)


def paint_hat(rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes) -> None:
    """Paints a beanie, a cap with a peak, or a hat with a brim, and its shadow."""
    s = head.shape
    x, y = head.frame(canvas)
    x = (x - 0.1 * np.sin(s.yaw)).astype(np.float32)
    base = unit(CLOTH_COLOURS[a.hat_colour])
    light = 1 + 0.3 * s.light_x * x
    half = curve(
        y, [(-1.02, 0.0), (-1.0, 0.16), (-0.95, 0.29), (-0.86, 0.41), (-0.7, 0.52), (-0.5, 0.57), (-0.3, 0.575)]
    )
    dome = canvas.distance(np.abs(x) - half * (0.95 + 0.05 * s.width))
    line = -0.40 + 0.10 * (x / 0.55) ** 2 * (-1 if a.hat == "cap" else 1)
    d = np.maximum(dome, y - line)
    weave = 0.06 * noise(rng, x, y, 40, 40) + 0.10 * noise(rng, x, y, 4, 4)
    round_off = 0.55 + 0.45 * ramp(dome, 0.0, -0.16)
    tone = (0.92 + weave) * round_off * light
    canvas.rgb *= 1 - (0.35 * ramp(y - line, 0.14, 0.0) * (dome < 0.03) * (y > line))[..., None]
    if a.hat == "beanie":
        ribs = 0.88 + 0.12 * np.cos(np.arcsin(np.clip(x / np.maximum(half, 0.1), -1, 1)) * 44)
        fold = np.maximum(np.maximum(np.abs(x) - half - 0.02, y - line), line - 0.17 - y)
        tone = tone * ribs * (1 - 0.3 * np.exp(-(((y - line + 0.18) / 0.012) ** 2)))
        d = np.minimum(d, canvas.distance(fold))
    canvas.paint(canvas.alpha(d), np.clip(base * tone[..., None] + 0.01, 0, 1).astype(np.float32), HAT)
    if a.hat == "beanie":
        return
    if a.hat == "cap":
        v = (y + 0.37 - 0.10 * (x / 0.5) ** 2) / 0.115
        brim = np.sqrt((x / 0.56) ** 2 + v * v)
        band_y = -0.46
    else:
        v = (y + 0.42 - 0.05 * (x / 0.9) ** 2) / 0.105
        brim = np.sqrt((x / 0.90) ** 2 + v * v)
        band_y = -0.53
        ribbon = np.maximum(dome, np.abs(y - band_y) - 0.06)
        canvas.paint(canvas.alpha(ribbon), np.clip(base * 0.45 * light[..., None], 0, 1).astype(np.float32), HAT)
    shade = (0.72 + 0.35 * ramp(v, 0.6, -0.7) + weave) * light
    edge = canvas.distance((brim - 1).astype(np.float32))
    canvas.rgb *= 1 - (0.4 * ramp(edge, 0.14, 0.0) * (edge > 0) * (v > 0) * (np.abs(x) < 0.5))[..., None]
    canvas.paint(canvas.alpha(edge), np.clip(base * shade[..., None] + 0.01, 0, 1).astype(np.float32), HAT)


def paint_earrings(rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes) -> None:
    """Paints a pair of earrings at the ear lobes, over the hair."""
    gold = np.array([[0.88, 0.70, 0.32], [0.80, 0.82, 0.85], [0.25, 0.55, 0.75]], np.float32)[int(rng.integers(3))]
    size = rng.uniform(0.85, 1.2)
    for sign in (1, -1):
        if sign * head.shape.yaw > 0.16:  # hidden behind the cheek
            continue
        ex, ey = ear_centre(head, sign)
        cx, cy = head.to_picture(float(np.clip(abs(ex), 0.46, 0.53)) * sign, ey + 0.17)
        c = canvas.view(cx - 0.2, cx + 0.2, cy - 0.1, cy + 0.4)
        x, y = (c.x - cx).astype(np.float32), (c.y - cy).astype(np.float32)
        if a.earrings == "stud":
            d = np.hypot(x, y) - 0.034 * size
        elif a.earrings == "drop":
            bead = np.hypot(x / 0.8, (y - 0.17 * size) / 1.5) - 0.045 * size
            d = np.minimum(
                np.hypot(x, y) - 0.024, np.minimum(bead, np.maximum(np.abs(x) - 0.010, np.abs(y - 0.07) - 0.07))
            )
        else:
            d = np.abs(np.hypot(x / 0.8, y - 0.11 * size) - 0.11 * size) - 0.015
        tone = 0.75 + 0.45 * bump(x, np.mod(y, 0.17), -0.015, 0.03, 0.03, 0.05)
        c.paint(c.alpha(d.astype(np.float32)), np.clip(gold * tone[..., None], 0, 1).astype(np.float32), EARRING)
