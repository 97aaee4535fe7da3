"""The ten default questions that a captioning model answers about each photograph (paper §3.1).

Seven ask for a natural description, each of a different aspect of the face; three ask for structured demographic cues.
"""

from __future__ import annotations

_STYLE = "Answer in plain English with the text alone, at most fifty words, and say only what can be seen."

PROMPTS: tuple[str, ...] = tuple(
    f"{question} {_STYLE}"
    for question in (
        "Describe this person in one natural sentence: apparent age, gender, hair and expression.",
        "Describe the hair of this person in one sentence: colour, length, texture and style.",
        "Describe this face in one sentence: shape, skin tone, eyes, eyebrows, nose and lips.",
        "Describe the expression of this person and where they look in one sentence.",
        "Describe in one sentence what this person wears on head, face, ears and neck, and any facial hair or make-up.",
        "Write one sentence from which a painter could paint this portrait without having seen it.",
        "Describe this portrait in one sentence: the person first, then the light, the framing and the background.",
        "Give gender, age group, skin tone, hair colour, hair length and eye colour as one line of short phrases.",
        "Give expression, head pose, facial hair, make-up and accessories as one line of short phrases.",
        "Give the five most distinctive visible features of this face as one line of short phrases, after the gender.",
    )
)
