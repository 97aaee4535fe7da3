"""The dashboards ask for metrics that there are, by tags that they have."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import INFRA, ROOT, compose

SUFFIXES = re.compile(r"_(bucket|sum|count)$")
BOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in (INFRA / "grafana").glob("*.json")}
OURS = {"serving": "serve/deploy/gauges.py", "training": "ray_jobs/shared/gauges.py"}


def defined(path: str) -> dict[str, set[str]]:
    """Metric → tags, read from the source: making them needs a running Ray."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    metrics = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            tags = [keyword.value for keyword in node.keywords if keyword.arg == "tag_keys"]
            if tags:
                told = constants[tags[0].id] if isinstance(tags[0], ast.Name) else tags[0]
                metrics[f"ray_{ast.literal_eval(node.args[0])}"] = set(ast.literal_eval(told))
    return metrics


def asked(board: dict[str, Any]) -> Iterator[tuple[str, set[str], set[str]]]:
    """``(title, metrics, tags)`` of every expression."""
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = {SUFFIXES.sub("", name) for name in re.findall(r"ray_\w+", target["expr"])}
            assert names, target
            tags = {tag for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for tag in re.split(r",\s*", by)}
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= tags, (panel["title"], "a legend names a tag that the sum has dropped")
            yield panel["title"], names, tags


@pytest.mark.parametrize("name", OURS)
def test_every_expression_asks_for_what_we_measure(name: str) -> None:
    metrics, seen = defined(OURS[name]), set()
    for title, names, tags in asked(BOARDS[name]):
        seen |= names
        for metric in names:
            assert tags - {"le"} <= metrics[metric], (title, metric)
    assert seen == set(metrics), "a metric that nobody looks at"


def test_every_expression_asks_for_what_ray_measures() -> None:
    """Ray's own dashboards, which it ships with, and its agent say what its metrics are called and tagged."""
    import ray.dashboard.modules as modules

    (folder,) = modules.__path__
    agent = (Path(folder) / "reporter" / "reporter_agent.py").read_text("utf-8")
    text = agent + "".join(path.read_text("utf-8") for path in (Path(folder) / "metrics").rglob("*_panels.py"))
    known = {SUFFIXES.sub("", name) for name in re.findall(r"ray_\w+", text)}
    known |= {f"ray_{name}" for name in re.findall(r'"(\w+)": Gauge\(', agent)}
    for title, names, tags in asked(BOARDS["ray"]):
        assert names <= known, (title, names - known)
        assert all(re.search(rf"\b{tag}\b", text) for tag in tags), (title, tags)


def test_grafana_finds_dashboards_and_data() -> None:
    provisioning = INFRA / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "mmface.yaml").read_text("utf-8"))["providers"]
    mounts = [volume.split(":")[:2] for volume in compose()["services"]["grafana"]["volumes"]]
    assert ["../grafana", provider["options"]["path"]] in mounts
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS) == 3
