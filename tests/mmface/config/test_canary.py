"""``serve.canary``: its forms, those of earlier releases, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmface.config import Canary
from mmface.config.load import load_recipe, read_recipe
from mmface.errors import RecipeError


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Canary()),
        (["serve.canary=challenger"], Canary(alias="challenger")),
        (["serve.canary=challenger", "serve.canary_share=0.2"], Canary(alias="challenger", share=0.2)),
        (["serve.canary={alias: challenger, auto: true}"], Canary(alias="challenger", auto=True)),
        (["serve.canary.alias=challenger", "serve.canary.share=0.2"], Canary(alias="challenger", share=0.2)),
        (["serve.canary=null"], Canary()),
    ],
)
def test_forms(overrides: list[str], expected: Canary) -> None:
    serve = load_recipe("demo", overrides).serve
    assert serve.canary == expected
    assert serve.canary_share is None
    assert not Canary().auto


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ("canary: null, canary_share: 0.05", Canary()),
        ("canary: challenger, canary_share: 0.25", Canary(alias="challenger", share=0.25)),
    ],
)
def test_recipes_of_earlier_releases_load(tmp_path: Path, saved: str, expected: Canary) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"base: demo\nserve: {{{saved}}}\n")
    recipe = read_recipe(str(path))
    assert recipe.serve.canary == expected
    path.write_text(recipe.to_yaml())
    assert read_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        ({"auto": True}, "serve.canary: auto decides about the version of an alias: set serve.canary.alias too"),
        ("champion", "serve: serve.canary.alias is champion, as serve.alias: name the alias of another version"),
        (
            {"alias": "c", "auto": True, "share": 1},
            "serve.canary: auto compares the answers of both versions: set share",
        ),
        ({"alias": "c", "auto": True, "max_requests": 9}, "serve.canary: max_requests must not be below min_requests"),
        ({"alias": "c", "level": 1}, "serve.canary.level: Input should be less than 1"),
        ({"alias": "c", "max_slowdown": 0}, "serve.canary.max_slowdown: Input should be greater than 0"),
        ({"alias": "c", "autos": 1}, "serve.canary.autos: unknown key; known here: alias, share, auto"),
        (3, "serve.canary: Input should be a valid dictionary"),
    ],
)
def test_what_cannot_work_is_refused_by_name(canary: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [f"serve.canary={canary}".replace("'", "").replace("True", "true")])
    assert str(caught.value).startswith(message)
    assert "mmface recipe explain serve" in str(caught.value)
