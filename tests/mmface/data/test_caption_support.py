"""Stage 2: only well-formed answers of the rewriter are accepted, and unsupported words are removed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmface.data.captions.rewrite import instruct, parse
from mmface.data.captions.rules import Reason, Rejection
from mmface.data.captions.support import keep_supported, stem

ORIGINALS = (
    "A young woman with long blond hair smiles at the camera.",
    "Female, blue eyes, wearing silver earrings, no glasses",
    "Her wavy hair falls on her shoulders, without a hat.",
)


@pytest.mark.parametrize(
    ("rewritten", "expected"),
    [
        ("A young woman with long blond hair.", "A young woman with long blond hair."),
        ("She is smiling, with blue eyes and wavy hair.", "She is smiling, with blue eyes and wavy hair."),
        ("A young woman with long hair and a golden crown.", "A young woman with long hair."),
        ("A young woman with a golden crown. She smiles.", "A young woman. She smiles."),
        ("A young woman, wearing a crown", "A young woman"),
        ("An elegant young woman with blond hair", "A young woman with blond hair"),
        ("A woman with a silver earring", "A woman with a silver earring"),
        ("A woman with a luminous earring", "A woman with an earring"),
        ("A woman with long ash-blond hair", "A woman with long blond hair"),
        ("A woman with blue eyes and glasses", "A woman with blue eyes"),
        ("A woman with blue eyes and no glasses", "A woman with blue eyes and no glasses"),
        ("A woman with no earrings and wavy hair", "A woman and wavy hair"),
        ("A man with long blond hair", ""),
        ("A crown sits on her hair", ""),
        ("Her hair, which is golden, falls on her shoulders", "Her hair, falls on her shoulders"),
        ("", ""),
    ],
)
def test_only_words_of_the_originals_are_kept(rewritten: str, expected: str):
    assert keep_supported(rewritten, ORIGINALS) == expected


WORDS = (*" ".join(ORIGINALS).split(), "crown", "golden", "and", "no", "tattoo.")


@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_kept_words_are_supported_and_a_second_pass_changes_nothing(text: str):
    kept = keep_supported(text, ORIGINALS)
    assert not {"crown", "golden", "tattoo"} & {word.strip(",.") for word in kept.split()}
    assert keep_supported(kept, ORIGINALS) == kept


@given(st.sampled_from(ORIGINALS))
def test_an_original_supports_itself(text: str):
    assert keep_supported(text, [text]) == text


@pytest.mark.parametrize(
    "same",
    [
        ("smile", "smiles", "smiling", "smiled"),
        ("earring", "earrings"),
        ("glasses", "glass"),
        ("eye", "eyes", "eyed"),
        ("slight", "slightly"),
        ("wave", "waves", "wavy"),
        ("beard", "bearded"),
        ("blond", "blonde"),
        ("woman", "her", "female"),
        ("curly", "curl", "curls"),
    ],
)
def test_inflections_share_a_stem(same: tuple[str, ...]):
    assert len({stem(word) for word in same}) == 1


def test_the_instruction_contains_the_captions_and_their_number():
    text = instruct(ORIGINALS)
    assert "3 strings" in text
    assert json.loads(text.partition("\n\n")[2]) == list(ORIGINALS)
    assert len(instruct(ORIGINALS, reminders=2)) > len(text)


@pytest.mark.parametrize("prefix", ["", "\n ", "<think>\nThe second one denies glasses: [1].\n</think>\n\n"])
def test_an_array_with_the_right_number_of_captions_is_accepted(prefix: str):
    assert parse(f"{prefix}{json.dumps(ORIGINALS)}\n", 3) == list(ORIGINALS)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "1. A woman\n2. A woman\n3. A woman",
        '["a", "b"]',
        '["a", "b", "c", "d"]',
        '["a", "b", 3]',
        r'["a", "b", "half \ud83d"]',
        '{"captions": ["a", "b", "c"]}',
        'Sure: ["a", "b", "c"]',
        '["a", "b", "c"',
        '```json\n["a", "b", "c"]\n```',
        '"abc"',
        "null",
    ],
)
def test_any_other_answer_is_refused(answer: str):
    judged = parse(answer, 3)
    assert isinstance(judged, Rejection)
    assert judged.reason is Reason.UNPARSED
