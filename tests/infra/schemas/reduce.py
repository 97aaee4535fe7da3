"""Makes ``kuberay-v1.json`` of KubeRay's CRDs: ``python -m tests.infra.schemas.reduce FOLDER``.

Kept is what decides whether a manifest fits: no descriptions, and what is said more than once (a pod template, above
all) is said once. An object takes no fields beside those that it lists, where the API server would drop them silently.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

KINDS = ("rayclusters", "rayjobs", "rayservices")
UNUSED = {"description", "default"}
OPEN = "x-kubernetes-preserve-unknown-fields"
WORTH_SHARING = 120  # characters


def reduce(folder: Path) -> dict[str, Any]:
    """A JSON schema by kind, version v1, and their ``$defs``."""
    kinds = {}
    for name in KINDS:
        crd = yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        schema = _close(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        kinds[crd["spec"]["names"]["kind"]] = schema
    counts: Counter[str] = Counter()
    _count(kinds, counts)
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def share(node: Any) -> Any:
        if isinstance(node, list):
            return [share(each) for each in node]
        if not isinstance(node, dict):
            return node
        text = _text(node)
        if counts[text] < 2:
            return {key: share(value) for key, value in node.items()}
        if text not in names:
            names[text] = f"d{len(names)}"
            definitions[names[text]] = {key: share(value) for key, value in node.items()}
        return {"$ref": f"#/$defs/{names[text]}"}

    return {**{kind: share(schema) for kind, schema in kinds.items()}, "$defs": definitions}


def _close(schema: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: _close(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            made[key] = _close(value)
        elif key not in UNUSED and not key.startswith("x-kubernetes"):
            made[key] = value
    if "properties" in made and "additionalProperties" not in made and not schema.get(OPEN):
        made["additionalProperties"] = False
    return made


def _count(node: Any, counts: Counter[str]) -> None:
    if isinstance(node, dict):
        if ("type" in node or "anyOf" in node) and len(text := _text(node)) > WORTH_SHARING:
            counts[text] += 1
        for value in node.values():
            _count(value, counts)


def _text(node: dict[str, Any]) -> str:
    return json.dumps(node, sort_keys=True)


if __name__ == "__main__":
    made = json.dumps(reduce(Path(sys.argv[1])), indent=0, sort_keys=True)
    (Path(__file__).parent / "kuberay-v1.json").write_text(made + "\n", encoding="utf-8")
