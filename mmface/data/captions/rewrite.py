"""Stage 2: a language model rewrites the captions of one photograph so that they agree (paper §3.1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from mmface.data.captions.ask import generate
from mmface.data.captions.rules import Reason, Rejection
from mmface.data.sources.names import is_unicode
from mmface.networks.components import load_rewriter

INSTRUCTION = (
    "These {count} captions describe one photograph of a face. Rewrite them so that they agree with each other: where "
    "they contradict, keep what most of them say; drop what only one of them says if it is unlikely; add nothing. Keep "
    "the order and the style of each. Answer with a JSON array of {count} strings and nothing else."
)
REMINDER = "The answer must start with [ and end with ], with exactly {count} strings between them."


class Rewriter(Protocol):
    """Answers the instructions that :func:`instruct` makes."""

    name: str

    def __call__(self, instructions: Sequence[str]) -> list[str]:
        """One answer per instruction, in order."""
        ...


def instruct(captions: Sequence[str], *, reminders: int = 0) -> str:
    """The instruction for the captions of one photograph, with one reminder for each earlier answer that failed."""
    text = " ".join([INSTRUCTION, *[REMINDER] * reminders])
    return f"{text.format(count=len(captions))}\n\n{json.dumps(list(captions), ensure_ascii=False, indent=0)}"


def parse(answer: str, count: int) -> list[str] | Rejection:
    """The captions in the rewriter's answer, a JSON array of ``count`` strings; text up to ``</think>`` is skipped."""
    text = answer.rpartition("</think>")[2].strip()
    try:
        captions = json.loads(text)
    except ValueError:
        return Rejection(Reason.UNPARSED, text[:40])
    if not isinstance(captions, list) or not all(isinstance(one, str) and is_unicode(one) for one in captions):
        return Rejection(Reason.UNPARSED, f"not an array of strings: {text[:40]}")
    if len(captions) != count:
        return Rejection(Reason.UNPARSED, f"{len(captions)} captions instead of {count}")
    return captions


class Qwen3:
    """A Qwen3 model, asked in batches with thinking off and decoded greedily.

    Args:
        name: hub id or local folder.
        max_new_tokens: maximum number of tokens of one answer, which holds all captions of a photograph.
        batch_size: photographs per batch.
    """

    def __init__(self, name: str, *, max_new_tokens: int, batch_size: int) -> None:
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.model: Any
        self.tokenizer: Any
        self.model, self.tokenizer = load_rewriter(name)

    def __call__(self, instructions: Sequence[str]) -> list[str]:
        """One answer per instruction, in order."""
        starts = range(0, len(instructions), self.batch_size)
        return [text for start in starts for text in self._ask(instructions[start : start + self.batch_size])]

    def _ask(self, instructions: Sequence[str]) -> list[str]:
        inputs = self.tokenizer.apply_chat_template(
            [[{"role": "user", "content": text}] for text in instructions],
            add_generation_prompt=True,
            enable_thinking=False,
            tokenize=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        return generate(self.model, self.tokenizer, inputs, self.max_new_tokens)
