"""The application for ``serve deploy`` and KubeRay's RayService: ``import_path: serve.declared:application``.

Host and port are the config's ``http_options``; addresses, credentials and keys are in the environment of the nodes.
Without a champion the service is up but not ready, and takes one as soon as there is one.
"""
# Ray looks at the builder's annotation for a class, so annotations must not be postponed here.

from pydantic import BaseModel, ConfigDict
from ray.serve import Application

from mmface.config.load import load_recipe
from serve.deploy.deployments import build


class Arguments(BaseModel):
    """``args`` of the config: a recipe's name or address, and overrides like ``serve.replicas=2``."""

    model_config = ConfigDict(extra="forbid")

    recipe: str = "demo"
    overrides: tuple[str, ...] = ()


def application(arguments: Arguments) -> Application:
    """Builds the service of a recipe.

    Raises:
        RecipeError: no such recipe, or a wrong override.
    """
    return build(load_recipe(arguments.recipe, list(arguments.overrides)).serve, {})
