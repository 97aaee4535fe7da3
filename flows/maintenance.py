"""Flows for the time between retrainings: the champion back, and no orphan left."""

from __future__ import annotations

from prefect import flow

from flows.hooks import HOOKS
from flows.reap import reap_everything
from mmface import registry
from mmface.recipes import load_recipe
from mmface.storage import home


@flow(name="rollback", **HOOKS)
def rollback(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> str:
    """Makes the champion before the present one the champion again; returns its version.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file; its serve.model_name counts.
        overrides: KEY=VALUE, one recipe key each, such as serve.model_name=mmface-dit.

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    return registry.rollback(load_recipe(recipe, list(overrides)).serve.model_name)


@flow(name="reap", on_failure=HOOKS["on_failure"])
def reap() -> list[str]:
    """Stops what dead flows left at work; returns what it did, line by line."""
    return reap_everything(home())
