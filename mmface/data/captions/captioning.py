"""The ``captions`` stage: supplied captions, measured facts, or reviewed and rewritten answers of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mmface.config import Recipe
from mmface.data.captions.ask import Captioner, InternVL, Question, ask_until_accepted
from mmface.data.captions.cap import cap
from mmface.data.captions.clean import clean
from mmface.data.captions.facts import describe_facts, measure_facts
from mmface.data.captions.rewrite import INSTRUCTION, Qwen3, Rewriter, instruct, parse
from mmface.data.captions.rules import Reason, Rejection, review
from mmface.data.captions.support import keep_supported
from mmface.data.conditions import square_picture
from mmface.datasets.records import CAPTIONS
from mmface.datasets.stage import Result, Row, map_rows
from mmface.errors import InputError, RecipeError
from mmface.imaging.labels import mask_from_png
from mmface.networks.components import load_text_encoder


@dataclass
class Draft:
    """The captions of one photograph while they are made, one slot per prompt, and how often each rule refused one."""

    row: str
    picture: Image.Image
    captions: list[str | None]
    rejections: Counter[Reason] = field(default_factory=Counter)
    rewritten: bool = False


class Captions:
    """Rows of ``images`` joined with ``conditions`` to rows of :data:`CAPTIONS`.

    Args:
        recipe: the recipe.
        captioner: used instead of the captioning model that the recipe names.
        rewriter: used instead of the rewriting model that the recipe names.
    """

    name = "captions"
    schema: pa.Schema = CAPTIONS
    reads: tuple[str, ...] = ("id", "image", "mask", "captions")

    def __init__(self, recipe: Recipe, captioner: Captioner | None = None, rewriter: Rewriter | None = None) -> None:
        self.settings = recipe.captioning
        self.count = recipe.data.captions_per_image
        self.max_megapixels = recipe.data.max_megapixels
        self.side = recipe.picture_side
        self.tokenizer: Any = load_text_encoder(recipe.components.text_encoder)[0]
        self.captioner = captioner or _captioner(recipe)
        self.rewriter = rewriter or _rewriter(recipe)

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Returns each row with ``data.captions_per_image`` captions, or a quarantine row with the reason."""
        described = map_rows(self.name, rows, self._describe)
        drafts = [row["draft"] for row in described.rows if row["draft"] is not None]
        self._ask(drafts)
        self._rewrite([draft for draft in drafts if None not in draft.captions])
        finished = map_rows(self.name, described.rows, self._finish)
        return Result(finished.rows, [*described.quarantined, *finished.quarantined])

    def _describe(self, row: Row) -> Row:
        """Adds what needs no model: facts, supplied captions, and an empty draft where the model writes captions."""
        picture = square_picture(row["image"], self.max_megapixels, self.side)
        facts = measure_facts(np.asarray(picture), mask_from_png(row["mask"]), self.settings.facts)
        texts, captioner, draft = supplied(row), "supplied", None
        if not texts and self.captioner is None:
            texts, captioner = describe_facts(facts, self.count, self.settings.facts), "facts"
        elif not texts:
            draft = Draft(row["id"], picture, [None] * self.count)
        return {**row, "hair_colour": facts.hair_colour, "texts": texts, "captioner": captioner, "draft": draft}

    def _ask(self, drafts: Sequence[Draft]) -> None:
        """Fills each slot with an answer that the rules accept; slots whose answers were all refused stay empty."""
        if not drafts:
            return
        assert self.captioner is not None
        prompts = self.settings.prompts[: self.count]
        slots = [(draft, slot) for draft in drafts for slot in range(self.count)]
        questions = [Question(draft.row, draft.picture, prompts[slot], slot) for draft, slot in slots]
        tries = 1 + self.settings.retries
        reviewed = ask_until_accepted(questions, self.captioner, tries=tries, min_words=self.settings.min_words)
        for (draft, slot), caption in zip(slots, reviewed.captions, strict=True):
            draft.captions[slot] = caption
        for at, reason in reviewed.refused:
            slots[at][0].rejections[reason] += 1

    def _rewrite(self, drafts: Sequence[Draft]) -> None:
        """Replaces captions by those of the rewriter that pass the review; the others stay as they are."""
        if self.rewriter is None:
            return
        for attempt in range(1 + self.settings.retries):
            waiting = [draft for draft in drafts if not draft.rewritten]
            if not waiting:
                return
            instructions = [instruct(_texts(draft), reminders=attempt) for draft in waiting]
            for draft, answer in zip(waiting, self.rewriter(instructions), strict=True):
                parsed = parse(answer, self.count)
                if isinstance(parsed, Rejection):
                    draft.rejections[parsed.reason] += 1
                else:
                    self._merge(draft, parsed)

    def _merge(self, draft: Draft, rewritten: Sequence[str]) -> None:
        originals = _texts(draft)
        draft.rewritten = True
        for at, text in enumerate(rewritten):
            kept = keep_supported(text, originals)
            judged = review(kept, INSTRUCTION, self.settings.min_words)
            if kept != " ".join(text.split()):
                draft.rejections[Reason.UNSUPPORTED] += 1
            elif isinstance(judged, Rejection):
                draft.rejections[judged.reason] += 1
            if isinstance(judged, str):
                draft.captions[at] = judged

    def _finish(self, row: Row) -> Row:
        draft: Draft | None = row["draft"]
        texts, captioner = row["texts"], row["captioner"]
        if draft is not None:
            self._check(draft)
            assert self.captioner is not None
            texts, captioner = _texts(draft), self.captioner.name
            if self.rewriter is not None:
                captioner = f"{captioner} + {self.rewriter.name}"
        return {
            "id": row["id"],
            "captions": [self._cap(texts[i % len(texts)]) for i in range(self.count)],
            "hair_colour": row["hair_colour"],
            "captioner": captioner,
            "rejections": sorted((str(reason), times) for reason, times in draft.rejections.items()) if draft else [],
        }

    def _check(self, draft: Draft) -> None:
        """Raises InputError if a slot is empty, or if the rewriter gave no usable answer."""
        reasons = ", ".join(f"{times}x {reason}" for reason, times in draft.rejections.most_common())
        tries = 1 + self.settings.retries
        if None in draft.captions:
            made = len(_texts(draft))
            message = f"{made} of {self.count} captions after {tries} tries each; refused: {reasons}"
            raise InputError(message, field="captions")
        if self.rewriter is not None and not draft.rewritten:
            message = f"the rewriter gave no JSON array of {self.count} captions in {tries} tries ({reasons})"
            raise InputError(message, field="captions")

    def _cap(self, text: str) -> str:
        return cap(text, self.tokenizer.model_max_length, self._tokens)

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])


def _texts(draft: Draft) -> list[str]:
    return [text for text in draft.captions if text is not None]


def supplied(row: Row) -> list[str]:
    """The supplied captions of a row, cleaned. Raises InputError if captions were supplied and none has a word."""
    given = [text for text in row["captions"] or () if text.strip()]
    texts = [text for text in map(clean, given) if any(char.isalnum() for char in text)]
    if given and not texts:
        raise InputError(f"none of the {len(given)} supplied captions has a word: {given[0]!r:.60}", field="captions")
    return texts


def _captioner(recipe: Recipe) -> Captioner | None:
    name, settings = recipe.components.captioner, recipe.captioning
    if name == "facts":
        return None
    if settings.engine == "vllm":
        message = "vllm runs only inside a job: run python -m ray_jobs.captions, or set transformers"
        raise RecipeError(message, field="captioning.engine")
    return InternVL(name, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size)


def _rewriter(recipe: Recipe) -> Rewriter | None:
    name, settings = recipe.components.rewriter, recipe.captioning
    if name is None:
        return None
    tokens = settings.max_new_tokens * recipe.data.captions_per_image
    return Qwen3(name, max_new_tokens=tokens, batch_size=settings.batch_size)
