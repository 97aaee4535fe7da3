"""The flow that prepares data, from photographs to latents and text embeddings."""

from __future__ import annotations

from prefect import flow

from flows.steps.artifacts import show_datasets
from flows.steps.hooks import HOOKS
from flows.steps.line import Prepared, begin, prepare_data, with_collection


@flow(name="prepare", **HOOKS)
def prepare(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> Prepared:
    """Runs every data stage whose dataset is not published yet.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as train.num_workers=4.
            ``mmface recipe explain KEY`` describes a key.

    Raises:
        MMFaceError: a user error, or a stage failed; published datasets stay and are not computed again.
    """
    run = with_collection(begin(recipe, overrides))
    data = prepare_data(run)
    show_datasets([data.text, *data.latents.values()], run.made)
    return data
