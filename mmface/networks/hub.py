"""Hub ids and the commits that they stand for: weights can change under a name, so a run pins them once (§6).

A hub id is ``owner/name``, with a folder inside the repository and ``@revision`` if wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from pathlib import Path

from mmface.config import Recipe
from mmface.errors import RecipeError

log = logging.getLogger(__name__)

SECONDS = 3.0  # each repository of a recipe may cost them where a firewall is silent
NO_HUB_ID = ("zoo:", "models:/", "/", ".", "~")  # beginnings of other names


def pin_components(recipe: Recipe, roles: Container[str] | None = None) -> Recipe:
    """The recipe with every hub id among its components at a revision: the one given, or today's commit.

    Args:
        roles: those to pin; all by default.

    Raises:
        RecipeError: see :func:`pin`.
    """
    named = {role: name for role, name in recipe.components if name and name != "facts"}
    pinned = {role: pin(name, f"components.{role}") for role, name in named.items() if roles is None or role in roles}
    return recipe.model_copy(update={"components": recipe.components.model_copy(update=pinned)})


def pin(name: str, field: str) -> str:
    """A hub id without a revision as the same at its present commit; any other name unchanged.

    The hub is asked first; where it does not answer, the commit that this machine's cache holds is taken.

    Raises:
        RecipeError: neither knows one; names ``field``.
    """
    if name.startswith(NO_HUB_ID) or name.endswith(".safetensors") or "@" in name or Path(name).exists():
        return name
    return f"{name}@{_commit('/'.join(name.split('/')[:2]), field)}"


def _commit(repository: str, field: str) -> str:
    """What the hub, or else the cache, calls the newest commit of a repository."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        found = HfApi().model_info(repository, timeout=SECONDS, expand=["sha"]).sha
        if found:
            return found
        reason = "it has no commit there"
    except HFValidationError as error:
        raise RecipeError(f"{repository!r} is no hub id: {_line(error)}", field=field) from None
    except (httpx.HTTPError, OSError) as error:
        reason = _line(error)
    cached = _cached_commit(repository)
    if cached is None:
        remedy = "go online once, name a revision (NAME@COMMIT), or give a local folder"
        raise RecipeError(
            f"{repository} is not in the cache and the hub names no commit ({reason}); {remedy}", field=field
        )
    log.info("%s: %s at the cached commit %s; the hub says none (%s)", field, repository, cached, reason)
    return cached


def _cached_commit(repository: str) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return commit if (folder / "snapshots" / commit).is_dir() else None


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
