"""Pins hub ids to commits: the weights under a hub id can change, so a run resolves each id once (§6).

A hub id is ``owner/name``, optionally with a folder inside the repository and with ``@revision``.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from pathlib import Path

from mmface.config import Recipe
from mmface.config.section import Section
from mmface.errors import RecipeError

log = logging.getLogger(__name__)

SECONDS = 3.0  # timeout of a request; behind a firewall that drops packets, a run waits this long for each repository
NO_HUB_ID = ("zoo:", "models:/", "/", ".", "~")  # prefixes of names that are not hub ids


def pin_components(recipe: Recipe, roles: Container[str] | None = None) -> Recipe:
    """The recipe with every hub id of its networks at a revision: the given one, or the newest commit.

    The other networks that measure pictures (``evaluate.parser``, ``metrics.inception``, …) are pinned with ``clip``.

    Args:
        roles: the components to pin; all by default.

    Raises:
        RecipeError: see :func:`pin`.
    """
    named = {role: name for role, name in recipe.components if name and name != "facts"}
    pinned = {role: pin(name, f"components.{role}") for role, name in named.items() if roles is None or role in roles}
    components = recipe.components.model_copy(update=pinned)
    if roles is not None and "clip" not in roles:
        return recipe.model_copy(update={"components": components})
    return recipe.model_copy(
        update={
            "components": components,
            "evaluate": _pinned(recipe.evaluate, "evaluate", ("parser",)),
            "metrics": _pinned(recipe.metrics, "metrics", ("inception", "dino", "lpips")),
        }
    )


def choose_components(recipe: Recipe) -> Recipe:
    """The recipe with its ``preferred`` networks in ``components``, pinned, where the hub or its cache has them.

    Only names that begin with ``zoo:`` are replaced. Logs what is used, and why where it is the zoo's.
    """
    chosen: dict[str, str] = {}
    for role, name in recipe.preferred:
        field, present = f"components.{role}", getattr(recipe.components, role)
        if name is None or not present.startswith("zoo:"):
            continue
        try:
            chosen[role] = pin(name, field)
        except RecipeError as error:
            log.info("%s: %s is used instead of %s: %s", field, present, name, error.message)
        else:
            log.info("%s: %s is used instead of %s", field, chosen[role], present)
    update = {"components": recipe.components.model_copy(update=chosen), "preferred": type(recipe.preferred)()}
    return recipe.model_copy(update=update)


def _pinned(section: Section, name: str, keys: Sequence[str]) -> Section:
    given = {key: getattr(section, key) for key in keys}
    return section.model_copy(update={key: pin(one, f"{name}.{key}") for key, one in given.items() if one})


def pin(name: str, field: str) -> str:
    """Adds the newest commit to a hub id without a revision; returns any other name unchanged.

    Asks the hub; if it does not answer, takes the commit in this machine's cache.

    Raises:
        RecipeError: neither hub nor cache has a commit; names ``field``.
    """
    if name.startswith(NO_HUB_ID) or name.endswith((".safetensors", ".pth")) or "@" in name or Path(name).exists():
        return name
    return f"{name}@{_commit('/'.join(name.split('/')[:2]), field)}"


def _commit(repository: str, field: str) -> str:
    """The newest commit of a repository according to the hub or, if that does not answer, the cache."""
    import httpx2  # of huggingface_hub
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        found = HfApi().model_info(repository, timeout=SECONDS, expand=["sha"]).sha
        if found:
            return found
        reason = "the repository has no commit"
    except HFValidationError as error:
        raise RecipeError(f"{repository!r} is not a hub id: {_line(error)}", field=field) from None
    except (httpx2.HTTPError, OSError) as error:
        reason = _line(error)
    cached = _cached_commit(repository)
    if cached is None:
        remedy = "go online once, name a revision (NAME@COMMIT), or give a local folder"
        raise RecipeError(
            f"{repository} is not in the cache and the hub gave no commit ({reason}); {remedy}", field=field
        )
    log.info("%s: using %s at the cached commit %s; the hub gave none (%s)", field, repository, cached, reason)
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
