"""Tiny models of the real InternVL and Qwen3 classes, loaded as in production, and the captions stage with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import load_recipe, parse_recipe
from mmface.data.captions import Captions
from mmface.data.captions.ask import InternVL, Question
from mmface.data.captions.rewrite import Qwen3, instruct
from mmface.data.portraits import draw
from mmface.datasets.records import CAPTIONS
from mmface.errors import InputError, RecipeError
from mmface.imaging.labels import mask_to_png
from mmface.networks.components import component_identity, load_captioner
from mmface.store.tables import to_parquet
from tests import talkers

SAID = {
    "Describe this person in one sentence.": "A young woman with long wavy blond hair smiles at the camera.",
    "Describe the hair of this person.": "Her hair is blond, long and wavy with a side parting.",
    "Give the cues as one line.": "young woman, fair skin, blond hair, silver earrings",
}
REWRITTEN = [
    "A young woman with long wavy blond hair smiles at the camera and wears a golden crown.",
    "Her hair is blond, long and wavy.",
    "young woman, fair skin, blond hair",
]
PICTURE = Image.new("RGB", (64, 64), "red")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> str:
    return talkers.internvl(tmp_path_factory.mktemp("internvl"), SAID)


@pytest.fixture(scope="module")
def rewriter(tmp_path_factory: pytest.TempPathFactory) -> str:
    return talkers.qwen3(tmp_path_factory.mktemp("qwen3"), {instruct(list(SAID.values())): json.dumps(REWRITTEN)})


def recipe(captioner: str, rewriter: str | None = None, **captioning: Any) -> Recipe:
    settings = {"prompts": list(SAID), "max_new_tokens": 60, "batch_size": 2} | captioning
    return parse_recipe(
        {
            "data": {"captions_per_image": 3},
            "components": {"captioner": captioner, "rewriter": rewriter},
            "captioning": settings,
        }
    )


def row(name: str, captions: list[str] | None = None) -> dict[str, Any]:
    portrait = draw(7, 64)
    sink = BytesIO()
    Image.fromarray(portrait.image).save(sink, "PNG")
    mask = mask_to_png(portrait.mask)
    return {"id": name, "uri": f"{name}.png", "image": sink.getvalue(), "mask": mask, "captions": captions}


def test_answers_of_internvl_do_not_depend_on_the_batch(captioner: str):
    sizes = (40, 64, 200)
    questions = [
        Question(str(i), PICTURE.resize((size, size)), prompt) for i, size in enumerate(sizes) for prompt in SAID
    ]
    expected = list(SAID.values()) * len(sizes)
    for batch_size in (1, 4):
        assert InternVL(captioner, max_new_tokens=60, batch_size=batch_size)(questions) == expected


def test_a_truncated_answer_ends_with_a_complete_word(captioner: str):
    prompt, whole = next(iter(SAID.items()))
    for most in (3, 5, 8):
        (answer,) = InternVL(captioner, max_new_tokens=most, batch_size=1)([Question("x", PICTURE, prompt)])
        assert whole.startswith(answer)
        assert whole[len(answer) : len(answer) + 1] in ("", " ")
        assert len(answer) < len(whole)


def test_qwen3_answers_in_batches(rewriter: str):
    instruction = instruct(list(SAID.values()))
    model = Qwen3(rewriter, max_new_tokens=200, batch_size=2)
    assert [json.loads(answer) for answer in model([instruction] * 3)] == [REWRITTEN] * 3


def test_the_whole_stage_with_both_models(captioner: str, rewriter: str):
    result = Captions(recipe(captioner, rewriter))([row("a"), row("b", ["a man\x00 with red hair 😀"]), row("c")])
    assert not result.quarantined
    first, supplied, last = result.rows
    assert first["captions"] == [SAID["Describe this person in one sentence."], *REWRITTEN[1:]]
    assert first["rejections"] == [("unsupported", 1)]
    assert first["captioner"] == f"{captioner} + {rewriter}"
    assert {**last, "id": "a"} == first
    assert supplied["captions"] == ["a man with red hair"] * 3
    assert supplied["captioner"] == "supplied"
    assert to_parquet(result.rows, CAPTIONS)


def test_with_a_random_model_every_photograph_becomes_a_row_or_is_quarantined(tmp_path: Path):
    model = talkers.internvl(tmp_path, {})
    result = Captions(recipe(model, max_new_tokens=8, retries=1))([row("a"), row("b", ["a man with red hair"])])
    assert [one["id"] for one in result.rows] == ["b"]
    (aside,) = result.quarantined
    assert aside["id"] == "a"
    assert "0 of 3 captions after 2 tries each; refused: 6x" in aside["message"]


class Scripted:
    """A model that answers with a function of the prompt and records its prompts."""

    name = "scripted"

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __call__(self, questions: Sequence[Any]) -> list[str]:
        prompts = [getattr(question, "prompt", question) for question in questions]
        self.asked += prompts
        return [self.answer(prompt) for prompt in prompts]


def test_a_refused_answer_is_asked_again_with_a_reminder_and_counted():
    def answer(prompt: str) -> str:
        if "cues" not in prompt:
            return SAID[prompt]
        return (
            SAID["Give the cues as one line."] if "Identify nobody" in prompt else "I'm sorry, I can't help with that."
        )

    model = Scripted(answer)
    made = Captions(recipe("some/model"), model)([row("a")]).rows[0]
    assert made["captions"] == list(SAID.values())
    assert made["rejections"] == [("refusal", 1)]
    assert len(model.asked) == 4


def test_a_photograph_with_too_few_captions_is_quarantined_with_the_reasons():
    model = Scripted(
        lambda prompt: "**bold**" if "hair" in prompt else next(SAID[key] for key in SAID if key in prompt)
    )
    result = Captions(recipe("some/model", retries=2), model)([row("a"), row("b")])
    assert not result.rows
    assert {one["message"] for one in result.quarantined} == {
        "2 of 3 captions after 3 tries each; refused: 3x artefact"
    }
    assert {one["error"] for one in result.quarantined} == {"invalid_input:captions"}
    assert len(model.asked) == 2 * (3 + 1 + 1)


def test_a_rewriter_without_an_array_is_reminded_and_then_the_photograph_is_quarantined():
    model = Scripted(lambda prompt: SAID[prompt])
    stubborn = Captions(recipe("some/model", "other/model"), model, Scripted(lambda _: "1. A woman"))([row("a")])
    assert (
        "the rewriter gave no JSON array of 3 captions in 3 tries (3x unparsed)" in stubborn.quarantined[0]["message"]
    )

    reminded = Scripted(lambda text: json.dumps(list(SAID.values())) if "must start with [" in text else "Sure!")
    made = Captions(recipe("some/model", "other/model"), model, reminded)([row("a")]).rows[0]
    assert made["captions"] == list(SAID.values())
    assert made["rejections"] == [("unparsed", 1)]


def test_the_original_caption_is_kept_where_the_rewritten_one_is_refused():
    spoilt = ["**A young woman** with blond hair.", "Her hair is blond, long and wavy with a golden tiara.", "female"]
    said = Scripted(lambda prompt: SAID[prompt])
    stage = Captions(recipe("some/model", "other/model"), said, Scripted(lambda _: json.dumps(spoilt)))
    made = stage([row("a")]).rows[0]
    first, _, third = SAID.values()
    assert made["captions"] == [first, "Her hair is blond, long and wavy.", third]
    assert made["rejections"] == [("artefact", 1), ("too_short", 1), ("unsupported", 1)]


def test_supplied_captions_without_a_word_are_quarantined_and_blank_ones_ignored():
    result = Captions(load_recipe("demo"))(
        [row("a", ["\x00", "😀"]), row("b", [" ", ""]), row("c", ["word " * 10_000])]
    )
    assert "none of the 2 supplied captions has a word" in result.quarantined[0]["message"]
    assert [one["captioner"] for one in result.rows] == ["facts", "supplied"]
    assert len(set(result.rows[1]["captions"])) == 1


def test_prompts_change_the_fingerprints_of_captions_and_text_only(captioner: str):
    images = "datasets/images/0123"

    def identities(of: Recipe) -> dict[str, str]:
        masks = plan.conditions(of, images)
        told = plan.captions(of, images, masks.key)
        text = plan.text(of, told.key)
        latents = plan.latents(of, 256, images, masks.key)
        return {one.stage: one.fingerprint for one in (masks, told, text, latents)}

    def changed(of: Recipe, base: Recipe) -> set[str]:
        old, new = identities(base), identities(of)
        return {stage for stage in old if old[stage] != new[stage]}

    base = recipe(captioner)
    other = {"prompts": ["Who is it?", *list(SAID)[1:]]}
    assert changed(recipe(captioner, **other), base) == {"captions", "text"}
    assert changed(recipe(captioner, captioner), base) == {"captions", "text"}
    assert changed(recipe(captioner, min_words=9), base) == {"captions", "text"}
    assert changed(recipe(captioner, batch_size=9), base) == set()
    facts = load_recipe("demo")
    assert changed(load_recipe("demo", ["captioning.prompts=[one question]"]), facts) == set()


def test_a_chat_template_is_part_of_a_models_identity(captioner: str):
    before = component_identity(captioner)
    template = Path(captioner) / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text + " ")
    assert component_identity(captioner) != before
    template.write_text(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["captioning.prompts=[]"], r"captioning.prompts"),
        (["captioning.prompts=['  ']"], r"captioning.prompts.0"),
        (["components.rewriter=some/model"], r"components: rewriter needs the captions of a model"),
        (
            ["components.captioner=a/b", "captioning.prompts=[one]"],
            r"captioning.prompts: 1 prompts for .* 10; give at least 10",
        ),
        (["captioning.engine=tgi"], r"captioning.engine: .*'transformers' or 'vllm'"),
    ],
)
def test_a_recipe_that_cannot_caption_is_refused(settings: list[str], message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("demo", settings)
    assert len(str(caught.value)) < 250


def test_a_model_of_another_class_is_refused_by_name(rewriter: str):
    with pytest.raises(
        InputError, match=r"components.captioner: cannot use .* as captioner: it is 'qwen3'; give facts, or InternVL"
    ):
        load_captioner(rewriter)
    with pytest.raises(InputError, match=r"components.captioner: cannot use .*vae.* as captioner: .* give facts"):
        load_captioner("zoo:vae")
