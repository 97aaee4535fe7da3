"""What is checked before anything starts: a mistake should cost a second, not the way to the stage it would stop."""

from __future__ import annotations

import os

from mmface.config import Recipe
from mmface.data.sources.layouts import list_collections
from mmface.errors import ServiceError
from mmface.reach import unreachable
from mmface.weights import SCRATCH

ADDRESSES = {
    "RAY_ADDRESS": "Ray on this machine",
    "MLFLOW_TRACKING_URI": "SQLite below MMFACE_HOME",
    "PREFECT_API_URL": "Prefect in this process",
}


def check(recipe: Recipe) -> None:
    """Looks at the collections, the weights to start from, and every address that is set.

    Raises:
        RecipeError: the weights that training would start from are not there, or of another architecture.
        InputError: no such folder, or nothing in it.
        ServiceError: an address where nothing answers, or a bucket that may not be listed.
    """
    list_collections(recipe.sources)
    for variable, without in ADDRESSES.items():
        problem = unreachable(os.environ.get(variable, ""))
        if problem:
            raise ServiceError(f"{problem}; start it, or unset {variable} to use {without}", field=variable)
    if recipe.train.start != SCRATCH:
        from mmface.train.start import check_start

        check_start(recipe)
