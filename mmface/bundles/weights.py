"""Finds trained transformers by name, for ``train.start`` and ``mmface convert`` (§4, §8).

A name is ``scratch`` (random weights) or one of:

- a released checkpoint: a folder as the authors publish it (``…/checkpoint-N/dit_model_weights_ema.safetensors``), a
  folder with a single weight file, or the file itself (``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` with tensors
  only);
- a folder with a bundle, or with a transformer saved by diffusers;
- ``zoo:base``, the transformer of the zoo, trained on drawn portraits;
- ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``: a registered bundle;
- ``owner/name[/folder][@revision]``: a hub id of a repository with one of the first two.

This module needs no torch; :mod:`mmface.bundles.released` and :mod:`mmface.train.start` load the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmface.bundles.aliases import get_alias
from mmface.bundles.moves import CHAMPION
from mmface.config import Recipe
from mmface.errors import RecipeError
from mmface.networks import hub
from mmface.networks.components import component_identity
from mmface.networks.places import resolve

if TYPE_CHECKING:
    from mmface.bundles.bundle import Bundle

log = logging.getLogger(__name__)

SCRATCH = "scratch"
FIELD = "train.start"
REGISTERED = "models:/"

AUTHORS_FILE = "dit_model_weights_ema.safetensors"
AT_ITS_ROOT = ("config.json", "*.safetensors", "*.safetensors.index.json")  # files of a saved transformer's folder
PICKLED = (".pt", ".pth", ".bin")
# Files that a checkpoint holds besides the weights.
_NO_WEIGHTS = re.compile(r"optimizer|scheduler|random_states|ema_state|training_args")


@dataclass(frozen=True)
class Weights:
    """The location of weights.

    Attributes:
        path: the file of a released checkpoint, or the folder of a transformer that diffusers loads.
    """

    path: Path

    @property
    def released(self) -> bool:
        """Whether the weights are a released checkpoint: a plain state dict in one file."""
        return self.path.is_file()


@contextmanager
def found_weights(name: str, field: str = FIELD) -> Iterator[Weights]:
    """A context with the weights called ``name``, which are downloaded if necessary.

    Raises:
        RecipeError: no weights or several were found; names ``field``.
        RegistryError, ServiceError: the registry has no such model, or cannot be reached.
    """
    if name.startswith(REGISTERED):
        from mmface.bundles.registry import fetched_bundle, find_version

        model, which = registered(name, field)
        with fetched_bundle(model, find_version(model, which)[0]) as folder:
            yield Weights(folder / "transformer")
        return
    path = Path(resolve(name)).expanduser()
    yield Weights(path if path.is_file() else _look(path if path.is_dir() else _download(name, field), field))


def weights_identity(name: str) -> str:
    """The identity of weights in a fingerprint: a hash of their bytes, or the hub id with its revision.

    Raises:
        RecipeError, RegistryError, ServiceError: see :func:`found_weights`.
    """
    if name.startswith(REGISTERED):
        from mmface.bundles.registry import find_version

        return f"bundle:{find_version(*registered(name))[1][:16]}"
    path = Path(resolve(name)).expanduser()
    if not path.exists() and not _is_local(name):
        return f"hub:{name}"
    with found_weights(name) as found:
        return f"released:{file_hash(found.path)[:16]}" if found.released else component_identity(str(found.path))


def bundle_identity(place: str) -> str:
    """The identity of a bundle in a fingerprint, the same for a registered version and for a folder with its files.

    Args:
        place: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or a folder.

    Raises:
        RecipeError, RegistryError, ServiceError: there is no such version, or the folder is not a complete bundle.
    """
    if place.startswith(REGISTERED):
        return weights_identity(place)
    from mmface.bundles.bundle import bundle_fingerprint, require_bundle

    folder = Path(place).expanduser()
    require_bundle(folder)
    return f"bundle:{bundle_fingerprint(folder)[:16]}"


def open_bundle(place: str) -> Bundle:
    """Loads the bundle that :func:`bundle_identity` identifies."""
    if place.startswith(REGISTERED):
        from mmface.bundles.registry import load_bundle

        return load_bundle(*registered(place, "model"))
    from mmface.bundles.bundle import read_bundle

    return read_bundle(Path(place).expanduser())


def pin(name: str) -> str:
    """Replaces an alias by the version that holds it now, and a hub id by its current commit.

    So the weights stay the same for a whole run.

    Raises:
        RecipeError, RegistryError, ServiceError: the model does not exist, or the version or commit cannot be found.
    """
    if not name.startswith(REGISTERED):
        return name if _is_local(name) else hub.pin(name, FIELD)
    from mmface.bundles.registry import find_version

    model, which = registered(name)
    return f"{REGISTERED}{model}/{find_version(model, which)[0]}"


def pin_start(recipe: Recipe) -> Recipe:
    """The recipe with ``train.start`` pinned by :func:`pin`, because another run may move the alias in the meantime.

    If the recipe starts from the champion of its own model and there is no champion yet, training starts from scratch,
    so that the first run of a schedule can make the first champion.
    """
    start, name = recipe.train.start, recipe.serve.model_name
    if start == f"{REGISTERED}{name}@{CHAMPION}" and get_alias(name, CHAMPION) is None:
        log.info("train: %s has no %s yet; training starts from scratch", name, CHAMPION)
        pinned = SCRATCH
    else:
        pinned = pin(start)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"start": pinned})})


def registered(name: str, field: str = FIELD) -> tuple[str, str]:
    """Parses ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``: the model, and the alias or version."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@|/)([^/@]+)", name)
    if match is None:
        message = f"{name!r} is not a registered model: write models:/NAME@ALIAS or models:/NAME/VERSION"
        raise RecipeError(message, field=field)
    return match[1], match[2]


