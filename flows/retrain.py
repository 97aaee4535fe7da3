"""The retraining flow: photographs in, a served champion out (§1)."""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed

from flows.release import Release, nothing_new, release_bundle
from flows.steps.artifacts import show_datasets, show_grid, show_loss
from flows.steps.evaluation import paint_and_bundle
from flows.steps.hooks import HOOKS
from flows.steps.line import begin, prepare_data, tracked, train_phases, with_collection
from flows.steps.news import already_learnt
from flows.steps.preflight import check_key


@flow(name="retrain", **HOOKS)
def retrain(recipe: str = "demo", overrides: tuple[str, ...] = (), force: bool = False) -> Release:
    """Runs every stage that is not published yet, then registers, gates and promotes the version, and reports.

    With ``train.start=models:/NAME@ALIAS`` the run completes at once with the message "nothing new" when the version
    to start from was trained on the same photographs with the same recipe.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as train.num_workers=4 or sources=[{name: a, images: s3://b/c}].
            ``mmface recipe explain KEY`` describes a key.
        force: Train even if there is nothing new.

    Raises:
        MMFaceError: a user error, or a stage failed; published datasets stay and are not computed again.
    """
    start = begin(recipe, overrides)
    check_key(start.recipe)
    learnt = None if force else already_learnt(start)
    if learnt is not None:
        idle = nothing_new(start, learnt)
        return Completed(message=idle.reason, data=idle)  # Prefect hands ``data`` to the caller
    with tracked(start) as started:
        run = with_collection(started)
        data = prepare_data(run, evaluates=True)
        trained = train_phases(run, data)
        show_loss(trained)
        bundle = paint_and_bundle(run, data, trained)
        show_datasets([bundle], run.made)
        show_grid(bundle, run.recipe.evaluate.grid)
        return release_bundle(run, bundle)
