"""The retraining flow: photographs in, a served champion out (§1). It reads like the picture in the README."""

from __future__ import annotations

from prefect import flow

from flows.hooks import HOOKS
from flows.line import paint_and_bundle, prepare_data, tracked, train_phases, with_collection
from flows.preflight import check_key
from flows.release import Release, release_bundle
from flows.shown import show_datasets, show_grid, show_loss


@flow(name="retrain", **HOOKS)
def retrain(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> Release:
    """Runs every stage that is not published yet, then gates, registers, tries the service and reports.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as train.num_workers=4 or sources=[{name: a, images: s3://b/c}].

    Raises:
        MMFaceError: a user's mistake or a stage that failed; what was published stays and is not done again.
    """
    with tracked(recipe, overrides) as begun:
        check_key(begun.recipe)
        run = with_collection(begun)
        data = prepare_data(run, evaluates=True)
        trained = train_phases(run, data)
        show_loss(trained)
        bundle = paint_and_bundle(run, data, trained)
        show_datasets(run, [bundle])
        show_grid(run, bundle)
        return release_bundle(run, bundle)
