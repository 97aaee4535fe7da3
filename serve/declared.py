"""The application for ``serve deploy`` and KubeRay's RayService: ``import_path: serve.declared:application``.

Host and port come from the config's ``http_options``; addresses, credentials and keys from the environment of the
nodes. Without a champion the service runs but is not ready; it loads the champion as soon as there is one.
"""
# Ray reads the annotation of the builder's argument at run time, so this file must not postpone annotations.

from pydantic import BaseModel, ConfigDict
from ray.serve import Application

from mmface.config.load import load_recipe
from serve.deploy.deployments import build


class Arguments(BaseModel):
    """The ``args`` of the config: name or address of a recipe, and overrides such as ``serve.replicas=2``."""

    model_config = ConfigDict(extra="forbid")

    recipe: str = "demo"
    overrides: tuple[str, ...] = ()


def application(arguments: Arguments) -> Application:
    """Builds the service of a recipe.

    Raises:
        RecipeError: the recipe does not exist, or an override is invalid.
    """
    return build(load_recipe(arguments.recipe, list(arguments.overrides)).serve, {})
