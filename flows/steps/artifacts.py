"""The Prefect artifacts of a flow run: tables, images and links."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from mmface.bundles import tracking
from mmface.datasets.dataset import Dataset, upstream
from mmface.evaluate.deciding.decision import Decision
from mmface.evaluate.report import chart

COUNTS = ("in", "out", "quarantined", "duplicates", "filtered")
REASONS = 20
SIDE = 1600  # pixels of the sample grid, which Prefect stores in its database
# An SVG file has no page to take its styles from.
STYLE = (
    "<style>polyline{fill:none;stroke-width:2}.faint{stroke:#bbb;stroke-width:1}.mask{stroke:#1f77b4}"
    ".sketch{stroke:#d62728}.rule{stroke:#ddd}.border{stroke:#999;stroke-dasharray:3 4}"
    ".tick{fill:#777;font:12px sans-serif}</style>"
)


def show_tracking(mlflow_run: str | None) -> None:
    """Links the MLflow run if MLflow has a web page."""
    uri = tracking.tracking_uri()
    if mlflow_run and uri.startswith("http"):
        experiment = tracking.experiment_of(mlflow_run)
        link = f"{uri}/#/experiments/{experiment}/runs/{mlflow_run}"
        create_link_artifact(link, f"MLflow run {mlflow_run}", "mlflow-run")


def show_datasets(ends: Sequence[str], made: Collection[str]) -> None:
    """Shows a table of every stage that led to ``ends``, and a table of the quarantined rows.

    Args:
        made: stages that this run computed; the others were found published.
    """
    found: dict[str, Dataset] = {}
    for uri in ends:
        found |= upstream(uri)
    create_table_artifact([_row(dataset, made) for dataset in found.values()], "stages", "Stages of this run")
    reasons: Counter[tuple[str, str, str]] = Counter()
    for stage, dataset in found.items():
        if dataset.manifest.counts.get("quarantined"):
            reasons.update((stage, row["error"], row["message"]) for row in dataset.quarantine().to_pylist())
    table = [
        {"stage": stage, "error": error, "message": message, "rows": count}
        for (stage, error, message), count in reasons.most_common(REASONS)
    ]
    rows = sum(reasons.values())
    create_table_artifact(table, "data-quality", f"{rows} quarantined rows; mmface quarantine list shows them")


def show_loss(trained: str) -> None:
    """Shows the loss of all phases on one axis of steps."""
    lines: list[chart.Line] = []
    borders: list[tuple[float, str]] = []
    for stage, offset, history in chart.histories(upstream(trained)):
        borders.append((offset, stage))
        points = [(offset + entry["step"], float(entry["loss"])) for entry in history]
        lines += [chart.Line("loss", "faint", points), chart.Line("smoothed", "mask", chart.smooth(points))]
    drawn = chart.line_chart(lines, label="steps", borders=borders)
    if drawn:
        opening, closing, rest = drawn.partition(">")
        svg = f'{opening} xmlns="http://www.w3.org/2000/svg"{closing}{STYLE}{rest}'
        data = base64.b64encode(svg.encode()).decode()
        create_image_artifact(f"data:image/svg+xml;base64,{data}", "loss", "Training loss")


def show_grid(bundle: str, rows: int) -> None:
    """Shows ``rows`` held-out rows of each modality: condition, generated image, photograph."""
    from mmface.evaluate.report.pictures import grid, inline

    picture = grid(upstream(bundle)["samples"], rows)
    create_image_artifact(inline(picture, SIDE), "samples", "Condition, generated, photograph")


def show_decision(version: str, decision: Decision, metrics: Mapping[str, float]) -> None:
    """Shows the decision of the gate with each check, and the metrics."""
    lines = [
        f"# Version {version} {decision.verdict}: {decision.reason}",
        "",
        "| check | outcome | why |",
        "|---|---|---|",
    ]
    lines += [f"| {check.name} | {check.outcome} | {check.reason} |" for check in decision.checks]
    lines += ["", "| metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in sorted(metrics.items())]
    create_markdown_artifact("\n".join(lines), "gate")


def show_report(uri: str) -> None:
    """Shows the address of the HTML report."""
    create_markdown_artifact(f"Report of this release: `{uri}`, also the artifact `report` in MLflow.", "report")


def _row(dataset: Dataset, made: Collection[str]) -> dict[str, object]:
    manifest = dataset.manifest
    counts = {name: manifest.counts.get(name, "") for name in COUNTS}
    origin = "made" if manifest.stage in made else "found"
    reused = manifest.extra.get("reused", "")
    return {
        "stage": manifest.stage,
        "dataset": manifest.fingerprint,
        "this run": origin,
        **counts,
        "reused": reused,
        "seconds": manifest.seconds,
    }
