"""Paints the features on the skin: eyes, brows, nose and mouth."""

from __future__ import annotations

import math

import numpy as np

from mmface.data.portraits.attributes import Attributes, Shape
from mmface.data.portraits.canvas import Canvas, bump, curve, noise, ramp, segment
from mmface.data.portraits.head import Head
from mmface.data.portraits.palette import EYE_COLOURS, HAIR_COLOURS, LIP_COLOURS, SKIN_COLOURS, Array, unit

SKIN, NOSE, L_EYE, R_EYE, L_BROW, R_BROW, MOUTH, U_LIP, L_LIP = 1, 2, 4, 5, 6, 7, 10, 11, 12
EYE_U, EYE_V, BROW_V, MOUTH_V = 0.205, -0.045, -0.195, 0.445


def skin_colour(a: Attributes) -> Array:
    """The albedo of this person's skin."""
    return unit(SKIN_COLOURS[a.skin])


def beard_colour(a: Attributes) -> Array:
    """The colour of the hair, darker; brown for a bald head."""
    return unit(HAIR_COLOURS.get(a.hair_colour, HAIR_COLOURS["brown"])) * np.float32(0.85)


def nose_u(u: Array, v: Array, s: Shape) -> Array:
    """``u`` corrected for the nose: it stands out, so its tip moves farther than its root when the head turns."""
    lift = math.sin(s.yaw) * 0.16 * ramp(v, -0.1, 0.28) * np.exp(-((u / 0.2) ** 2))
    return np.asarray(u - lift, np.float32)


def label_nose(c: Canvas, u: Array, v: Array, s: Shape) -> None:
    """Labels the nose."""
    n = s.nose_length
    width = s.nose_width * curve(
        v, [(-0.06, 0.045), (0.1, 0.06), (0.2 * n, 0.085), (0.265 * n, 0.125), (0.3 * n, 0.12), (0.335 * n, 0.05)]
    )
    inside = (np.abs(u) < width) & (v > -0.06) & (v < 0.335 * n) & (c.label == SKIN)
    c.label[inside] = NOSE


def paint_nostrils(c: Canvas, head: Head) -> None:
    """Paints the nostrils and the wings of the nose."""
    s = head.shape
    u, v = head.face(c)
    u = nose_u(u, v, s)
    side, n, w = np.abs(u), s.nose_length, s.nose_width
    hole = np.hypot((side - 0.052 * w) / 0.032, (v - 0.308 * n - 0.12 * (side - 0.05)) / 0.0155)
    dark = ramp(hole, 1.5, 0.5) * 0.68
    wing = np.exp(-(((np.hypot((side - 0.078 * w) / 1.0, (v - 0.272 * n) / 1.05) - 0.046) / 0.012) ** 2))
    dark = np.maximum(dark, 0.3 * wing * (side > 0.085 * w))
    c.rgb *= 1 - dark[..., None] * np.array([0.75, 0.95, 0.95], np.float32)


def paint_brow(rng: np.random.Generator, c: Canvas, head: Head, a: Attributes, sign: int) -> None:
    """Paints one eyebrow; ``sign`` 1 is the right side of the image, the person's left."""
    s = head.shape
    u, v = head.face(c)
    tone = np.minimum(beard_colour(a) * 0.8, skin_colour(a) * 0.72)
    thick = 0.021 if a.brows == "thin" else 0.034
    t = (u * sign - (EYE_U * s.eye_gap + 0.012)) / 0.145
    mid = BROW_V + s.brow_y - s.brow_arch * (1 - (t - 0.3) ** 2) - 0.02 * t + 0.045 * np.maximum(t - 0.3, 0)
    half = thick * np.clip(1.15 - 0.55 * t, 0.2, 1.25) * np.sqrt(np.clip(1 - t * t, 0, 1))
    d = np.maximum(np.abs(v - mid) - half + 0.006 * noise(rng, u, v, 70, 20), (np.abs(t) - 1) * 0.15)
    c.paint(c.alpha(d, 0.02) * np.clip(0.85 + 0.25 * noise(rng, u + v * 0.5, v, 60, 12), 0, 1), tone)
    c.label[(d < 0.004) & (c.label > 0)] = L_BROW if sign > 0 else R_BROW


