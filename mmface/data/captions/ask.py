"""Asks a captioning model about photographs, reviews its answers, and asks again where one is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from PIL import Image

from mmface.data.captions.rules import Reason, Rejection, review
from mmface.networks.components import load_captioner

_REMINDERS = {
    Reason.EMPTY: "Answer with one complete sentence.",
    Reason.CONTROL: "Use letters and punctuation only.",
    Reason.ARTEFACT: "Write the caption alone on one line: no markdown, no labels, no introduction, no brackets.",
    Reason.REFUSAL: "Identify nobody: name visible features only, such as hair, eyes, expression and clothes.",
    Reason.ECHO: "Do not repeat this instruction; write what the picture shows.",
    Reason.LANGUAGE: "Write in English.",
    Reason.SHORT: "Write at least ten words.",
    Reason.REPEATED: "Say everything once.",
}


@dataclass(frozen=True)
class Question:
    """One prompt about one photograph.

    Attributes:
        row: id of the photograph.
        picture: decoded, or a data URL where the model runs in another process.
        prompt: the text that the model gets, reminders included.
        slot: which of the photograph's captions the answer becomes.
    """

    row: str
    picture: Image.Image | str
    prompt: str
    slot: int = 0


class Captioner(Protocol):
    """Answers questions about photographs."""

    name: str

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """One answer per question, in order."""
        ...


@dataclass(frozen=True)
class Reviewed:
    """The outcome of :func:`ask_until_accepted`.

    Attributes:
        captions: the accepted answer to each question; None where every answer was refused.
        refused: index of the question and reason for each refused answer, in the order of the answers.
        unanswered: questions without an accepted answer, each with the prompt of its next try.
    """

    captions: list[str | None]
    refused: list[tuple[int, Reason]]
    unanswered: list[Question]


def ask_until_accepted(questions: Sequence[Question], captioner: Captioner, *, tries: int, min_words: int) -> Reviewed:
    """Asks every question, reviews the answers, and asks again with a reminder where an answer is refused.

    Args:
        tries: how often a question is asked at most; 0 asks nothing.
        min_words: the fewest words of a caption.
    """
    captions: list[str | None] = [None] * len(questions)
    refused: list[tuple[int, Reason]] = []
    unanswered = dict(enumerate(questions))
    for _ in range(tries):
        if not unanswered:
            break
        asked = list(unanswered.items())
        for (at, question), answer in zip(asked, captioner([one for _, one in asked]), strict=True):
            judged = review(answer, question.prompt, min_words)
            if isinstance(judged, Rejection):
                refused.append((at, judged.reason))
                unanswered[at] = replace(question, prompt=_with_reminder(question.prompt, judged.reason))
            else:
                captions[at] = judged
                del unanswered[at]
    return Reviewed(captions, refused, list(unanswered.values()))


def _with_reminder(prompt: str, reason: Reason) -> str:
    """The prompt of the next try: greedy decoding repeats itself unless the prompt changes."""
    return f"{prompt} {_REMINDERS[reason]}"


class InternVL:
    """An InternVL model, asked in batches and decoded greedily."""

    def __init__(self, name: str, *, max_new_tokens: int, batch_size: int) -> None:
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.model: Any
        self.processor: Any
        self.model, self.processor = load_captioner(name)

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """One answer per question, in order."""
        starts = range(0, len(questions), self.batch_size)
        return [text for start in starts for text in self._ask(questions[start : start + self.batch_size])]

    def _ask(self, questions: Sequence[Question]) -> list[str]:
        chats = [[{"role": "user", "content": _content(question)}] for question in questions]
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return generate(self.model, self.processor.tokenizer, inputs, self.max_new_tokens)


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, inputs: Any, max_new_tokens: int) -> list[str]:
    """Greedy answers to a left-padded batch; a truncated answer loses its last word, which may be incomplete."""
    given = inputs["input_ids"].shape[1]
    # The sampling settings of the checkpoint do not apply to greedy decoding.
    tokens = model.generate(
        **inputs.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=tokenizer.pad_token_id,
    )[:, given:]
    ends = torch.tensor(model.generation_config.eos_token_id, device=tokens.device).reshape(-1)
    finished = torch.isin(tokens, ends).any(1).tolist()
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [text if whole else text.rpartition(" ")[0] for text, whole in zip(texts, finished, strict=True)]


def _content(question: Question) -> list[dict[str, Any]]:
    return [{"type": "image", "image": question.picture}, {"type": "text", "text": question.prompt}]
