"""Datasets as OpenLineage describes them: names, schemas, versions, and what became of the rows of a stage (§8).

Needs the extra ``lineage``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import attr
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    InputDatasetFacet,
    OutputDatasetFacet,
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    dataset_version_dataset,
    documentation_dataset,
    input_statistics_input_dataset,
    output_statistics_output_dataset,
    schema_dataset,
    storage_dataset,
    tags_dataset,
)

from mmface.datasets.dataset import Dataset, open_dataset
from mmface.datasets.inventory import FOLDER, Held, named_in
from mmface.datasets.manifest import Manifest
from mmface.errors import DatasetError
from mmface.store import Store

PRODUCER = f"urn:mmface:{version('mmface')}"
ENGINE = "MMFace"


@attr.define
class RowsFacet(OutputDatasetFacet):
    """What became of the rows that a stage read: in = out + quarantined + duplicates + filtered (§6)."""

    rowsIn: int
    rowsOut: int
    quarantined: int
    duplicates: int
    filtered: int

    @staticmethod
    def _get_schema() -> str:
        return "urn:mmface:facets:rows:1"


def inputs_of(home: Store, manifest: Manifest) -> list[InputDataset]:
    """The datasets that a stage read; the collections, for the stage that reads photographs."""
    sources = manifest.extra.get("sources", ())
    # An evaluation set does not depend on the datasets that it was chosen from, so they are not among its inputs.
    chosen = [f"{home.uri}/{FOLDER}/{name}" for name in manifest.extra.get("chosen_from", {}).values()]
    found = [(source(uri), _row_count(uri)) for uri in [*manifest.inputs.values(), *chosen]]
    found += [(_collection(home, one), one["pictures"]) for one in sources]
    counts = manifest.counts
    for dataset, rows in found:
        if rows is not None and rows == counts.get("in"):  # the input whose rows the stage mapped
            dataset.inputFacets = _read(counts)
            break
    return [dataset for dataset, _ in found]


def _row_count(uri: str) -> int | None:
    """The number of rows of a dataset; None if it was removed, or is no table."""
    try:
        parts = open_dataset(uri).parts()
    except DatasetError:
        return None
    return sum(file.rows or 0 for file in parts) if parts else None


def _read(counts: Mapping[str, int]) -> dict[str, InputDatasetFacet]:
    """Facets of the input whose rows were mapped: their number, and how many could not be used."""
    lost = counts.get("quarantined", 0)
    usable = data_quality_assertions_dataset.Assertion(
        assertion="row_usable",
        success=lost == 0,
        severity="warn",
        name="quarantined",
        description="Rows of the input that the stage could not use; they are quarantined with their reasons.",
        expected="0",
        actual=str(lost),
    )
    return {
        "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=counts["in"], producer=PRODUCER
        ),
        "dataQualityAssertions": data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
            assertions=[usable], producer=PRODUCER
        ),
    }


def source(uri: str) -> InputDataset:
    """A dataset that a stage read."""
    fingerprint = uri.rstrip("/").rpartition("/")[2]
    return InputDataset(*_name(uri), facets=_version(fingerprint))


def _collection(home: Store, photographs: Mapping[str, Any]) -> InputDataset:
    """A collection of photographs with its licence."""
    place = str(photographs["images"])
    drawn = named_in(place)[:1]  # a collection that MMFace drew is itself a dataset
    if drawn:
        name, facets = _name(f"{home.uri}/{drawn[0]}"), _version(drawn[0].rpartition("/")[2])
    else:
        name, facets = _address(place), {}
    text = f"Collection {photographs['name']}: {photographs['pictures']} photographs, licence {photographs['licence']}"
    licence = tags_dataset.TagsDatasetFacetFields(key="licence", value=photographs["licence"], source=ENGINE)
    facets["documentation"] = documentation_dataset.DocumentationDatasetFacet(description=text, producer=PRODUCER)
    facets["tags"] = tags_dataset.TagsDatasetFacet(tags=[licence], producer=PRODUCER)
    return InputDataset(*name, facets=facets)


def output_of(home: Store, one: Held, dataset: Dataset) -> OutputDataset:
    """A published dataset that a stage wrote."""
    manifest, tables = dataset.manifest, any(file.path.endswith(".parquet") for file in dataset.parts())
    counts, files = manifest.counts, manifest.files
    rows, size = one.rows if tables else counts.get("out"), sum(file.size for file in files)
    layer = urlsplit(home.uri).scheme or "file"
    facets = _version(manifest.fingerprint)
    facets["storage"] = storage_dataset.StorageDatasetFacet(
        storageLayer=layer, fileFormat="parquet" if tables else None, producer=PRODUCER
    )
    facets["dataQualityMetrics"] = data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(
        columnMetrics={}, rowCount=rows, bytes=size, fileCount=len(files), producer=PRODUCER
    )
    if tables:
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=column.name, type=str(column.type), ordinal_position=place)
            for place, column in enumerate(dataset.schema, 1)
        ]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields, producer=PRODUCER)
    written: dict[str, OutputDatasetFacet] = {
        "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=rows, size=size, fileCount=len(files), producer=PRODUCER
        )
    }
    if "in" in counts:
        lost = (counts.get(name, 0) for name in ("quarantined", "duplicates", "filtered"))
        written["mmface_rows"] = RowsFacet(counts["in"], counts.get("out", 0), *lost, producer=PRODUCER)
    return OutputDataset(*_name(dataset.uri), facets=facets, outputFacets=written)


def _version(fingerprint: str) -> dict[str, DatasetFacet]:
    return {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=fingerprint, producer=PRODUCER)
    }


def _name(uri: str) -> tuple[str, str]:
    """Namespace and name of the dataset at ``uri``, without its fingerprint."""
    return _address(uri.rstrip("/").rpartition("/")[0])


def _address(place: str) -> tuple[str, str]:
    """Namespace and name of a place by OpenLineage's convention: ``s3://bucket`` and key, or ``file`` and path."""
    parts = urlsplit(place)
    if parts.scheme in ("", "file"):
        return "file", parts.path or place
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")
