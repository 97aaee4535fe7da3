"""The LLM score with tiny models of the real classes, and its parser on recorded answers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmface.config import Recipe
from mmface.config.load import parse_recipe
from mmface.config.prompts import AGREE_REMINDER
from mmface.data.captions.rewrite import Qwen3
from mmface.evaluate.measuring.llm_score import SCORE_TOKENS, LLMScore, instruct, load_llm_score, parse, unavailable
from tests import talkers

SEEN = "An old man with short grey hair, a moustache and round glasses smiles."
PROMPTS = ["an old man with grey hair", "a young woman with {red} hair"]
PICTURES = [Image.new("RGB", (64, 64), colour) for colour in ("gray", "red")]


def recipe(**components: Any) -> Recipe:
    return parse_recipe({"components": components, "captioning": {"max_new_tokens": 60, "retries": 1}})


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("85", 85),
        (" 0\n", 0),
        ("100.", 100),
        ("<think>\n\n</think>\n\n70", 70),
        ("<think>They ask for 90 things.</think>40", 40),
        ("007", 7),
        ("", None),
        ("101", None),
        ("-5", None),
        ("8.5", None),
        ("85/100", None),
        ("85%", None),
        ("Score: 85", None),
        ("I would say 85.", None),
        ("eighty-five", None),
        ("85 90", None),
        ("<think>85", None),
        ("1e2", None),
        ("nan", None),
        ("٨٥", None),
    ],
)
def test_only_a_whole_number_in_range_is_a_score(answer: str, score: float | None) -> None:
    assert parse(answer) == score


def test_random_models_give_no_score(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = recipe(captioner=talkers.internvl(tmp_path / "i", {}), rewriter=talkers.qwen3(tmp_path / "q", {}))
    score = load_llm_score(named)
    assert score is not None
    with caplog.at_level(logging.WARNING):
        assert score(PICTURES, PROMPTS) == [None, None]
    assert "no score for 2 of 2 images after 2 tries" in caplog.text


class Scripted:
    """A model that gives one answer after the other and records what it was asked."""

    name = "scripted"

    def __init__(self, *rounds: list[str]) -> None:
        self.rounds = list(rounds)
        self.asked: list[list[Any]] = []

    def __call__(self, questions: Any) -> list[str]:
        self.asked.append(list(questions))
        return self.rounds.pop(0)


def test_a_model_scores_a_description(tmp_path: Path) -> None:
    """The rewriter is a Qwen3 that was taught one answer; it gives the number through the code of production."""
    model = talkers.qwen3(tmp_path, {instruct(PROMPTS[0], SEEN): "95"})
    rewriter = Qwen3(model, max_new_tokens=SCORE_TOKENS, batch_size=2)
    score = LLMScore(Scripted([SEEN, SEEN]), rewriter, retries=0, min_words=4)
    assert score(PICTURES, [PROMPTS[0]] * 2) == [95, 95]


def test_a_refused_answer_is_asked_for_again_with_a_reminder(caplog: pytest.LogCaptureFixture) -> None:
    captioner = Scripted([SEEN, "I'm sorry, I can't help with that."], ["I cannot."])
    rewriter = Scripted(["about 90"], ["90"])
    score = LLMScore(captioner, rewriter, retries=1, min_words=4)
    with caplog.at_level(logging.WARNING):
        assert score(PICTURES, PROMPTS) == [90, None]
    assert [question.row for question in captioner.asked[1]] == ["1"]
    first = instruct(PROMPTS[0], SEEN)
    assert rewriter.asked == [[first], [f"{first} {AGREE_REMINDER}"]]
    assert "1 without a usable description, 0 without a number" in caplog.text


@pytest.mark.parametrize("components", [{}, {"captioner": "some/model"}])
def test_without_both_models_it_is_unavailable(components: dict[str, str]) -> None:
    named = recipe(**components)
    assert "set components.captioner (InternVL) and components.rewriter" in unavailable(named)
    assert load_llm_score(named) is None
