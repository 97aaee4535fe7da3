"""Geometry of a head: the tilted head frame, the turned face on its ellipsoid, and the outline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from mmface.data.portraits.attributes import Shape
from mmface.data.portraits.canvas import Canvas
from mmface.data.portraits.palette import Array

_A, _B, _C = 0.62, 0.98, 0.60  # half axes of the ellipsoid that carries the face
_PIVOT_Y = 0.12  # the centre of the tilt: the middle of the face
_CENTRE_Y = 0.05  # centre of the ellipsoid and of the polar outline


@dataclass(frozen=True)
class Head:
    """Maps between the image (X, Y), the head frame (x, y: without tilt) and the face (u, v: seen from the front)."""

    shape: Shape

    def _rotation(self) -> Array:
        sy, cy = math.sin(self.shape.yaw), math.cos(self.shape.yaw)
        sp, cp = math.sin(self.shape.pitch), math.cos(self.shape.pitch)
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        return np.asarray(turn @ nod, np.float32)

    @property
    def _origin(self) -> tuple[float, float]:
        # Photographs are aligned by eyes and mouth: the rest of a turned head shifts to the opposite side.
        s = self.shape
        return s.dx - 0.5 * s.scale * math.sin(s.yaw), s.dy - 0.4 * s.scale * math.sin(s.pitch)

    def frame(self, c: Canvas) -> tuple[Array, Array]:
        """Head-frame coordinates of the canvas pixels."""
        s, (ox, oy) = self.shape, self._origin
        cos, sin = math.cos(s.tilt) / s.scale, math.sin(s.tilt) / s.scale
        px, py = c.x - np.float32(ox), c.y - np.float32(oy + _PIVOT_Y)
        x = px * np.float32(cos) + py * np.float32(sin)
        y = py * np.float32(cos) - px * np.float32(sin) + np.float32(_PIVOT_Y)
        return x.astype(np.float32), y.astype(np.float32)

    def depth(self, x: Array, y: Array) -> Array:
        """Height of the ellipsoid towards the viewer at head-frame points."""
        inside = 1 - (x * np.float32(1 / _A)) ** 2 - ((y - np.float32(_CENTRE_Y)) * np.float32(1 / _B)) ** 2
        return np.float32(_C) * np.sqrt(np.maximum(inside, 0.02))

    def face(self, c: Canvas) -> tuple[Array, Array]:
        """Face coordinates of the canvas pixels."""
        x, y = self.frame(c)
        z, r = self.depth(x, y), self._rotation()
        yy = y - np.float32(_CENTRE_Y)
        u = r[0, 0] * x + r[1, 0] * yy + r[2, 0] * z
        v = r[0, 1] * x + r[1, 1] * yy + r[2, 1] * z + np.float32(_CENTRE_Y)
        return u.astype(np.float32), v.astype(np.float32)

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Image coordinates of a head-frame point."""
        s, (ox, oy) = self.shape, self._origin
        cos, sin, yy = math.cos(s.tilt), math.sin(s.tilt), y - _PIVOT_Y
        return ox + s.scale * (x * cos - yy * sin), oy + _PIVOT_Y + s.scale * (x * sin + yy * cos)

    def project(self, u: float, v: float) -> tuple[float, float]:
        """Image coordinates of a face point."""
        z = _C * math.sqrt(max(1 - (u / _A) ** 2 - ((v - _CENTRE_Y) / _B) ** 2, 0.02))
        x, y, _ = self._rotation() @ np.array([u, v - _CENTRE_Y, z], np.float32)
        return self.to_picture(float(x), float(y) + _CENTRE_Y)

    def around(self, c: Canvas, u: float, v: float, ru: float, rv: float | None = None) -> Canvas:
        """The view of ``c`` around a face point, ``ru`` to the left and right and ``rv`` up and down."""
        cx, cy = self.project(u, v)
        rv = ru if rv is None else rv
        return c.view(cx - ru, cx + ru, cy - rv, cy + rv)

    def _radii(self) -> tuple[Array, Array]:
        s = self.shape
        w, j, k = s.width, s.jaw, s.chin
        points = [
            (0.0, -0.80),
            (0.26 * w, -0.72),
            (0.43 * w, -0.50),
            (0.49 * w, -0.20),
            (0.485 * w, 0.08),
            (0.455 * w * (0.5 + 0.5 * j), 0.28),
            (0.375 * w * j, 0.50 * k),
            (0.265 * w * j, 0.66 * k),
            (0.13 * w * j, 0.755 * k),
            (0.0, 0.775 * k),
        ]
        xy = np.asarray(points)
        theta = np.arctan2(xy[:, 0], -(xy[:, 1] - _CENTRE_Y))
        fit = PchipInterpolator(theta, np.hypot(xy[:, 0], xy[:, 1] - _CENTRE_Y))
        grid = np.linspace(0, math.pi, 256)
        return grid.astype(np.float32), np.asarray(fit(grid), np.float32)

    def swing(self, y: Array) -> Array:
        """The sideways shift of the jaw of a turned head at height ``y``."""
        t = np.clip((y + 0.2) / 0.95, 0, 1)
        return np.asarray(math.sin(self.shape.yaw) * 0.31 * t * t * (3 - 2 * t), np.float32)

    def outline(self, x: Array, y: Array) -> Array:
        """Signed distance (head frame) to the skull and jaw, negative inside."""
        xs, yy = x - self.swing(y), y - np.float32(_CENTRE_Y)
        theta, radii = self._radii()
        at = np.interp(np.arctan2(np.abs(xs), -yy), theta, radii).astype(np.float32)
        return np.asarray((np.hypot(xs, yy) - at) * np.float32(0.95))