def paint_lips(rng: np.random.Generator, c: Canvas, head: Head, a: Attributes) -> None:
    """Paints the lips and, in an open mouth, teeth and tongue."""
    s = head.shape
    u, v = head.face(c)
    w, gap = 0.172 * s.mouth_width, s.mouth_open
    t = np.clip(u / w, -1.2, 1.2)
    t2, taper = t * t, np.clip(1 - (u / w) ** 2, 0, 1)
    line = MOUTH_V - 0.045 * s.smile * (t2 - 0.45) + 0.006 * np.exp(-((t / 0.25) ** 2))
    part = gap * taper**0.75
    bow = 0.82 + 0.3 * np.exp(-(((np.abs(t) - 0.22) / 0.2) ** 2)) - 0.12 * np.exp(-((t / 0.09) ** 2))
    top = line - 0.25 * part - 0.047 * s.lip * bow * taper**0.8
    bottom = line + 0.75 * part + 0.062 * s.lip * taper**0.65
    upper_edge, lower_edge = line - 0.25 * part, line + 0.75 * part
    side = (np.abs(t) - 1) * w
    skin = skin_colour(a)
    natural = skin * np.array([0.84, 0.60, 0.58], np.float32) + np.array([0.06, 0.02, 0.03], np.float32)
    tone = natural if a.lipstick == "none" else 0.8 * unit(LIP_COLOURS[a.lipstick]) + 0.2 * natural
    ridges = 1 + 0.08 * noise(rng, u, v, 60, 6)
    up = np.maximum(np.maximum(top - v, v - upper_edge), side)
    low = np.maximum(np.maximum(lower_edge - v, v - bottom), side)
    c.paint(c.alpha(up, 0.008), tone * 0.84 * ridges[..., None], None)
    c.paint(c.alpha(low, 0.008), tone * 1.04 * ridges[..., None], None)
    seen = c.label > 0
    c.label[(up < 0) & seen] = U_LIP
    c.label[(low < 0) & seen] = L_LIP
    shine = bump(u, v, -0.03, MOUTH_V + 0.75 * gap + 0.028, 0.055, 0.012) * (0.12 + 0.14 * (a.lipstick != "none"))
    c.rgb += (shine * (low < 0))[..., None]
    if gap:
        _mouth_inside(c, u, v, s, np.maximum(np.maximum(upper_edge - v, v - lower_edge), side), line)
    seam = np.abs(v - line) if not gap else np.abs(v - upper_edge)
    dark = np.exp(-((seam / 0.011) ** 2)) * (side < 0.01) * (0.62 if not gap else 0.3)
    corner = 0.3 * bump(np.abs(t), v - line, 1.02, 0.0, 0.07, 0.018)
    c.rgb *= 1 - np.maximum(dark, corner)[..., None] * np.array([0.75, 1, 1], np.float32)


def _mouth_inside(c: Canvas, u: Array, v: Array, s: Shape, inside: Array, line: Array) -> None:
    dark = np.array([0.20, 0.05, 0.06], np.float32)
    c.paint(c.alpha(inside), dark)
    smiling = s.smile > 0.4
    teeth = (v - line) * (-1) + (0.62 if smiling else 0.2) * s.mouth_open
    gaps = 1 - 0.14 * np.exp(-((np.abs(np.mod(u + 0.02, 0.042) - 0.021) / 0.004) ** 2))
    white = np.array([0.93, 0.91, 0.86], np.float32) * (gaps * (1 - 0.55 * (u / 0.19) ** 2))[..., None]
    c.paint(c.alpha(inside) * c.alpha(-teeth, 0.006), white.astype(np.float32))
    if not smiling:
        tongue = np.hypot(u / 0.10, (v - MOUTH_V - 0.85 * s.mouth_open) / (0.4 * s.mouth_open))
        c.paint(c.alpha(inside) * ramp(tongue, 1.1, 0.7), np.array([0.62, 0.25, 0.26], np.float32))
    c.label[(inside < 0) & (c.label > 0)] = MOUTH


