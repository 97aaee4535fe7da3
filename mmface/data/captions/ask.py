"""Putting questions to a captioning model, and its answers before anybody judged them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from mmface.data.captions.rules import Reason
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
    """One prompt about one picture."""

    row: str
    picture: Image.Image
    prompt: str


class Captioner(Protocol):
    """Whatever answers questions about pictures."""

    name: str

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """One answer a question, in order."""
        ...


def again(prompt: str, reason: Reason) -> str:
    """The prompt of the next try. Greedy decoding would repeat itself, so every try adds what was wrong."""
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
        """One answer a question, in order."""
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
    """Greedy answers to a left-padded batch; one that was cut off loses its last word, which may be half a word."""
    given = inputs["input_ids"].shape[1]
    # The sampling settings that a checkpoint brings along mean nothing to greedy decoding.
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
