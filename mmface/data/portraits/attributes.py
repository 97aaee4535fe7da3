"""Samples what a portrait shows: words for its captions and numbers for the painting, from one generator."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from mmface.data.portraits.palette import BACKGROUND_COLOURS, CLOTH_COLOURS, EYE_COLOURS, SKIN_COLOURS


@dataclass(frozen=True)
class Attributes:
    """The words that captions are written from; the portrait shows each of them."""

    person: str  # woman, man
    age: str  # young, middle-aged, old
    skin: str
    face_shape: str  # oval, round, square, long
    hair_colour: str  # a key of HAIR_COLOURS, or none for a bald head
    hair_length: str  # bald, balding, short, medium, long
    hair_texture: str  # straight, wavy, curly, none
    hair_do: str  # loose, bangs, ponytail, bun, none
    eyes: str
    brows: str  # thin, thick
    expression: str  # smiling, neutral, open
    beard: str  # none, stubble, full, goatee, moustache
    lipstick: str
    hat: str  # none, beanie, cap, brimmed
    hat_colour: str
    glasses: str  # none, clear, sunglasses
    earrings: str  # none, stud, drop, hoop
    necklace: str  # none, chain, pearls, pendant
    cloth: str  # t-shirt, v-neck, shirt, turtleneck, top
    cloth_colour: str
    background: str
    light: str  # left, right, front
    pose: str  # left, right, front: the direction of the nose in the image

    def words(self) -> dict[str, str]:
        """The row of ``attributes.csv``."""
        return {f.name: str(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class Shape:
    """The numbers that portraits are painted from. Lengths in half image widths, angles in radians."""

    yaw: float
    pitch: float
    tilt: float
    scale: float
    dx: float
    dy: float
    width: float  # of the face, 1 = average
    jaw: float
    chin: float
    eye_size: float
    eye_gap: float
    eye_slant: float
    eye_open: float
    gaze_x: float
    gaze_y: float
    brow_y: float
    brow_arch: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip: float
    mouth_open: float
    smile: float
    hairline: float
    volume: float
    part: float
    light_x: float
    light_y: float
    light_power: float
    warmth: float
    blush: float
    wrinkles: float
    freckles: float


def _pick(rng: np.random.Generator, **weights: float) -> str:
    names = list(weights)
    bounds = np.cumsum(list(weights.values()))
    return names[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))].replace("_", "-")


def _any(rng: np.random.Generator, names: dict[str, tuple[int, int, int]]) -> str:
    return list(names)[int(rng.integers(len(names)))]


def _hair(rng: np.random.Generator, person: str, age: str) -> tuple[str, str, str, str]:
    """Samples (colour, length, texture, hairdo)."""
    if person == "woman":
        length = _pick(rng, short=0.16, medium=0.3, long=0.54)
    elif age == "young":
        length = _pick(rng, bald=0.03, short=0.77, medium=0.12, long=0.08)
    else:
        length = _pick(rng, bald=0.06, balding=0.22, short=0.62, medium=0.06, long=0.04)
    texture = _pick(rng, straight=0.4, wavy=0.34, curly=0.26)
    if age == "old":
        colour = _pick(rng, grey=0.42, white=0.42, black=0.05, brown=0.06, blond=0.05)
    elif age == "middle-aged":
        colour = _pick(rng, grey=0.16, black=0.23, brown=0.23, blond=0.22, red=0.16)
    else:
        colour = _pick(rng, black=0.25, brown=0.25, blond=0.27, red=0.23)
    if length == "bald":
        return "none", length, "none", "none"
    if length == "balding":
        return colour, length, "straight", "none"
    loose = 0.62 if person == "woman" else 0.8
    tied = 0.2 if length == "long" and person == "woman" else 0.0
    return colour, length, texture, _pick(rng, loose=loose, bangs=0.24, ponytail=tied, bun=tied * 0.8)


def sample_attributes(rng: np.random.Generator) -> Attributes:
    """Samples words that are consistent with each other."""
    person = _pick(rng, woman=0.54, man=0.46)
    age = _pick(rng, young=0.5, middle_aged=0.28, old=0.22)
    woman = person == "woman"
    colour, length, texture, do = _hair(rng, person, age)
    hat = "none" if do == "bun" else _pick(rng, none=0.86, beanie=0.05, cap=0.04, brimmed=0.05)
    beard = "none" if woman else _pick(rng, none=0.5, stubble=0.13, full=0.18, goatee=0.1, moustache=0.09)
    if length == "bald":
        beard = "none" if beard == "none" else "stubble"
    light = _pick(rng, left=0.36, right=0.36, front=0.28)
    return Attributes(
        person=person,
        age=age,
        skin=_any(rng, SKIN_COLOURS),
        face_shape=_pick(rng, oval=0.4, round=0.2, square=0.2, long=0.2),
        hair_colour=colour,
        hair_length=length,
        hair_texture=texture,
        hair_do=do,
        eyes=_any(rng, EYE_COLOURS),
        brows=_pick(rng, thin=0.7, thick=0.3) if woman else _pick(rng, thin=0.25, thick=0.75),
        expression=_pick(rng, smiling=0.5, neutral=0.33, open=0.17),
        beard=beard,
        lipstick=_pick(rng, none=0.5, red=0.22, pink=0.18, plum=0.1) if woman else "none",
        hat=hat,
        hat_colour=_any(rng, CLOTH_COLOURS) if hat != "none" else "none",
        glasses=_pick(rng, none=0.82, clear=0.12, sunglasses=0.06),
        earrings=_pick(rng, none=0.48, stud=0.14, drop=0.2, hoop=0.18) if woman else _pick(rng, none=0.96, stud=0.04),
        necklace=_pick(rng, none=0.6, chain=0.14, pearls=0.13, pendant=0.13)
        if woman
        else _pick(rng, none=0.96, chain=0.04),
        cloth=_pick(rng, t_shirt=0.25, v_neck=0.25, shirt=0.15, turtleneck=0.08, top=0.27)
        if woman
        else _pick(rng, t_shirt=0.35, v_neck=0.2, shirt=0.35, turtleneck=0.1),
        cloth_colour=_any(rng, CLOTH_COLOURS),
        background=_any(rng, BACKGROUND_COLOURS),
        light=light,
        pose=_pick(rng, left=0.3, right=0.3, front=0.4),
    )


def sample_shape(rng: np.random.Generator, a: Attributes) -> Shape:
    """Samples numbers that fit the words."""
    turn = {"left": -1.0, "right": 1.0, "front": 0.0}
    grin = a.expression == "smiling" and rng.random() < 0.65
    # The order of the calls below decides which random number becomes what: keep it.
    yaw = turn[a.pose] * rng.uniform(0.15, 0.36) + _around(rng, 0, 0.03)
    light_x = turn[a.light] * rng.uniform(0.4, 0.75) + _around(rng, 0, 0.06)
    return Shape(
        yaw=yaw,
        light_x=light_x,
        **_placement(rng),
        **_face(rng, a),
        **_mouth(rng, a, grin),
        **_hair_shape(rng),
        **_look(rng, a),
    )


def _around(rng: np.random.Generator, mean: float, spread: float) -> float:
    return float(mean + spread * np.clip(rng.standard_normal(), -2, 2))


def _placement(rng: np.random.Generator) -> dict[str, float]:
    return {
        "pitch": _around(rng, 0, 0.06),
        "tilt": _around(rng, 0, 0.07),
        "scale": _around(rng, 0.99, 0.035),
        "dx": _around(rng, 0, 0.015),
        "dy": _around(rng, -0.01, 0.02),
    }


def _face(rng: np.random.Generator, a: Attributes) -> dict[str, float]:
    woman, smiling, surprised = a.person == "woman", a.expression == "smiling", a.expression == "open"
    width, jaw, chin = {
        "oval": (0.97, 0.95, 1.0),
        "round": (1.07, 1.06, 0.95),
        "square": (1.02, 1.14, 0.99),
        "long": (0.92, 0.97, 1.07),
    }[a.face_shape]
    return {
        "width": _around(rng, width, 0.02) * (0.98 if woman else 1.02),
        "jaw": _around(rng, jaw, 0.03) * (0.95 if woman else 1.06),
        "chin": _around(rng, chin, 0.02) * (0.985 if woman else 1.02),
        "eye_size": _around(rng, 1.24 if woman else 1.12, 0.06),
        "eye_gap": _around(rng, 1, 0.04),
        "eye_slant": _around(rng, 0.06, 0.06),
        "eye_open": _around(rng, 0.86 if smiling else 1.0, 0.1) * (1.22 if surprised else 1.0),
        "gaze_x": _around(rng, 0, 0.22),
        "gaze_y": _around(rng, 0, 0.08),
        "brow_y": _around(rng, -0.035 if surprised else 0, 0.014),
        "brow_arch": _around(rng, 0.03 if woman else 0.012, 0.012),
        "nose_length": _around(rng, 1, 0.06),
        "nose_width": _around(rng, 0.93 if woman else 1.08, 0.09),
    }


def _mouth(rng: np.random.Generator, a: Attributes, grin: bool) -> dict[str, float]:
    woman, smiling = a.person == "woman", a.expression == "smiling"
    opening = (0.045, 0.085) if grin else (0.06, 0.13) if a.expression == "open" else None
    return {
        "mouth_width": _around(rng, 1.16 if smiling else 0.94, 0.06),
        "lip": _around(rng, 1.12 if woman else 0.88, 0.14),
        "mouth_open": rng.uniform(*opening) if opening else 0.0,
        "smile": rng.uniform(0.6, 1.0) if smiling else rng.uniform(-0.22, 0.1),
    }


def _hair_shape(rng: np.random.Generator) -> dict[str, float]:
    return {
        "hairline": _around(rng, 0, 0.025),
        "volume": rng.uniform(0, 1),
        "part": float(rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 1.0)) if rng.random() < 0.7 else 0.0,
    }


def _look(rng: np.random.Generator, a: Attributes) -> dict[str, float]:
    """Light and skin."""
    return {
        "light_y": rng.uniform(-0.6, -0.25),
        "light_power": rng.uniform(0.9, 1.1),
        "warmth": _around(rng, 0.02, 0.03),
        "blush": rng.uniform(0.3, 1.0) if a.person == "woman" else rng.uniform(0.1, 0.6),
        "wrinkles": {"young": 0.0, "middle-aged": 0.4, "old": 1.0}[a.age] * rng.uniform(0.8, 1.1),
        "freckles": float(rng.random() < (0.5 if a.hair_colour == "red" else 0.08)),
    }
