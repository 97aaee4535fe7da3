"""What a flow run shows in Prefect: tables, pictures and links as artifacts."""

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
from mmface.datasets.dataset import Dataset, open_dataset, upstream
from mmface.evaluate import chart
from mmface.evaluate.gate import Decision

COUNTS = ("in", "out", "quarantined", "duplicates", "filtered")
REASONS = 20
SIDE = 1600  # pixels of the sample grid: Prefect keeps it in its database
# A picture of its own has no page to take colours from.
STYLE = (
    "<style>polyline{fill:none;stroke-width:2}.faint{stroke:#bbb;stroke-width:1}.mask{stroke:#1f77b4}"
    ".sketch{stroke:#d62728}.rule{stroke:#ddd}.border{stroke:#999;stroke-dasharray:3 4}"
    ".tick{fill:#777;font:12px sans-serif}</style>"
)


def show_tracking(mlflow_run: str | None) -> None:
    """A link to the MLflow run, where MLflow has a page."""
    uri = tracking.tracking_uri()
    if mlflow_run and uri.startswith("http"):
        experiment = tracking.experiment_of(mlflow_run)
        link = f"{uri}/#/experiments/{experiment}/runs/{mlflow_run}"
        create_link_artifact(link, f"MLflow run {mlflow_run}", "mlflow-run")


def show_datasets(ends: Sequence[str], made: Collection[str]) -> None:
    """A table of every stage that led to ``ends``, and one of the rows that were set aside.

    Args:
        made: the stages that this run has made; it found the others.
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
    create_table_artifact(table, "data-quality", f"{rows} rows were set aside; mmface quarantine list shows them")


def show_loss(trained: str) -> None:
    """The loss of every phase over one axis of steps."""
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
    """``rows`` painted held-out rows of each modality: condition, picture, source."""
    from mmface.evaluate.pictures import grid, inline

    samples = open_dataset(open_dataset(bundle).manifest.inputs["samples"])
    picture = grid(samples.table(), rows)
    create_image_artifact(inline(picture, SIDE), "samples", "Condition, painted, source")


def show_decision(version: str, decision: Decision, metrics: Mapping[str, float]) -> None:
    """What the gate said, and the figures that it was asked about."""
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(metrics.items()))
    title = f"# Version {version} {'passed' if decision.passed else 'was turned down'}: {decision.reason}"
    create_markdown_artifact(f"{title}\n\n| metric | value |\n| --- | --- |\n{figures}", "gate")


def show_report(uri: str) -> None:
    """Where the HTML report is."""
    create_markdown_artifact(f"The report of this release: `{uri}`, and as `report` with the MLflow run.", "report")


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
