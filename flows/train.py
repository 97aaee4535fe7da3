"""The flow that trains every phase on prepared data."""

from __future__ import annotations

from prefect import flow

from flows.steps.artifacts import show_loss
from flows.steps.hooks import HOOKS
from flows.steps.line import begin, prepare_data, tracked, train_phases, with_collection


@flow(name="train", **HOOKS)
def train(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> str:
    """Trains the phases that are not published yet; returns the URI of the last phase.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as train.num_workers=4.
            ``mmface recipe explain KEY`` describes a key.

    Raises:
        DatasetError: the data is not prepared.
        MMFaceError: a user error, or a phase failed; run again, it resumes from the newest complete checkpoint.
    """
    with tracked(begin(recipe, overrides)) as run:
        ready = with_collection(run.only_finding("prepare"))
        data = prepare_data(ready)
        trained = train_phases(ready.making(), data)
        show_loss(trained)
        return trained
