"""The flow that generates images with a trained model, measures them and builds the bundle."""

from __future__ import annotations

from prefect import flow

from flows.steps.artifacts import show_grid
from flows.steps.hooks import HOOKS
from flows.steps.line import begin, paint_and_bundle, prepare_data, train_phases, with_collection


@flow(name="evaluate", **HOOKS)
def evaluate(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> str:
    """Generates images for held-out rows, measures them and bundles the model with its metrics.

    Returns the URI of the bundle.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as evaluate.n=64.
            ``mmface recipe explain KEY`` describes a key.

    Raises:
        DatasetError: the data is not prepared, or the model is not trained.
        MMFaceError: a user error, or a stage failed.
    """
    run = with_collection(begin(recipe, overrides).only_finding("prepare"))
    data = prepare_data(run, evaluates=True)
    trained = train_phases(run.only_finding("train"), data)
    bundle = paint_and_bundle(run.making(), data, trained)
    show_grid(bundle, run.recipe.evaluate.grid)
    return bundle