def paint_eye(rng: np.random.Generator, canvas: Canvas, head: Head, a: Attributes, sign: int) -> None:
    """Paints one eye with lids and lashes; ``sign`` as in :func:`paint_brow`."""
    s = head.shape
    u0 = sign * EYE_U * s.eye_gap
    c = head.around(canvas, u0, EYE_V, 0.2)
    u, v = head.face(c)
    w = 0.098 * s.eye_size
    ex = sign * (u - u0)  # outwards, away from the nose
    ey = v - EYE_V + np.float32(s.eye_slant) * ex
    t2 = np.clip(1 - (ex / w) ** 2, 0, 1)
    skew = 1 + 0.25 * ex / w
    opening = 0.046 * s.eye_open * s.eye_size
    top, bottom = -opening * t2**0.7 / skew**0.5, 0.6 * opening * t2**0.75 * skew**0.4
    inside = np.maximum(np.maximum(top - ey, ey - bottom), (np.abs(ex) - w))
    cover = c.alpha(inside, 0.004)
    _eyeball(c, cover, ex, ey, top, a, s, sign)
    c.label[(inside < 0.004) & (c.label > 0)] = L_EYE if sign > 0 else R_EYE
    lid = np.abs(ey - top) * (np.abs(ex) < w * 1.12)
    lash_width = (0.0135 if a.person == "woman" else 0.009) * (1 + 0.5 * ex / w)
    lash = np.exp(-((lid / np.maximum(lash_width, 0.003)) ** 2)) * ramp(np.abs(ex), 1.15 * w, 0.95 * w)
    if a.person == "woman":
        wing = np.exp(-((segment(ex, ey, (0.85 * w, -0.3 * opening), (1.22 * w, -0.95 * opening)) / 0.009) ** 2))
        lash = np.maximum(lash, 0.85 * wing)
    c.paint(np.clip(0.92 * lash, 0, 1), np.array([0.07, 0.05, 0.05], np.float32))
    under = np.exp(-(((ey - bottom) / 0.008) ** 2)) * (np.abs(ex) < w) * 0.4
    crease = np.exp(-(((ey - top + 0.034 * s.eye_size) / 0.009) ** 2)) * ramp(np.abs(ex), 1.1 * w, 0.5 * w) * 0.42
    shadow = 0.0 if a.lipstick == "none" else 0.28
    lidpaint = shadow * ((ey < top) & (ey > top - 0.04)) * ramp(np.abs(ex), 1.1 * w, 0.8 * w)
    c.rgb *= 1 - np.maximum(np.maximum(under, crease), lidpaint)[..., None] * np.array([0.7, 0.95, 0.9], np.float32)


def _eyeball(c: Canvas, cover: Array, ex: Array, ey: Array, top: Array, a: Attributes, s: Shape, sign: int) -> None:
    lit = 0.74 + 0.26 * ramp(ey - top, 0.0, 0.035) - 0.12 * ramp(np.abs(ex), 0.05, 0.1)
    c.paint(cover, np.array([0.95, 0.93, 0.92], np.float32) * lit[..., None])
    gx, gy = sign * s.gaze_x * 0.12, s.gaze_y * 0.08 - 0.006
    r = np.hypot(ex - gx, ey - gy)
    radius = 0.043 * s.eye_size
    iris = unit(EYE_COLOURS[a.eyes]) * (0.72 + 0.5 * ramp(ey, -0.03, 0.04))[..., None]
    iris *= (0.55 + 0.45 * ramp(r, radius, 0.75 * radius))[..., None]
    c.paint(cover * c.alpha(r - radius, 0.004), iris.astype(np.float32))
    c.paint(cover * c.alpha(r - 0.4 * radius, 0.004), np.array([0.03, 0.03, 0.04], np.float32))
    glint = np.hypot(ex - gx - sign * (0.016 if s.light_x > 0 else -0.016), ey - gy + 0.017)
    c.paint(cover * c.alpha(glint - 0.011, 0.006), np.array([1, 1, 1], np.float32))
