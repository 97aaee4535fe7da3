"""Paints the face: skin with relief and shading, beard, nose, lips, brows and eyes."""

from __future__ import annotations

import numpy as np

from mmface.data.portraits.attributes import Attributes, Shape
from mmface.data.portraits.canvas import Canvas, bump, curve, noise, ramp, segment
from mmface.data.portraits.features import (
    BROW_V,
    EYE_U,
    EYE_V,
    MOUTH_V,
    SKIN,
    beard_colour,
    label_nose,
    nose_u,
    paint_brow,
    paint_eye,
    paint_lips,
    paint_nostrils,
    skin_colour,
)
from mmface.data.portraits.head import Head
from mmface.data.portraits.palette import Array


def _relief(u: Array, v: Array, s: Shape) -> Array:
    """Height map of nose, brows, cheeks, lips and chin above the ellipsoid."""
    side, n = np.abs(u), s.nose_length
    ridge = curve(
        v,
        [
            (-0.3, 0.0),
            (-0.14, 0.012),
            (-0.02, 0.035),
            (0.2 * n, 0.125),
            (0.265 * n, 0.13),
            (0.325 * n, 0.02),
            (0.36, 0),
        ],
    )
    width = s.nose_width * curve(v, [(-0.1, 0.05), (0.1, 0.055), (0.25, 0.075), (0.34, 0.085)])
    h = ridge * np.exp(-((u / width) ** 2))
    h += 0.035 * bump(side, v, 0.085 * s.nose_width, 0.265 * n, 0.035, 0.04)
    h += 0.022 * np.exp(-(((v - BROW_V - 0.02) / 0.06) ** 2)) * ramp(side, 0.5, 0.1)
    h += -0.045 * bump(side, v, 0.15, EYE_V - 0.015, 0.10, 0.06) + 0.02 * bump(side, v, EYE_U, EYE_V, 0.075, 0.045)
    h += (0.035 + 0.025 * max(s.smile, 0)) * bump(side, v, 0.265, 0.19 - 0.03 * max(s.smile, 0), 0.12, 0.12)
    h += 0.035 * bump(u, v, 0, 0.67 * s.chin, 0.11, 0.08) + 0.028 * bump(u, v, 0, MOUTH_V, 0.13, 0.07)
    h += -0.018 * bump(u, v, 0, 0.555, 0.11, 0.035) - 0.008 * bump(u, v, 0, 0.37, 0.022, 0.04)
    return np.asarray(h, np.float32)


def _creases(u: Array, v: Array, s: Shape) -> Array:
    """Darkening by smile folds and wrinkles, 0..1."""
    side, smile = np.abs(u), max(s.smile, 0)
    fold = segment(side, v, (0.105, 0.27), (0.205 + 0.03 * smile, 0.44))
    d = (0.16 * smile + 0.22 * s.wrinkles) * np.exp(-((fold / 0.022) ** 2))
    bag = segment(side, v, (0.14, 0.035), (0.25, 0.04))
    d += (0.05 + 0.14 * s.wrinkles) * np.exp(-((bag / 0.018) ** 2))
    if s.wrinkles:
        lines = np.maximum(np.sin((v + 0.03 * np.cos(u * 7)) * 78), 0) ** 3
        d += 0.16 * s.wrinkles * lines * bump(u, v, 0, -0.34, 0.22, 0.08)
        feet = np.maximum(np.sin(np.arctan2(v - EYE_V, side - 0.27) * 9 + 0.5), 0) ** 2
        d += 0.15 * s.wrinkles * feet * bump(side, v, 0.37, EYE_V, 0.045, 0.06)
        d += 0.12 * s.wrinkles * np.exp(-((segment(side, v, (0.02, -0.2), (0.025, -0.12)) / 0.009) ** 2))
        d += 0.13 * s.wrinkles * np.exp(-((segment(side, v, (0.21, 0.47), (0.2, 0.6)) / 0.02) ** 2))
    return np.asarray(d, np.float32)


def _albedo(rng: np.random.Generator, u: Array, v: Array, a: Attributes, s: Shape) -> Array:
    base = skin_colour(a)
    rgb = np.empty((*u.shape, 3), np.float32)
    rgb[:] = base
    side = np.abs(u)
    red = s.blush * bump(side, v, 0.28, 0.2, 0.13, 0.11) + 0.5 * bump(u, v, 0, 0.25, 0.09, 0.07)
    red += 0.25 * noise(rng, u, v, 5, 5)
    rgb *= 1 + (0.16 * red)[..., None] * np.array([0.35, -0.55, -0.5], np.float32)
    rgb *= 1 + (0.022 * noise(rng, u, v, 55, 55) + 0.02 * noise(rng, u, v, 18, 18))[..., None]
    if s.freckles:
        spots = ramp(noise(rng, u, v, 62, 62), 0.3, 0.8) * ramp(bump(side, v, 0.17, 0.15, 0.19, 0.13), 0.1, 0.7)
        rgb *= 1 - (0.26 * spots)[..., None] * np.array([0.5, 0.8, 1.0], np.float32)
    return rgb


