"""Balance of collections: exact in every cycle, a function of the draw, each row once per epoch of its collection."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmface.config import Recipe
from mmface.config.load import parse_recipe
from mmface.errors import RecipeError
from mmface.train.hooks import Hooks
from mmface.train.loop import train_phase
from mmface.train.parallel.world import World
from mmface.train.rows.balance import mix
from mmface.train.rows.batches import Draws
from mmface.train.rows.sets import TrainingSet

SOURCES = ("few",) * 3 + ("many",) * 20 + ("some",) * 7
DRAWS = Draws(seed=3, phase=0, batch_size=8, condition_dropout=0.05, text_dropout=0.05)


def drawn(draws: Draws, steps: int) -> list[int]:
    return [row for step in range(steps) for row in draws.rows(len(SOURCES), step, range(draws.batch_size))]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        ("sources", {"few": 1 / 3, "many": 1 / 3, "some": 1 / 3}),
        ({"few": 1, "many": 2, "some": 1}, {"few": 0.25, "many": 0.5, "some": 0.25}),
        ({"few": 0.1, "many": 0.65, "some": 0.25}, {"few": 0.1, "many": 0.65, "some": 0.25}),
        ({"few": 1, "many": np.pi, "some": np.e}, {"few": 0.1458, "many": 0.4579, "some": 0.3963}),
    ],
)
def test_shares_follow_the_weights(balance: object, shares: dict[str, float]):
    mixture = mix(SOURCES, balance)  # type: ignore[arg-type]
    counts = Counter(SOURCES[row] for row in drawn(replace(DRAWS, mixture=mixture), 500))
    for name, share in shares.items():
        assert counts[name] / 4000 == pytest.approx(share, abs=2e-3), name


def test_every_cycle_has_the_exact_shares():
    mixture = mix(SOURCES, {"few": 1, "many": 2, "some": 1})
    rows = drawn(replace(DRAWS, mixture=mixture), 50)
    for start in range(0, len(rows), 4):
        assert Counter(SOURCES[row] for row in rows[start : start + 4]) == {"few": 1, "many": 2, "some": 1}


@given(seed=st.integers(0, 2**31 - 1), batch_size=st.integers(1, 9), weight=st.integers(1, 5))
def test_every_row_occurs_once_per_epoch_of_its_collection(seed: int, batch_size: int, weight: int):
    mixture = mix(SOURCES, {"few": weight, "many": 3, "some": 2})
    rows = drawn(replace(DRAWS, seed=seed, batch_size=batch_size, mixture=mixture), 40)
    for name in set(SOURCES):
        own = [row for row in range(len(SOURCES)) if SOURCES[row] == name]
        seen = [row for row in rows if row in own]
        for epoch in range(len(seen) // len(own)):
            assert sorted(seen[epoch * len(own) : (epoch + 1) * len(own)]) == own


def test_the_row_of_a_slot_does_not_depend_on_rank_or_order():
    draws = replace(DRAWS, mixture=mix(SOURCES, "sources"))
    whole = [draws.rows(len(SOURCES), step, range(8)) for step in range(6)]
    shared = [[draws.rows(len(SOURCES), 5 - step, World(rank, 2).slots(8)) for rank in (0, 1)] for step in range(6)]
    assert [first + second for first, second in reversed(shared)] == whole
    assert len({str(rows) for rows in whole}) == 6
    for other in (replace(draws, seed=4), replace(draws, phase=1)):
        assert other.rows(len(SOURCES), 0, range(8)) != whole[0]


def test_without_balance_the_order_is_that_of_earlier_releases():
    draws = Draws(
        seed=3, phase=1, batch_size=4, condition_dropout=0.05, text_dropout=0.05, mixture=mix(SOURCES, "none")
    )
    rows = [draws.rows(10, step, range(4)) for step in range(5)]
    assert rows == [[2, 3, 6, 1], [7, 4, 8, 0], [9, 5, 9, 0], [5, 7, 3, 8], [6, 4, 2, 1]]


def test_collections_of_equal_size_have_different_orders():
    sources = ("one",) * 8 + ("two",) * 8
    draws = replace(DRAWS, batch_size=16, mixture=mix(sources, "sources"))
    rows = draws.rows(16, 0, range(16))
    assert [row for row in rows if row < 8] != [row - 8 for row in rows if row >= 8]


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ({"few": 1, "many": 1}, "few, many, but training rows come from few, many, some"),
        ({"few": 1, "many": 1, "some": 1, "none": 1}, "give each of these collections one weight"),
        ({"few": 1e-5, "many": 1, "some": 1}, "leave the collection out"),
    ],
)
def test_weights_that_do_not_fit_are_refused(balance: dict[str, float], message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        mix(SOURCES, balance)
    assert caught.value.field == "train.balance"


def test_a_weight_for_no_collection_of_the_recipe_is_refused():
    with pytest.raises(RecipeError, match=r"train\.balance weighs b, which is not in sources"):
        parse_recipe({"sources": [{"name": "a", "images": "x"}], "train": {"balance": {"a": 1, "b": 2}}})


def test_training_balances_as_the_recipe_says(recipe: Recipe, data: TrainingSet):
    sources = ("a",) * 8 + ("b",) * 2
    data = replace(data, sources=sources)
    ids: list[str] = []
    real = Draws.batch

    def watched(self: Draws, *given: object) -> object:
        batch = real(self, *given)  # type: ignore[arg-type]
        ids.extend(batch.ids)
        return batch

    train = recipe.train.model_copy(update={"balance": "sources"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draws, "batch", watched)
        hooks = Hooks(lambda entry: None, lambda state: None)
        train_phase(recipe.model_copy(update={"train": train}), 0, data, hooks=hooks)
    assert Counter(sources[int(key)] for key in ids) == {"a": 24, "b": 24}
