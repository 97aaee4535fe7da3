"""Stage 2's check: a rewritten caption may only use content words of the original captions (paper §3.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from mmface.data.captions.vocabulary import FEMALE, FUNCTION, MALE, NEGATIONS

_WORD = re.compile(r"[^\W_]+(?:['\u2019][st]\b)?")
# Segments start after punctuation and before words that introduce a new statement about the face.
_OPENERS = "and|but|with|without|while|who|whose|which|that|wearing|has|have|is|in|on|against|behind"
_BREAK = re.compile(rf"(?<=[,;:.!?])\s+|\s+(?=(?:{_OPENERS})\b)", re.IGNORECASE)
_ENDING = re.compile(r"(?<=..)(?:s|e|y|ed|ing)$|(?<=....)ly$")

Term = tuple[bool, str]  # whether a content word is negated, and its stem


def keep_supported(text: str, originals: Sequence[str]) -> str:
    """``text`` without content words that no original supports; empty if its first segment is not supported.

    A word is supported if an original contains it in any inflection. Negated words support only negated words: "no
    glasses" does not support "glasses". An unsupported word that qualifies another one is removed alone ("a smiling
    woman" becomes "a woman"); otherwise its whole segment is removed ("and a golden crown").
    """
    known = {term for original in originals for segment in _segments(original) for term in _terms(segment)}
    kept: list[str] = []
    for place, segment in enumerate(_segments(text)):
        left = _trim(segment, known)
        if left is None and place == 0:
            return ""
        if left is not None:
            kept.append(left)
        elif segment[-1] in ".!?" and kept[-1][-1] not in ".!?":
            kept[-1] = kept[-1].rstrip(",;:") + segment[-1]
    return " ".join(kept).rstrip(",;: ")


def _trim(segment: str, known: set[Term]) -> str | None:
    """The segment without unsupported qualifiers; None if a word that they qualify is unsupported."""
    negated = _negated(segment)
    drop: list[re.Match[str]] = []
    for run in _runs(segment):
        unknown = [word for word in run if (negated, stem(word.group())) not in known]
        if unknown and unknown[-1] is run[-1]:
            return None
        drop += unknown
    for word in reversed(drop):
        segment = _without(segment, word)
    return segment


def stem(word: str) -> str:
    """A word without its inflections, roughly; all words for a sex have the same stem."""
    lower = re.sub(r"['\u2019]s$", "", word.casefold())
    for sex, same in (("female", FEMALE), ("male", MALE)):
        if lower in same:
            return sex
    while (shorter := _ENDING.sub("", lower)) != lower:
        lower = shorter
    return lower


def _segments(text: str) -> list[str]:
    """The text in segments with at least one content word each; function words join the segment that follows."""
    segments, waiting = [], ""
    for piece in _BREAK.split(" ".join(text.split())):
        waiting = f"{waiting} {piece}".strip()
        if next(iter(_runs(waiting)), None):
            segments.append(waiting)
            waiting = ""
    return segments


def _terms(segment: str) -> Iterator[Term]:
    negated = _negated(segment)
    return ((negated, stem(word.group())) for run in _runs(segment) for word in run)


def _negated(segment: str) -> bool:
    return any(word.group().casefold() in NEGATIONS for word in _WORD.finditer(segment))


def _runs(segment: str) -> Iterable[list[re.Match[str]]]:
    """Runs of adjacent content words; the others of a run qualify its last word."""
    run: list[re.Match[str]] = []
    for word in _WORD.finditer(segment):
        if run and (_function(word) or segment[run[-1].end() : word.start()].strip(" -")):
            yield run
            run = []
        if not _function(word):
            run.append(word)
    if run:
        yield run


def _function(word: re.Match[str]) -> bool:
    return word.group().casefold() in FUNCTION


def _without(segment: str, word: re.Match[str]) -> str:
    """The segment without one word; an article before it is changed to a or an to fit the next word."""
    before, after = segment[: word.start()], segment[word.end() :].lstrip("- ")
    article = "an" if after[:1].casefold() in tuple("aeio") else "a"
    return re.sub(r"(?i)\b(a)n?\s+$", rf"\g<1>{article[1:]} ", before) + after
