"""Writes ten true captions from the attributes: natural sentences and lists of cues."""

from __future__ import annotations

import numpy as np

from mmface.data.portraits.attributes import Attributes

N_CAPTIONS = 10


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def hair_phrase(a: Attributes) -> str:
    """A phrase for the hair, with its colour."""
    if a.hair_length == "bald":
        return "a bald head"
    if a.hair_length == "balding":
        return f"receding {a.hair_colour} hair"
    do = {"bangs": " with bangs", "ponytail": " in a ponytail", "bun": " in a bun"}.get(a.hair_do, "")
    do = "" if a.hat != "none" and a.hair_do == "bangs" else do
    length = "" if a.hair_do in ("ponytail", "bun") else f"{a.hair_length} "
    return f"{length}{a.hair_texture} {a.hair_colour} hair{do}"


def worn(a: Attributes) -> list[str]:
    """Phrases for clothes and accessories, most conspicuous first."""
    things = []
    if a.hat != "none":
        kind = {"brimmed": "brimmed hat"}.get(a.hat, a.hat)
        things.append(_article(f"{a.hat_colour} {kind}"))
    if a.glasses != "none":
        things.append("sunglasses" if a.glasses == "sunglasses" else "glasses")
    if a.earrings != "none":
        things.append({"stud": "stud earrings", "drop": "drop earrings", "hoop": "hoop earrings"}[a.earrings])
    if a.necklace != "none":
        things.append({"chain": "a gold chain", "pearls": "a pearl necklace", "pendant": "a pendant"}[a.necklace])
    if a.cloth != "none":
        things.append(_article(f"{a.cloth_colour} {a.cloth}"))
    return things


def beard_phrase(a: Attributes) -> str:
    """A phrase for the beard, or an empty string."""
    return {"none": "", "full": "a full beard", "moustache": "a moustache", "goatee": "a goatee", "stubble": "stubble"}[
        a.beard
    ]


def captions(a: Attributes, rng: np.random.Generator) -> tuple[str, ...]:
    """Ten captions of at most 28 words in random order."""
    hair, wear, beard = hair_phrase(a), worn(a), beard_phrase(a)
    woman = a.person == "woman"
    pronoun, noun, possessive = ("She", "lady", "her") if woman else ("He", "gentleman", "his")
    mood = {"smiling": "smiling", "neutral": "with a neutral expression", "open": "with an open mouth"}[a.expression]
    eyes = "" if a.glasses == "sunglasses" else f"{a.eyes} eyes"
    looks = {"left": "turned to the left", "right": "turned to the right", "front": "facing the camera"}[a.pose]
    lips = f"{a.lipstick} lipstick" if a.lipstick != "none" else ""
    traits = [t for t in (eyes, beard, lips, f"{a.skin} skin", f"{a.brows} eyebrows") if t]
    rng.shuffle(traits)
    some = wear[: 1 + int(rng.integers(2))]
    one = wear[int(rng.integers(len(wear)))] if wear else "nothing special"
    cue_hair = _cue(a)
    who = _article(f"{a.age} {a.person}")
    lit = {"left": "light from the left", "right": "light from the right", "front": "even light"}[a.light]
    texts = [
        f"{who} with {hair}, {mood}.",
        f"A portrait of {who} who has {hair} and {traits[0]}.",
        f"{pronoun} has {hair}, {traits[0]} and {traits[1]}.",
        f"{_article(a.person)} with {hair} wearing {' and '.join(some) if some else 'plain clothes'}.",
        f"age: {a.age}; hair: {cue_hair}; expression: {a.expression}",
        f"{a.person}; hair: {cue_hair}; {traits[0]}; wearing: {one}; background: {a.background}",
        f"{hair}, {traits[0]}, {mood}",
        f"A photo of {_article(a.person)} with {hair}, {looks}, in front of {_article(a.background)} background.",
        f"{_article(a.face_shape)} face with {traits[0]} and {hair}, {lit}.",
        f"The {noun} wears {one}, {mood}; {possessive} hair is {cue_hair}.",
    ]
    order = rng.permutation(N_CAPTIONS)
    return tuple(texts[i][0].upper() + texts[i][1:] if texts[i].endswith(".") else texts[i] for i in order)


def _cue(a: Attributes) -> str:
    """The hair as words without grammar, for lists of cues."""
    if a.hair_length == "bald":
        return "bald"
    if a.hair_length == "balding":
        return f"receding {a.hair_colour}"
    return f"{a.hair_length} {a.hair_texture} {a.hair_colour}"