def _beard(rng: np.random.Generator, u: Array, v: Array, a: Attributes, s: Shape) -> Array:
    """Coverage by beard hair, 0..1."""
    side = np.abs(u)
    lips = np.hypot(u / (0.17 * s.mouth_width), (v - MOUTH_V) / (0.07 + s.mouth_open))
    bare = ramp(lips, 0.75, 1.15)
    lip_top = ramp(v, 0.315, 0.36) * ramp(v, 0.47, 0.43) * ramp(side, 0.235, 0.15)
    chin = ramp(v, 0.50, 0.545) * ramp(side, 0.24, 0.15)
    ring = ramp(np.hypot(u / 0.225, (v - 0.49) / 0.16), 1.1, 0.85) * ramp(v, 0.335, 0.38)
    edge = curve(side, [(0, 0.54), (0.16, 0.47), (0.25, 0.36), (0.36, 0.22), (0.43, -0.02)])
    full = np.maximum(ramp(v - edge, -0.02, 0.07) * ramp(v, -0.05, 0.15), lip_top)
    area = {"moustache": lip_top, "goatee": np.maximum(np.maximum(lip_top, chin), ring), "full": full, "stubble": full}
    grain = noise(rng, u, v, 46, 22)
    strength = 0.34 if a.beard == "stubble" else 0.93
    return np.clip(area[a.beard] * bare * (strength + (0.1 + 0.15 * (strength > 0.5)) * grain), 0, 1)


def _shade(c: Canvas, head: Head, x: Array, y: Array, relief: Array) -> tuple[Array, Array]:
    """Diffuse light [H, W, 3] and gloss [H, W] from the normals of the ellipsoid with its relief."""
    s = head.shape
    height = head.depth(x, y) + relief
    gy, gx = np.gradient(height, np.float32(c.step / s.scale))
    norm = 1 / np.sqrt(gx * gx + gy * gy + 1)
    light = np.array([s.light_x, s.light_y, 0.8], np.float32)
    light /= np.linalg.norm(light)
    facing = (-gx * light[0] - gy * light[1] + light[2]) * norm
    lambert = np.clip(0.22 + 0.78 * facing, 0, 1.1)
    # Light scatters in skin, red the farthest: the red channel falls off more slowly towards the shade.
    shade = np.stack([0.40 + 0.70 * lambert, 0.33 + 0.77 * lambert, 0.31 + 0.79 * lambert], -1)
    shade *= np.float32(s.light_power)
    half = light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    gloss = np.clip((-gx * half[0] - gy * half[1] + half[2]) * norm, 0, 1) ** 22
    return shade.astype(np.float32), gloss.astype(np.float32)


def paint_head(rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes) -> None:
    """Paints the skin of the head with all its features."""
    s = head.shape
    cx, cy = head.to_picture(0, 0)
    c = canvas.view(cx - 0.72, cx + 0.72, cy - 1.0, cy + 1.0)
    x, y = head.frame(c)
    u, v = head.face(c)
    outline = head.outline(x, y)
    alpha = c.alpha(outline * np.float32(s.scale))
    rgb = _albedo(rng, u, v, a, s)
    if a.beard != "none":
        cover = _beard(rng, u, v, a, s)
        strands = 1 + 0.3 * noise(rng, u, v, 60, 14)
        rgb += cover[..., None] * (beard_colour(a) * strands[..., None] - rgb)
    layer = Canvas(c.x, c.y, rgb, c.label, c.step)
    c.label[alpha >= 0.5] = SKIN
    un = nose_u(u, v, s)
    label_nose(layer, un, v, s)
    paint_lips(rng, head.around(layer, 0, MOUTH_V, 0.34, 0.26), head, a)
    for sign in (1, -1):
        paint_brow(rng, head.around(layer, sign * EYE_U, BROW_V, 0.24, 0.16), head, a, sign)
    shade, gloss = _shade(c, head, x, y, _relief(un, v, s))
    shade *= (1 - _creases(u, v, s))[..., None]
    shade *= (0.72 + 0.28 * ramp(outline, 0.0, -0.16))[..., None]
    shade *= (1 - 0.2 * bump(np.abs(u), v, 0.15, EYE_V - 0.03, 0.08, 0.05))[..., None]
    shade *= (1 - (0.15 if a.person == "woman" else 0.22) * bump(un, v, 0, 0.35 * s.nose_length, 0.11, 0.028))[
        ..., None
    ]
    rgb *= shade
    shine = 0.16 if a.skin in ("brown", "dark") else 0.11
    rgb += (shine * gloss)[..., None] * np.array([1.0, 0.97, 0.92], np.float32)
    paint_nostrils(head.around(layer, 0, 0.28, 0.3, 0.16), head)
    c.paint(alpha, np.clip(rgb, 0, 1))
    for sign in (1, -1):
        paint_eye(rng, canvas, head, a, sign)
