"""Trained transformers that training can start from and ``mmface convert`` brings in, by name (§4, §8).

``scratch``, or one of:

- a released checkpoint: a folder as the authors publish it (``…/checkpoint-N/dit_model_weights_ema.safetensors``), one
  with a single weight file, or the file itself (``.safetensors``; of ``.pt``, ``.pth`` and ``.bin`` tensors alone);
- a bundle, or a transformer that diffusers saved: a folder;
- ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``: a registered bundle;
- a hub id, ``owner/name[/folder][@revision]``, of the first or the second kind.

This module finds and names them without torch; :mod:`mmface.bundles.released` and :mod:`mmface.train.start` load them.
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
from typing import Any

from mmface.bundles.aliases import get_alias
from mmface.bundles.moves import CHAMPION
from mmface.config import Recipe
from mmface.errors import RecipeError
from mmface.networks import hub
from mmface.networks.components import component_identity

log = logging.getLogger(__name__)

SCRATCH = "scratch"
FIELD = "train.start"
REGISTERED = "models:/"

AUTHORS_FILE = "dit_model_weights_ema.safetensors"
AT_ITS_ROOT = ("config.json", "*.safetensors", "*.safetensors.index.json")  # of a folder that holds one transformer
PICKLED = (".pt", ".pth", ".bin")
# What an optimizer's checkpoint leaves beside the weights.
_NO_WEIGHTS = re.compile(r"optimizer|scheduler|random_states|ema_state|training_args")


@dataclass(frozen=True)
class Weights:
    """Where weights lie.

    Attributes:
        path: the file of a released checkpoint, or the folder of a transformer that diffusers loads.
    """

    path: Path

    @property
    def released(self) -> bool:
        """Whether they are a plain state dict with the authors' keys."""
        return self.path.is_file()


@contextmanager
def found_weights(name: str, field: str = FIELD) -> Iterator[Weights]:
    """The weights that ``name`` stands for, for as long as the context; fetched if they are elsewhere.

    Raises:
        RecipeError: there are none, or several; names ``field``.
        RegistryError, ServiceError: the registry has no such model, or cannot be reached.
    """
    if name.startswith(REGISTERED):
        from mmface.bundles.registry import fetched_bundle, find_version

        model, which = registered(name, field)
        with fetched_bundle(model, find_version(model, which)[0]) as folder:
            yield Weights(folder / "transformer")
        return
    path = Path(name).expanduser()
    yield Weights(path if path.is_file() else _look(path if path.is_dir() else _download(name, field), field))


def weights_identity(name: str) -> str:
    """What a fingerprint says about weights: a hash of their bytes, or the hub id with its revision.

    Raises:
        RecipeError, RegistryError, ServiceError: see :func:`found_weights`.
    """
    if name.startswith(REGISTERED):
        from mmface.bundles.registry import find_version

        return f"bundle:{find_version(*registered(name))[1][:16]}"
    path = Path(name).expanduser()
    if not path.exists() and not _is_local(name):
        return f"hub:{name}"
    with found_weights(name) as found:
        return f"released:{file_hash(found.path)[:16]}" if found.released else component_identity(str(found.path))


def pin(name: str) -> str:
    """``models:/NAME@ALIAS`` as the version that holds the alias now, and a hub id at its present commit.

    So they stay the same for a whole run.

    Raises:
        RecipeError, RegistryError, ServiceError: there is no such model, or nobody says which it is now.
    """
    if not name.startswith(REGISTERED):
        return name if _is_local(name) else hub.pin(name, FIELD)
    from mmface.bundles.registry import find_version

    model, which = registered(name)
    return f"{REGISTERED}{model}/{find_version(model, which)[0]}"


def pin_start(recipe: Recipe) -> Recipe:
    """The recipe with the alias in ``train.start`` pinned, since another run may move it meanwhile.

    Where the recipe goes on from the champion of its own model and there is none yet, training starts from scratch: the
    first run of a schedule makes the first champion.
    """
    start, name = recipe.train.start, recipe.serve.model_name
    if start == f"{REGISTERED}{name}@{CHAMPION}" and get_alias(name, CHAMPION) is None:
        log.info("train: %s has no %s yet; starting from scratch", name, CHAMPION)
        pinned = SCRATCH
    else:
        pinned = pin(start)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"start": pinned})})


def registered(name: str, field: str = FIELD) -> tuple[str, str]:
    """Model and alias or version of ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@|/)([^/@]+)", name)
    if match is None:
        raise RecipeError(f"{name!r}: write models:/NAME@ALIAS or models:/NAME/VERSION", field=field)
    return match[1], match[2]


def file_hash(file: Path) -> str:
    """SHA-256 of a file in hex; a file that did not change is read once."""
    stat = file.stat()
    return _file_hash(file.absolute(), stat.st_size, stat.st_mtime_ns)


@lru_cache
def _file_hash(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _look(folder: Path, field: str) -> Path:
    """The weights in a folder: a transformer's folder or a released file."""
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
            raise RecipeError(f"{folder} holds several weights: {named}; name one file", field=field)
        if candidates:
            return candidates[0]
    wanted = f"a bundle, a transformer, {AUTHORS_FILE} or a single weight file"
    raise RecipeError(f"{folder} holds no weights: {wanted} is looked for", field=field)


def _is_transformer(config: Path) -> bool:
    if not config.is_file():
        return False
    tree: Any = json.loads(config.read_text(encoding="utf-8"))
    return isinstance(tree, dict) and tree.get("_class_name") == "MMFaceDiT"


def _is_local(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") == 0


def _download(name: str, field: str) -> Path:
    if _is_local(name):
        message = f"no folder or file {name}; give scratch, weights, a bundle, models:/NAME@ALIAS or a hub id"
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
        raise RecipeError(f"{name} is neither here nor on the hub ({reason})", field=field) from None
    return Path(root) / folder
