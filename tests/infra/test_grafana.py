"""The dashboards ask for metrics that the service has, by tags that it sets."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def defined() -> dict[str, set[str]]:
    """Metric → tags, read from the source: making them needs a running Ray."""
    metrics = {}
    for node in ast.walk(ast.parse((ROOT / "serve" / "gauges.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            tags = [keyword.value for keyword in node.keywords if keyword.arg == "tag_keys"]
            if tags:
                metrics[f"ray_{ast.literal_eval(node.args[0])}"] = set(ast.literal_eval(tags[0]))
    return metrics


def test_every_expression_asks_for_what_there_is() -> None:
    metrics, asked = defined(), set()
    board = json.loads((ROOT / "infra" / "grafana" / "serving.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = [SUFFIXES.sub("", name) for name in re.findall(r"ray_mmface_\w+", target["expr"])]
            assert names, target
            asked.update(names)
            tags = set().union(*(re.split(r",\s*", by) for by in re.findall(r"by \(([^)]*)\)", target["expr"])))
            for name in names:
                assert tags - {"le"} <= metrics[name], (panel["title"], name)
    assert asked == set(metrics), "a metric that nobody looks at"