def file_hash(file: Path) -> str:
    """SHA-256 of a file in hex, cached until size or time of the file change."""
    stat = file.stat()
    return _file_hash(file.absolute(), stat.st_size, stat.st_mtime_ns)


@lru_cache
def _file_hash(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _look(folder: Path, field: str) -> Path:
    """Finds the weights in a folder: the folder of a transformer, or the file of a released checkpoint."""
    for place in (folder / "transformer", folder):
        if _is_transformer(place / "config.json"):
            return place
    for candidates in (
        sorted(folder.rglob(AUTHORS_FILE)),
        sorted(folder.glob("*.safetensors")),
        sorted(path for path in folder.iterdir() if path.suffix in PICKLED and not _NO_WEIGHTS.search(path.name)),
    ):
        if len(candidates) > 1:
            named = ", ".join(path.relative_to(folder).as_posix() for path in candidates[:4])
            raise RecipeError(f"{folder} holds several weight files: {named}; name one of them", field=field)
        if candidates:
            return candidates[0]
    wanted = f"a bundle, a transformer, {AUTHORS_FILE} or a single weight file"
    raise RecipeError(f"{folder} holds no weights; name a folder with {wanted}", field=field)


def _is_transformer(config: Path) -> bool:
    if not config.is_file():
        return False
    tree: Any = json.loads(config.read_text(encoding="utf-8"))
    return isinstance(tree, dict) and tree.get("_class_name") == "MMFaceDiT"


def _is_local(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") == 0


def _download(name: str, field: str) -> Path:
    if _is_local(name):
        message = f"there is no folder or file {name}; use scratch, weights, a bundle, models:/NAME@ALIAS or a hub id"
        raise RecipeError(message, field=field)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    place, _, revision = name.partition("@")
    owner, repository, *inside = place.split("/")
    folder = "/".join(inside)
    prefix = f"{folder}/" if folder else ""
    try:
        root = snapshot_download(
            f"{owner}/{repository}",
            revision=revision or None,
            allow_patterns=[f"{prefix}{name}" for name in (f"*{AUTHORS_FILE}", "transformer/*", *AT_ITS_ROOT)],
        )
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"{name} is not a local path and was not found on the hub ({reason})", field=field) from None
    return Path(root) / folder
