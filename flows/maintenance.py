"""Flows for the time between retrainings: the champion back, and no orphan left."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.cluster.reap import reap_everything
from flows.steps.champions import roll_back
from flows.steps.hooks import HOOKS
from mmface.config.load import load_recipe
from mmface.store import home


@flow(name="rollback", **HOOKS)
def rollback(
    recipe: str = "demo", overrides: tuple[str, ...] = (), version: str | None = None, why: str = "flow rollback"
) -> str:
    """Makes the champion before the present one the champion again; returns its version.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file; its serve.model_name counts.
        overrides: KEY=VALUE, one recipe key each, such as serve.model_name=mmface-dit.
        version: Champion that has to go; by default the one there is when the flow starts.
        why: Recorded with the move.

    Raises:
        RegistryError: there is no champion, none before it, or it is another version.
    """
    name = load_recipe(recipe, list(overrides)).serve.model_name
    return roll_back(home(), name, version, why, str(flow_run.id or ""))[1]


@flow(name="reap", on_failure=HOOKS["on_failure"])
def reap() -> list[str]:
    """Stops what dead flows left at work; returns what it did, line by line."""
    return reap_everything(home())
