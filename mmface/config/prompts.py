"""Texts that models are asked: ten default questions about each photograph (paper §3.1), and those of the LLM score.

Seven questions ask for a natural description, each of a different aspect of the face; three for demographic cues.
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

# The LLM score (`llm_score`): the captioner answers DESCRIBE about a picture, and the rewriter compares the answer
# with the prompt. Scores of other texts cannot be compared: a changed text needs a new name of the metric.
DESCRIBE = (
    "Describe this portrait for somebody who cannot see it: apparent age and gender, skin, hair, eyes, expression, "
    "facial hair, make-up, glasses, hat, jewellery, clothes and background. Answer in plain English with the text "
    "alone, at most eighty words, and say only what can be seen."
)
AGREE = (
    "A portrait was painted from this prompt:\n\n{prompt}\n\n"
    "Somebody who does not know the prompt describes the portrait:\n\n{description}\n\n"
    "How much of what the prompt asks for does the portrait show? What the prompt does not mention does not count. "
    "Answer with one whole number from 0 (nothing) to 100 (everything) and nothing else."
)
AGREE_REMINDER = "The answer must be one whole number from 0 to 100, without any other character."
