"""JSON Schemas of OpenLineage's events and facets, and a check of events against them.

OpenLineage generates the classes of its Python client from the published schemas. The fields, types and required
properties come from these classes and are checked on the JSON that is sent, since the classes do not check types. The
names of facets are those of https://openlineage.io/spec/facets.
"""

from __future__ import annotations

import types
from enum import Enum
from typing import Any, Union, get_args, get_origin

import attr
from jsonschema import Draft202012Validator
from openlineage.client.event_v2 import RunEvent
from openlineage.client.generated.base import BaseEvent, BaseFacet

FACETS = {
    "run": {
        "parent": "ParentRun",
        "processing_engine": "ProcessingEngineRun",
        "errorMessage": "ErrorMessageRun",
        "tags": "TagsRun",
    },
    "job": {"jobType": "JobTypeJob"},
    "dataset": {
        "version": "DatasetVersionDataset",
        "schema": "SchemaDataset",
        "storage": "StorageDataset",
        "dataQualityMetrics": "DataQualityMetricsDataset",
        "documentation": "DocumentationDataset",
        "tags": "TagsDataset",
    },
    "input": {
        "inputStatistics": "InputStatisticsInputDataset",
        "dataQualityAssertions": "DataQualityAssertionsDataset",
    },
    "output": {"outputStatistics": "OutputStatisticsOutputDataset", "mmface_rows": "Rows"},
}
KINDS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: {},
}
FORMATS = {"eventTime": "date-time", "runId": "uuid", "_producer": "uri", "producer": "uri", "_schemaURL": "uri"}


def check_event(event: dict[str, Any]) -> None:
    """Raises jsonschema's ValidationError or AssertionError unless the event and each of its facets are valid."""
    _validate(event, schema_of(RunEvent))
    assert event["schemaURL"] == RunEvent._get_schema()
    _check_facets(event["run"], "facets", "run")
    _check_facets(event["job"], "facets", "job")
    for side, own in (("inputs", "input"), ("outputs", "output")):
        for dataset in event[side]:
            _check_facets(dataset, "facets", "dataset")
            _check_facets(dataset, f"{own}Facets", own)


def schema_of(made: Any, above: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The JSON Schema of a class of the client, with nested classes in place; nested in itself, any object."""
    if made in above:
        return {"type": "object"}
    attr.resolve_types(made)
    fields = attr.fields(made)
    required = [one.name for one in fields if one.default is attr.NOTHING]
    base = next((base for base in (BaseEvent, BaseFacet) if issubclass(made, base)), None)
    required += [] if base is None else [one.name for one in attr.fields(base)]
    return {
        "type": "object",
        "properties": {one.name: _kind(one.type, (*above, made)) | _format(one.name) for one in fields},
        "required": sorted(set(required)),
        "additionalProperties": False,
    }


def _check_facets(owner: dict[str, Any], key: str, kind: str) -> None:
    for name, facet in owner.get(key, {}).items():
        title = f"{FACETS[kind][name]}Facet"
        made = next(one for one in _subclasses(BaseFacet) if one.__name__ == title)
        _validate(facet, schema_of(made))
        assert facet["_schemaURL"] == made._get_schema()


def _validate(value: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def _kind(kind: Any, above: tuple[Any, ...]) -> dict[str, Any]:
    origin, given = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in given if one is not type(None))
        return _kind(inner, above)
    if origin is list:
        return {"type": "array", "items": _kind(given[0], above)}
    if origin is dict:
        facets = isinstance(given[1], type) and issubclass(given[1], BaseFacet)  # checked one by one
        return {"type": "object", "additionalProperties": {} if facets else _kind(given[1], above)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [one.value for one in kind]}
    return KINDS[kind] if kind in KINDS else schema_of(kind, above)


def _format(name: str) -> dict[str, str]:
    return {"format": FORMATS[name]} if name in FORMATS else {}


def _subclasses(made: type) -> list[Any]:
    return [one for direct in made.__subclasses__() for one in (direct, *_subclasses(direct))]
