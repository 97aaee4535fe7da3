"""The LLM score: a captioning model describes an image, and a language model scores how far it agrees with the prompt.

The texts are pinned in :mod:`mmface.config.prompts`, so that scores of the same two models can be compared.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from PIL import Image

from mmface.config import Recipe
from mmface.config.prompts import AGREE, AGREE_REMINDER, DESCRIBE
from mmface.data.captions.ask import Captioner, InternVL, Question, ask_until_accepted
from mmface.data.captions.rewrite import Qwen3, Rewriter

log = logging.getLogger(__name__)

SCORE_TOKENS = 16  # of an answer that is a number
_NUMBER = re.compile(r"([0-9]{1,3})\.?")


class LLMScore:
    """Scores images against their prompts, from 0 (nothing agrees) to 100.

    Args:
        captioner: describes an image.
        rewriter: answers with the score.
        retries: how often a refused answer of either is asked for again, with a reminder.
        min_words: the fewest words of a description.
    """

    def __init__(self, captioner: Captioner, rewriter: Rewriter, *, retries: int, min_words: int) -> None:
        self.captioner = captioner
        self.rewriter = rewriter
        self.retries = retries
        self.min_words = min_words

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
        """The score of each image; None, with a warning, where all answers of a model were refused."""
        questions = [Question(str(i), image, DESCRIBE) for i, image in enumerate(images)]
        tries = 1 + self.retries
        described = ask_until_accepted(questions, self.captioner, tries=tries, min_words=self.min_words).captions
        scores: list[float | None] = [None] * len(images)
        for attempt in range(tries):
            waiting = [i for i, text in enumerate(described) if text is not None and scores[i] is None]
            if not waiting:
                break
            answers = self.rewriter([instruct(prompts[i], str(described[i]), reminders=attempt) for i in waiting])
            for i, answer in zip(waiting, answers, strict=True):
                scores[i] = parse(answer)
        if missing := scores.count(None):
            undescribed = described.count(None)
            reasons = f"{undescribed} without a usable description, {missing - undescribed} without a number"
            log.warning(
                "llm_score: no score for %d of %d images after %d tries: %s", missing, len(images), tries, reasons
            )
        return scores


def instruct(prompt: str, description: str, *, reminders: int = 0) -> str:
    """The instruction to score an image, with one reminder for each earlier answer that was refused."""
    return " ".join([AGREE.format(prompt=prompt, description=description), *[AGREE_REMINDER] * reminders])


def parse(answer: str) -> float | None:
    """The score in an answer, a whole number from 0 to 100 alone; text up to ``</think>`` is skipped."""
    found = _NUMBER.fullmatch(answer.rpartition("</think>")[2].strip())
    return float(found[1]) if found is not None and int(found[1]) <= 100 else None


def unavailable(recipe: Recipe) -> str:
    """Why the recipe's pictures have no LLM score; empty if they have one."""
    if recipe.components.captioner != "facts" and recipe.components.rewriter is not None:
        return ""
    return "it needs two models: set components.captioner (InternVL) and components.rewriter (Qwen3)"


def load_llm_score(recipe: Recipe) -> LLMScore | None:
    """The recipe's captioner and rewriter, in this process; None if the recipe lacks one of them."""
    if unavailable(recipe):
        return None
    settings = recipe.captioning
    assert recipe.components.rewriter is not None
    return LLMScore(
        InternVL(recipe.components.captioner, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size),
        Qwen3(recipe.components.rewriter, max_new_tokens=SCORE_TOKENS, batch_size=settings.batch_size),
        retries=settings.retries,
        min_words=settings.min_words,
    )
