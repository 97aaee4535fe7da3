"""What the pixels under a label mask show of a face, each in one word; None where the pixels do not show it clearly.

Thresholds were chosen on drawn portraits, whose attributes are known: between two words is a gap in which nothing is
said. Lengths are relative to the distance of the eyes, colours are CIELAB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmface.data.colour import to_lab
from mmface.data.portraits.palette import BACKGROUND_COLOURS, CLOTH_COLOURS
from mmface.imaging.labels import LABELS

Bools = NDArray[np.bool_]
Colour = NDArray[np.float64]

SEEN = 0.002  # a label with a larger share of the photograph counts as present
FEW = 24  # pixels: too few to measure a colour
COLOUR_GAP = 6.0  # how much nearer the first colour word must be than the second
# The individual typology angle (Chardon et al. 1991) of skin in light: arctan((L - 50) / b) in degrees.
SKIN_ANGLES = {"pale": (60, 90), "fair": (42, 53), "tan": (16, 39), "brown": (-18, 12), "dark": (-90, -24)}


class Face:
    """A photograph with its mask, and what several measures share.

    Args:
        pixels: [H, W, 3] sRGB.
        mask: [H, W] label indices.
    """

    def __init__(self, pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        self.mask = mask
        self.lab: Colour = to_lab(pixels / 255)

    def where(self, *names: str) -> Bools:
        """Pixels with one of these labels, [H, W]."""
        return np.isin(self.mask, [LABELS.index(name) for name in names])

    def share(self, name: str) -> float:
        """Share of the photograph that has a label."""
        return float(self.where(name).mean())

    def colour(self, where: Bools) -> Colour | None:
        """Median CIELAB colour of some pixels; None if they are too few."""
        return np.median(self.lab[where], axis=0) if where.sum() >= FEW else None

    @cached_property
    def eye_distance(self) -> float | None:
        """Horizontal distance of eyes or brows in pixels; None without both."""
        for left, right in (("l_eye", "r_eye"), ("l_brow", "r_brow")):
            places = [np.nonzero(self.where(name))[1] for name in (left, right)]
            if all(place.size for place in places):
                return float(max(1.0, abs(places[0].mean() - places[1].mean())))
        return None

    @cached_property
    def turn(self) -> float | None:
        """Where the nose is between the borders of the face at its height: -1 left border, 0 middle, 1 right border."""
        rows, columns = np.nonzero(self.where("nose"))
        if not rows.size:
            return None
        face = np.flatnonzero(self.where("skin", "nose")[int(rows.mean())])
        left, right = columns.mean() - face.min(), face.max() - columns.mean()
        return float((left - right) / (left + right + 1))


def skin_tone(face: Face) -> str | None:
    """``pale``, ``fair``, ``tan``, ``brown`` or ``dark``, by the typology angle of the lighter half of the skin."""
    skin = face.lab[face.where("skin")]
    if len(skin) < FEW:
        return None
    angle = math.degrees(math.atan2(np.percentile(skin[:, 0], 75) - 50, max(1.0, float(np.median(skin[:, 2])))))
    return next((word for word, (low, high) in SKIN_ANGLES.items() if low <= angle <= high), None)


def eye_colour(face: Face) -> str | None:
    """``brown``, ``blue``, ``green`` or ``grey``, by the middle tones of both irises."""
    irises = [face.lab[iris(face, name)] for name in ("l_eye", "r_eye")]
    if min(map(len, irises)) < FEW // 2:
        return None
    tones = [one[one[:, 0].argsort()][int(0.25 * len(one)) : int(0.8 * len(one))] for one in irises]
    lightness, a, b = np.median(np.concatenate(tones), axis=0)
    if a > 3 and b > 6:
        return "brown"
    if b < -5 and lightness > 32:
        return "blue"
    if a < -4 and b > 6:
        return "green"
    return "grey" if abs(a) < 2.5 and abs(b) < 3 and lightness > 38 else None


def iris(face: Face, name: str) -> Bools:
    """Pixels of an eye around its dark middle, as wide as the eye is high: [H, W]."""
    where = face.where(name)
    place = dark_middle(face, where)
    if place is None:
        return np.zeros_like(where)
    height = np.ptp(np.nonzero(where)[0]) + 1
    near: Bools = np.abs(np.arange(where.shape[1])[None] - place) <= height / 2
    return where & near


def dark_middle(face: Face, where: Bools) -> float | None:
    """Mean column of the darker pixels of an eye, weighted by how dark they are."""
    rows, columns = np.nonzero(where)
    if rows.size < FEW:
        return None
    lightness = face.lab[rows, columns, 0]
    weight = np.clip(np.percentile(lightness, 60) - lightness, 0, None)
    return float((weight * columns).sum() / max(float(weight.sum()), 1e-6))


def lip_colour(face: Face) -> str | None:
    """``red``, ``pink`` or ``plum`` lips, by their difference from the skin."""
    lips, skin = face.colour(face.where("u_lip", "l_lip")), face.colour(face.where("skin"))
    if lips is None or skin is None:
        return None
    _, a, b = lips - skin
    if a > 22 and b > 0:
        return "red"
    if a > 20 and b < -1.5:
        return "pink"
    return "plum" if 12 < a < 16 and b < -8 else None


def brows(face: Face) -> str | None:
    """``thick`` or ``thin`` eyebrows, by their area over their width."""
    found = [np.nonzero(face.where(name))[1] for name in ("l_brow", "r_brow")]
    heights = [columns.size / (columns.max() - columns.min() + 1) for columns in found if columns.size]
    if not heights or face.eye_distance is None:
        return None
    height = float(np.mean(heights)) / face.eye_distance
    return "thick" if height > 0.145 else "thin" if height < 0.1 else None


def beard(face: Face) -> str | None:
    """``a full beard``, ``a goatee`` or ``a moustache``: skin around the mouth that is much darker than the cheeks."""
    mouth, nose, skin = face.where("u_lip", "l_lip", "mouth"), face.where("nose"), face.where("skin")
    if not mouth.any() or not nose.any():
        return None
    rows, columns = np.nonzero(mouth)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    nose_rows = np.nonzero(nose)[0]
    y, x = np.indices(face.mask.shape)
    beside = (x < left) | (x > right)
    cheeks = face.colour(skin & (y >= int(nose_rows.mean())) & (y < top) & beside)
    if cheeks is None:
        return None

    def darker(where: Bools) -> float:
        found = face.colour(skin & where)
        return 0.0 if found is None else float(cheeks[0] - found[0])

    chin, sides = darker(y > bottom), darker((y >= top) & (y <= bottom) & beside)
    lip = darker((y > nose_rows.max()) & (y < top) & ~beside)
    if chin > 18 and sides > 16:
        return "a full beard"
    if chin > 22 and sides < 9:
        return "a goatee"
    return "a moustache" if lip > 12 and chin < 12 else None


def expression(face: Face) -> str | None:
    """``smiling``, ``open`` (the mouth) or ``neutral``, by the corners of the mouth and what is between the lips."""
    rows, columns = np.nonzero(face.where("u_lip", "l_lip", "mouth"))
    if rows.size < FEW or face.eye_distance is None:
        return None
    left, right = columns.min(), columns.max()
    heights = np.array([rows[columns == x].mean() for x in range(left, right + 1) if (columns == x).any()])
    third, sixth = max(1, len(heights) // 3), max(1, len(heights) // 6)
    corners = np.concatenate([heights[:sixth], heights[-sixth:]]).mean()
    lift = float(heights[third:-third].mean() - corners) / face.eye_distance if len(heights) > 2 * third else 0.0
    width = (right - left + 1) / face.eye_distance
    if lift > 0.055 and width > 0.85:
        return "smiling"
    if face.share("mouth") > SEEN:
        return "open"
    return "neutral" if lift < 0.035 and not face.where("mouth").any() else None


def pose(face: Face) -> str | None:
    """``left`` or ``right``, the direction of the nose in the photograph, or ``front``."""
    if face.turn is None:
        return None
    if abs(face.turn) < 0.08:
        return "front"
    return ("left" if face.turn < 0 else "right") if abs(face.turn) > 0.13 else None


def gaze(face: Face) -> str | None:
    """``left`` or ``right`` if the dark parts of both eyes are clearly beside their middle."""
    found = []
    for name in ("l_eye", "r_eye"):
        where = face.where(name)
        dark, columns = dark_middle(face, where), np.nonzero(where)[1]
        if dark is None:
            return None
        found.append((dark - (columns.min() + columns.max()) / 2) / (np.ptp(columns) + 1))
    if min(found) > 0.08:
        return "right"
    return "left" if max(found) < -0.08 else None


def light(face: Face) -> str | None:
    """``left`` or ``right``, the brighter half of the face in the photograph, or ``front``."""
    nose = np.nonzero(face.where("nose"))[1]
    if not nose.size or face.turn is None:
        return None
    skin, x = face.where("skin"), np.arange(face.mask.shape[1])[None]
    left, right = face.colour(skin & (x < nose.mean())), face.colour(skin & (x >= nose.mean()))
    if left is None or right is None:
        return None
    # A face that is turned shows one half at a flat angle, which is darker by itself.
    difference = float(left[0] - right[0]) - 27.6 * face.turn
    if abs(difference) < 4.5:
        return "front"
    return ("left" if difference > 0 else "right") if abs(difference) > 7.5 else None


def glasses(face: Face) -> str | None:
    """``glasses``, or ``sunglasses`` if no eye is visible behind dark lenses."""
    if face.share("eye_g") <= SEEN / 4:
        return None
    lenses = face.colour(face.where("eye_g"))
    hidden = face.where("l_eye", "r_eye").mean() < SEEN / 4
    return "sunglasses" if hidden and lenses is not None and lenses[0] < 40 else "glasses"


def fringe(face: Face) -> bool:
    """Whether hair hangs over the forehead, almost down to the brows."""
    brow_rows, brow_columns = np.nonzero(face.where("l_brow", "r_brow"))
    if not brow_rows.size or face.eye_distance is None:
        return False
    hair = face.where("hair")[: brow_rows.min(), brow_columns.min() : brow_columns.max() + 1]
    gaps = [len(column) - np.flatnonzero(column).max() for column in hair.T if column.any()]
    return len(gaps) > 0.6 * hair.shape[1] and float(np.mean(gaps)) < 0.34 * face.eye_distance


def background(face: Face) -> str | None:
    """The colour of a plain background."""
    return _plain(face, "background", BACKGROUND_COLOURS)


def clothing(face: Face) -> str | None:
    """The colour of plain clothes."""
    return _plain(face, "cloth", CLOTH_COLOURS)


def _plain(face: Face, label: str, words: Mapping[str, tuple[int, int, int]]) -> str | None:
    """The word for the colour of a label that has one colour, covers enough and is clearly nearer to one word."""
    where = face.where(label)
    colour = face.colour(where)
    if colour is None or where.mean() < 0.02:
        return None
    if np.median(np.linalg.norm(face.lab[where] - colour, axis=1)) > 15:
        return None
    references = to_lab(np.array(list(words.values())) / 255)
    distances = np.linalg.norm(references - colour, axis=1)
    first, second = np.sort(distances)[:2]
    return list(words)[int(distances.argmin())] if second - first >= COLOUR_GAP and first < 30 else None
