"""Cleaning and capping: the result is plain text, fits the tokenizer, and is a beginning of the original."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmface.data.captions.cap import cap
from mmface.data.captions.clean import clean
from mmface.errors import InputError
from mmface.networks.components import load_text_encoder

TOKENIZER = load_text_encoder("zoo:clip")[0]
PIECES = (
    "a woman with",
    "long red hair,",
    "and",
    "glasses;",
    "she smiles.",
    "the camera",
    "— “yes!”",
    "ends:",
    "x1,",
    "😀",
)
SPOKEN = st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join)


def zoo_tokens(text: str) -> int:
    return len(TOKENIZER(text, verbose=False)["input_ids"])


def words(text: str) -> int:
    return len(text.split()) + 2  # start and end token


CASES = (
    ("a man with a beard", 77, "a man with a beard"),
    ("  a man\n with a   beard ", 77, "a man with a beard"),
    ("a man with a beard,", 77, "a man with a beard"),
    ("She smiles at us. Her hair is red and long and", 10, "She smiles at us."),
    ("Is she smiling at us? Her hair is red and long", 10, "Is she smiling at us?"),
    ("She says “hello there!” Her hair is red and long", 9, "She says “hello there!”"),
    ("long red hair, pale skin, green eyes, freckles", 8, "long red hair, pale skin"),
    ("hair: red; eyes: green; skin: pale; age: thirty", 9, "hair: red; eyes: green; skin: pale"),
    ("Yes. a man in his fifties wearing a dark grey suit and tie", 10, "Yes. a man in his fifties wearing"),
    ("a woman with long red hair and a hat", 9, "a woman with long red hair"),
    ("a man who is wearing the hat of a sailor", 7, "a man who is wearing"),
    ("a man wearing the", 6, "a man wearing the"),
    ("with a man", 3, "with"),
)


@pytest.mark.parametrize(("text", "limit", "expected"), CASES)
def test_a_long_caption_is_cut_after_a_sentence_or_clause(text: str, limit: int, expected: str):
    assert cap(text, limit, words) == expected


def test_ten_thousand_words_are_cut_with_few_calls_of_the_tokenizer():
    calls = 0

    def count(text: str) -> int:
        nonlocal calls
        calls += 1
        return zoo_tokens(text)

    kept = cap("word " * 10_000, 77, count)
    assert 2 < zoo_tokens(kept) <= 77
    assert calls < 40


@pytest.mark.parametrize("text", ["", " ", ",", "— ;", "x" * 10_000])
def test_a_caption_without_a_word_that_fits_is_an_error(text: str):
    with pytest.raises(InputError, match="no word that fits"):
        cap(text, 20, lambda text: len(text) + 2)


@given(SPOKEN | st.text(max_size=80), st.integers(3, 30), st.sampled_from([words, zoo_tokens]))
def test_a_capped_caption_fits_is_a_beginning_of_the_text_and_stays_the_same(
    text: str, limit: int, count: Callable[[str], int]
):
    try:
        kept = cap(text, limit, count)
    except InputError:
        return
    assert count(kept) <= limit
    assert cap(kept, limit, count) == kept
    left, given_ = kept.split(), text.split()
    assert left[:-1] == given_[: len(left) - 1]
    assert given_[len(left) - 1].startswith(left[-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a man\x00 with\x07 a beard", "a man with a beard"),
        ("red\r\nhair\tand\x0bglasses", "red hair and glasses"),
        ("a zero\u200bwidth shy\u00adphen", "a zerowidth shyphen"),
        ("\ufeffa woman \u202eturned\u202c round", "a woman turned round"),
        ("a happy 😀👩🏽‍🦰 woman ❤️", "a happy woman"),
        ("flags 🇩🇪 and keys 1️⃣", "flags and keys 1"),
        ("the end <|endoftext|> is not <|startoftext|>near", "the end is not near"),
        ("cafe\u0301 au lait", "café au lait"),
        ("a lone \ud800 surrogate and \ue000 private use", "a lone surrogate and private use"),
        ("plain ^ASCII` (50%, 45°) & more", "plain ^ASCII` (50%, 45°) & more"),
        ("😀 \x07", ""),
    ],
)
def test_cleaning_keeps_the_words(text: str, expected: str):
    assert clean(text) == expected


@given(st.text(max_size=120))
def test_cleaned_text_has_no_control_characters_and_stays_the_same(text: str):
    cleaned = clean(text)
    assert not any(unicodedata.category(char)[0] == "C" for char in cleaned)
    assert not any(a == b == " " for a, b in pairwise(cleaned))
    assert clean(cleaned) == cleaned
