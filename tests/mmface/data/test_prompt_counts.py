"""Counts of prompts: no text, only whole groups of different prompts, bounded, and comparable with captions."""

from __future__ import annotations

import numpy as np

from mmface.data.prompt_counts import (
    BUCKETS,
    FILES,
    FOLDER,
    GROUP,
    KEPT,
    OPEN,
    PromptCounter,
    count_words,
    group_captions,
    read_counts,
    write_counts,
)
from mmface.evaluate.drift import compare
from mmface.store import Store

HAIR = ("red", "brown", "blond", "black", "grey")
WEAR = ("glasses", "a hat", "earrings", "a scarf", "no jewellery")


def prompts(count: int, seed: int, subject: str = "face") -> list[str]:
    random = np.random.default_rng(seed)
    return [f"a {subject} with {random.choice(HAIR)} hair and {random.choice(WEAR)}, {place}" for place in range(count)]


def fill(counter: PromptCounter, texts: list[str]) -> None:
    for text in texts:
        counter.add(text)


def test_a_word_counts_once_in_its_bucket_whatever_its_case() -> None:
    counts = count_words("Red")
    assert abs(counts).sum() == 1
    assert (count_words("red, RED red!") == counts).all()
    assert (count_words("red hair") == counts + count_words("hair")).all()


def test_digits_are_not_counted() -> None:
    assert not count_words("4111 1111 1111 1111 +49-30-123").any()


def test_words_keep_their_buckets() -> None:
    """Counts in the home are compared with captions that a later release counts."""
    counts = [count_words(word) for word in ("face", "hair", "größe")]
    assert [(int(abs(one).argmax()), int(one.sum())) for one in counts] == [(103, -1), (7, -1), (250, 1)]


def test_only_whole_groups_of_different_prompts_leave_the_counter() -> None:
    counter = PromptCounter()
    fill(counter, prompts(GROUP - 1, 0))
    assert counter.take().shape == (0, BUCKETS)
    for _ in range(40 * GROUP * OPEN):
        counter.add("one client asks for the same picture")
    assert len(counter.take()) == 0, "one prompt fills no group"
    fill(counter, prompts(10 * GROUP, 1))
    taken = counter.take()
    assert 10 - OPEN <= len(taken) <= 11
    assert len(counter.take()) == 0, "taken groups are gone"


def test_a_flood_of_prompts_takes_bounded_memory() -> None:
    counter = PromptCounter()
    fill(counter, prompts((KEPT + 20) * GROUP, 2))
    assert len(counter.take()) == KEPT


def test_files_hold_counts_and_no_text(tmp_path) -> None:
    home, counter = Store(tmp_path), PromptCounter()
    fill(counter, [f"{text} zanzibar" for text in prompts(20 * GROUP, 3)])
    counts = counter.take()
    write_counts(home, "m", counts)
    (file,) = (tmp_path / FOLDER / "m").iterdir()
    assert b"zanzibar" not in file.read_bytes()
    assert b"hair" not in file.read_bytes()
    newest, read = read_counts(home, "m", 500)
    assert newest == file.name
    assert (read == counts).all()
    assert read_counts(home, "other", 500)[0] == ""


def test_the_newest_groups_are_read_and_old_files_deleted(tmp_path) -> None:
    home = Store(tmp_path)
    for number in range(FILES + 2):
        write_counts(home, "m", np.full((2, BUCKETS), number, np.int16))
    names = sorted(file.name for file in (tmp_path / FOLDER / "m").iterdir())
    assert len(names) == FILES
    newest, read = read_counts(home, "m", 3)
    assert newest == names[-1]
    assert read[:, 0].tolist() == [FILES + 1, FILES + 1, FILES]


def test_captions_are_grouped_like_prompts() -> None:
    texts = prompts(5 * GROUP + 3, 4)
    grouped = group_captions([[text] for text in texts], 500, 0)
    assert grouped.shape == (5, BUCKETS)
    assert len(group_captions([[text] for text in texts], 2, 0)) == 2
    assert group_captions([["a face"], []], 500, 0).shape == (0, BUCKETS)
    whole = group_captions([[text] for text in texts[: 5 * GROUP]], 500, 0)
    assert (whole.sum(0) == sum(count_words(text).astype(int) for text in texts[: 5 * GROUP])).all()


def test_prompts_like_the_captions_have_not_drifted_and_others_have() -> None:
    captions = [[text, text] for text in prompts(60 * GROUP, 5)]
    known = group_captions(captions, 500, 0) / GROUP
    verdicts = {}
    for subject in ("face", "dragon"):
        counter = PromptCounter()
        fill(counter, prompts(60 * GROUP, 6, subject))
        verdicts[subject] = compare(counter.take() / GROUP, known, 0.99, 0.2).verdict
    assert verdicts == {"face": "not drifted", "dragon": "drifted"}
