"""The origin of an image: from its metadata or watermark to version, MLflow run, bundle, datasets and collections (§8).

The lineage of a version lies in its bundle, so it is known even after its datasets were removed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mmface.bundles.lineage import LINEAGE, model_names, run_summary
from mmface.bundles.registry import list_versions, read_file
from mmface.datasets.manifest import MANIFEST
from mmface.errors import InputError, RegistryError
from mmface.store import Store

if TYPE_CHECKING:
    from serve.pictures.watermark import Mark


@dataclass(frozen=True)
class Claim:
    """What an image tells about its origin.

    Attributes:
        evidence: ``metadata`` or ``watermark``.
        model: name in the registry.
        version: number in the registry.
        settings: seed, request id, steps and so on; empty for a watermark.
    """

    evidence: str
    model: str
    version: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A dataset in the lineage of a version.

    Attributes:
        name: ``<stage>/<fingerprint>``.
        published: whether this home still holds it.
    """

    name: str
    counts: dict[str, int]
    weights: dict[str, str]
    published: bool


@dataclass(frozen=True)
class Origin:
    """Where a registered version comes from.

    Attributes:
        registered: UTC, ISO 8601.
        run: id, name and status of the MLflow run.
        bundle: fingerprint of the bundle.
        datasets: by name of the stage.
        collections: entries of ``sources`` with their licences.
        facts: what the lineage says besides datasets, for example of a converted checkpoint.
    """

    model: str
    version: str
    aliases: tuple[str, ...]
    registered: str
    run: dict[str, str]
    bundle: str
    datasets: tuple[Source, ...] = ()
    collections: tuple[dict[str, Any], ...] = ()
    facts: dict[str, str] | None = None


def read_claim(data: bytes, field: str) -> Claim:
    """What an image file tells about its origin, from its metadata or else from its watermark.

    Raises:
        InputError: no image, not made by MMFace, or of a model that the registry does not know.
        ServiceError: a watermark was found, and MLflow, which knows the names of models, cannot be reached.
    """
    import numpy as np

    from mmface.data.sources import open_image
    from serve.pictures.provenance import read
    from serve.pictures.watermark import detect

    pixels = np.asarray(open_image(data, field=field))
    stated = read(data)
    if stated is not None and stated.model and stated.version:
        settings = {name: value for name, value in stated.known().items() if name not in ("model", "version")}
        return Claim("metadata", stated.model, stated.version, settings)
    mark = detect(pixels)
    if mark is None:
        message = "has neither metadata of MMFace nor its watermark: another program made it, or it was cut or redrawn"
        raise InputError(message, field=field)
    return Claim("watermark", _model(mark, field), str(mark.version), {})


def origin_of(model: str, version: str, home: Store) -> Origin:
    """The origin of a registered version.

    Raises:
        RegistryError: this registry has no such version, or its lineage is damaged.
        ServiceError: MLflow cannot be reached.
    """
    versions = list_versions(model)
    found = next((one for one in versions if one.version == version), None)
    if found is None:
        known = ", ".join(one.version for one in versions) or "none"
        message = f"version {version} is not in this registry (it has: {known}): it was deleted, or belongs to another"
        raise RegistryError(f"{message}; set MLFLOW_TRACKING_URI to the registry that served the image", field=model)
    when = datetime.fromtimestamp(found.created, UTC).isoformat(timespec="seconds")
    origin = Origin(model, version, found.aliases, when, run_summary(found.run_id), found.fingerprint)
    try:
        tree = json.loads(read_file(model, version, LINEAGE))
        return _with_datasets(origin, tree, home)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        message = f"{LINEAGE} of version {version} is damaged ({error}); register the bundle again"
        raise RegistryError(message, field=model) from None


def _with_datasets(origin: Origin, tree: dict[str, Any], home: Store) -> Origin:
    made = {stage: entry for stage, entry in tree.items() if isinstance(entry, dict) and "dataset" in entry}
    sources = tuple(
        Source(
            name=entry["dataset"].removeprefix("datasets/"),
            counts=entry.get("counts", {}),
            weights=entry.get("weights", {}),
            published=home.exists(f"{entry['dataset']}/{MANIFEST}"),
        )
        for entry in made.values()
    )
    collections = tuple(
        {name: one.get(name) for name in ("name", "licence", "pictures", "images")}
        for entry in made.values()
        for one in entry.get("sources", ())
    )
    facts = {name: str(value) for name, value in tree.items() if name not in made}
    return replace(origin, datasets=sources, collections=collections, facts=facts)


def _model(mark: Mark, field: str) -> str:
    """The registered model whose name a watermark abbreviates."""
    from serve.pictures.watermark import name_code

    if not mark.version:
        raise InputError(
            "has the watermark of a preview or of an unregistered model, which has no lineage", field=field
        )
    names = [name for name in model_names() if name_code(name) == mark.name]
    if len(names) != 1:
        found = f"{' and '.join(names)} match" if names else "no model of this registry matches"
        message = f"its watermark names version {mark.version} of a model whose name has the code {mark.name}; {found}"
        raise InputError(f"{message}; see mmface watermark check --model NAME", field=field)
    return names[0]
