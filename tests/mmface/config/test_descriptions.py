"""Every recipe key describes itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.config.reference import below, find, nearest, reference
from mmface.errors import RecipeError

KEYS = reference()


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every section class that a type holds, inside tuples, mappings and unions too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)


def fields(section: type[BaseModel], above: str = "") -> Iterator[tuple[str, str | None]]:
    """Name and description of every field of the tree."""
    for name, field in section.model_fields.items():
        yield f"{above}{name}", field.description
        for inner in sections_in(field.annotation):
            yield from fields(inner, f"{above}{name}.")


@pytest.mark.parametrize(("key", "description"), list(fields(Recipe)), ids=lambda value: str(value)[:40])
def test_every_field_has_a_description(key: str, description: str | None):
    assert description, f"{key} has no description= in its Field(...)"
    assert description.endswith("."), f"the description of {key} is no sentence"


def test_the_reference_holds_every_field_once_and_in_order():
    without_placeholders = [key.key.replace(".NAME", "").replace(".N.", ".") for key in KEYS]
    assert without_placeholders == [key for key, _ in fields(Recipe)]
    assert all(key.description and key.type for key in KEYS)


def test_a_section_stands_before_its_keys():
    seen: set[str] = set()
    for key in KEYS:
        owner = key.key.removesuffix(".N").rpartition(".")[0].removesuffix(".N").removesuffix(".NAME")
        assert not owner or owner in seen
        seen.add(key.key)
    assert {key.key for key in KEYS if key.type == "section"} >= {"train", "data.quality", "sources", "phases"}


@pytest.mark.parametrize(
    ("key", "type_", "default", "limits"),
    [
        ("data.holdout", "number", "0.15", "0 to 1"),
        ("seed", "integer", "0", "at least 0, below 2147483648"),
        ("phases.N.learning_rate", "number", "0.0001", "above 0"),
        ("phases.N.resolution", "integer", "required", "16 to 2048"),
        ("phases.N.steps", "integer or null", "null", "at least 1"),
        ("phases", "section", "[{resolution: 256, epochs: 300.0}]", "at least 1 in the list"),
        ("train.optimizer", "choice", "adamw", "adamw, adamw8bit, adamw8bit-paged"),
        ("train.balance", "choice or mapping of names to numbers", "none", "none, sources"),
        ("train.betas", "list of 2 numbers", "[0.9, 0.999]", ""),
        ("train.gradient_checkpointing", "true or false or integer", "false", "at least 1"),
        ("captioning.prompts", "list of texts", "10 entries", "at least 1 in the list; each: not blank"),
        ("serve.cors_origins", "list of texts", "[]", ""),
    ],
)
def test_type_default_and_limits_in_words(key: str, type_: str, default: str, limits: str):
    found = find(key)
    assert (found.key, found.type, found.default, found.limits) == (key, type_, default, limits)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("phases.0.learning_rate", "phases.N.learning_rate"),
        ("phases.learning_rate", "phases.N.learning_rate"),
        ("phases.1", "phases"),
        ("train.betas.1", "train.betas"),
        ("jobs.resources.train.gpus", "jobs.resources.NAME.gpus"),
        ("jobs.resources.gpus", "jobs.resources.NAME.gpus"),
        ("jobs.timeout_s.train", "jobs.timeout_s"),
        ("data.quality.face_area", "data.quality.face_area"),
    ],
)
def test_a_key_is_found_as_set_names_it(given: str, key: str):
    assert find(given).key == key


@pytest.mark.parametrize(
    ("unknown", "close"),
    [
        ("train.ema_decoy", "train.ema_decay"),
        ("phases.0.stepz", "phases.N.steps"),
        ("learning_rate", "phases.N.learning_rate"),
        ("trian", "train"),
    ],
)
def test_an_unknown_key_names_close_matches(unknown: str, close: str):
    with pytest.raises(RecipeError, match=close) as caught:
        find(unknown)
    assert caught.value.field == unknown


def test_the_keys_below_a_section():
    assert [key.key for key in below(find("jobs.resources"))] == [
        f"jobs.resources.NAME.{name}" for name in ("cpus", "gpus", "memory_gib")
    ]
    assert "data.quality" in [key.key for key in below(find("data"))]
    assert "data.quality.face_area" not in [key.key for key in below(find("data"))]


def test_the_nearest_key_of_a_path():
    assert nearest(("train", "gradient_checkpointing", "bool")) == find("train.gradient_checkpointing")
    assert nearest(("train", "nothing")) == find("train")
    assert nearest(("nothing",)) is None


@pytest.mark.parametrize("override", ["data.holdout=1.5", "phases.0.steps=-5", "train.balance={a: 0}"])
def test_an_error_about_a_value_says_where_the_key_is_explained(override: str):
    key = override.partition("=")[0]
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [override])
    assert str(caught.value).endswith(f"; see mmface recipe explain {find(key).key}")


@pytest.mark.parametrize(("override", "section"), [("train.lr=1", "train"), ("phases.0.stepz=1", "phases")])
def test_an_error_about_an_unknown_key_says_where_its_section_is_explained(override: str, section: str):
    with pytest.raises(RecipeError, match="known here: ") as caught:
        load_recipe("demo", [override])
    assert str(caught.value).endswith(f"; see mmface recipe explain {section}")
