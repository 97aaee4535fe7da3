"""Flows of operations: roll the champion back, and stop orphaned jobs."""

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
    """Makes the previous champion the champion again; returns its version.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file; serve.model_name is used.
        overrides: KEY=VALUE, one recipe key each, such as serve.model_name=mmface-dit.
            ``mmface recipe explain KEY`` describes a key.
        version: Champion to roll back; by default the champion when the flow starts.
        why: Reason, recorded with the move.

    Raises:
        RegistryError: there is no champion, no champion before it, or another version is champion.
    """
    name = load_recipe(recipe, list(overrides)).serve.model_name
    return roll_back(home(), name, version, why, str(flow_run.id or ""))[1]


@flow(name="reap", on_failure=HOOKS["on_failure"])
def reap() -> list[str]:
    """Stops jobs of flows that no longer run and marks their flow runs as crashed; returns one line for each."""
    return reap_everything(home())
