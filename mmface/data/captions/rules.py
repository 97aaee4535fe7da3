"""Stage 1: rules that refuse unusable answers of a captioning model (paper §3.1). Pure and deterministic."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mmface.data.captions.clean import SPECIAL_TOKEN, speakable
from mmface.data.captions.vocabulary import FOREIGN


class Reason(StrEnum):
    """Why an answer is not a caption."""

    EMPTY = "empty"
    CONTROL = "control_characters"
    ARTEFACT = "artefact"
    REFUSAL = "refusal"
    ECHO = "prompt_echo"
    LANGUAGE = "language"
    SHORT = "too_short"
    REPEATED = "repeated"
    UNPARSED = "unparsed"  # the rewriter's answer has the wrong format
    UNSUPPORTED = "unsupported"  # the rewriter added words that no caption supports


@dataclass(frozen=True)
class Rejection:
    """Why an answer was refused; ``detail`` quotes the part that broke the rule."""

    reason: Reason
    detail: str


_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_ARTEFACT = re.compile(
    "|".join(
        (
            SPECIAL_TOKEN.pattern,
            r"</?[a-z][^<>]*>",  # HTML and <think>
            r"&(?:[a-z]{2,8}|#\d+);",
            r"\*\*|__|`|~~~|\]\(|https?://|www\.",
            r"[{}\[\]|\\]",  # JSON, [placeholders], table rows, escapes
            r"^\s*(?:#{1,6}|[-*•]|\d{1,2}[.)])\s",
            r"^\s*(?:user|assistant|system|human|ai|caption|answer|output|response|description|prompt|image)\s*\d*\s*:",
            r"^\s*(?:sure|certainly|of course|absolutely|okay|ok)\b\s*[,!.:]",
            r"^\s*here(?:'s| is| are)\b[^.]*:",
            r"\b(?:lorem ipsum|insert \w+ here|let me know if|i hope this helps)\b",
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:really |very )?sorry|i apologi[sz]e"
    r"|i (?:can(?:not|'t| not)|could(?:n't| not)|won't|will not|do(?:n't| not) (?:have|see|know)|am not able|am unable)"
    r"|i'm (?:not able|unable)|as an? (?:ai|artificial|language|large language)\b"
    r"|(?:unable|not able) to (?:identify|determine|assist|provide|describe|help|see|view|process|answer|analy[sz]e)"
    r"|(?:it is|it's) not (?:possible|appropriate) to"
    r"|no (?:image|picture|photo) (?:was |is |has been )?(?:provided|attached|visible|uploaded))",
    re.IGNORECASE,
)
_IMPERATIVE = re.compile(r"^(?:please\s+)?(?:describe|list|write|provide|give|identify|summari[sz]e)\b", re.IGNORECASE)
_BORROWED = 2  # foreign words that are accepted, for example as part of a name
_ECHO_WORDS = 6


def review(answer: str, prompt: str, min_words: int) -> str | Rejection:
    """The answer as a caption on one line, or the reason why it is refused.

    Args:
        answer: the decoded answer of the model.
        prompt: the prompt of that answer.
        min_words: the fewest words of a caption.
    """
    text = " ".join(answer.split())
    words = _words(text)
    if not any(char.isalpha() for char in text):
        return Rejection(Reason.EMPTY, text[:40])
    control = next((char for char in text if not speakable(char) and not char.isprintable()), None)
    if control is not None:
        return Rejection(Reason.CONTROL, f"U+{ord(control):04X}")
    artefact = _artefact(answer)
    if artefact is not None:
        return Rejection(Reason.ARTEFACT, artefact[:40])
    refusal = _REFUSAL.search(_straight(text))
    if refusal is not None:
        return Rejection(Reason.REFUSAL, refusal.group())
    asked = _words(prompt)
    for reason, detail in (
        (Reason.ECHO, _echo(text, words, asked)),
        (Reason.LANGUAGE, _foreign(words)),
        (Reason.SHORT, f"{len(words)} words" if len(words) < min_words else None),
        (Reason.REPEATED, _repeated(words)),
    ):
        if detail is not None:
            return Rejection(reason, detail)
    return _unquoted(text)


def _artefact(answer: str) -> str | None:
    found = _ARTEFACT.search(answer)
    if found is not None:
        return found.group().strip()
    return next((char for char in answer if not (char.isspace() or speakable(char))), None)


def _echo(text: str, words: Sequence[str], asked: Sequence[str]) -> str | None:
    imperative = _IMPERATIVE.match(text)
    if imperative is not None:
        return imperative.group()
    size = min(_ECHO_WORDS, len(asked))
    common = _phrases(words, size) & _phrases(asked, size) if size > 3 else set()
    return " ".join(min(common)) if common else None


def _foreign(words: Sequence[str]) -> str | None:
    letters = [char for word in words for char in word if char.isalpha()]
    odd = [char for char in letters if char > "\u024f"]  # not a Latin letter, with or without diacritics
    if len(odd) * 10 > len(letters):
        return "".join(odd[:10])
    found = [word for word in words if word in FOREIGN]
    if len(found) > _BORROWED and len(found) * 6 > len(words):
        return " ".join(found[:5])
    return None


def _repeated(words: Sequence[str]) -> str | None:
    """A phrase that occurs three times in a row, or three words that occur three times, or five words twice."""
    for period in range(1, 5):
        run = 0
        for at in range(period, len(words)):
            run = run + 1 if words[at] == words[at - period] else 0
            if run >= 2 * period:
                return " ".join(words[at - period + 1 : at + 1])
    for size, often in ((3, 3), (5, 2)):
        grams = Counter(zip(*(words[start:] for start in range(size)), strict=False))
        phrase, times = max(grams.items(), key=lambda item: item[1], default=((), 0))
        if times >= often:
            return " ".join(phrase)
    return None


def _phrases(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def _words(text: str) -> list[str]:
    return _WORD.findall(_straight(text).casefold())


def _straight(text: str) -> str:
    return text.replace("\u2019", "'")


def _unquoted(text: str) -> str:
    return text[1:-1].strip() if len(text) > 2 and text[0] in "\"'\u201c" and text[-1] in "\"'\u201d" else text
