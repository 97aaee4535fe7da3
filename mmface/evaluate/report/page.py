"""Renders the report of a retraining: one HTML file with inlined images, which needs no network and no script."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmface.config import Recipe
from mmface.config.guidance import DRAWING_SCALES, PROMPT_SCALES
from mmface.datasets.dataset import Dataset
from mmface.datasets.records import GUIDANCE, PREVIEWS
from mmface.evaluate.deciding.decision import Decision
from mmface.evaluate.deciding.gate import MASK_FRECHET
from mmface.evaluate.figures import Figure
from mmface.evaluate.measuring.metric_names import FrechetName
from mmface.evaluate.report import chart
from mmface.evaluate.report.pictures import choose, inline, inline_exact, inline_png, metrics_of, strip
from mmface.evaluate.report.templates import render_page

DRAWN = ("mask", "sketch")
# The figures at the top of the report: metric, title, title of the reference, metric of the reference.
HEADLINES = (
    ("mask/miou", "mask mIoU", "source photographs", "mask/source_miou"),
    ("mask/accuracy", "mask pixel accuracy", "", ""),
    ("mask/hair_colour_accuracy", "hair colour as prompted", "source photographs", "mask/source_hair_colour_accuracy"),
    ("sketch/edge_agreement", "sketch edge agreement", "without the sketch", "sketch/edge_agreement_baseline"),
    ("mask/clip_score", "CLIP score", "source photographs", "mask/source_clip_score"),
    ("mask/ssim", "SSIM to the source", "", ""),
)


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        recipe: the resolved recipe.
        datasets: every dataset of the run by stage, in the order of the stages
            (:func:`mmface.datasets.dataset.upstream`); must contain ``samples`` and ``scores``.
        metrics: from :func:`mmface.evaluate.deciding.summary.summarise`.
        decision: of the gate.
        version: number in the registry.
        champion: whether this version serves now.
        curl: the command that calls the served model.
        links: further lines of the lineage, such as the MLflow run.
        served: PNG that the served model returned, if it was called.
        figures: the metrics with their intervals.
        warnings: why the figures may be too good.
        failure: why a version that passed is not champion or not confirmed, and which version serves; empty otherwise.
    """

    recipe: Recipe
    datasets: Mapping[str, Dataset]
    metrics: Mapping[str, float]
    decision: Decision
    version: str
    champion: bool
    curl: str
    links: Mapping[str, str] = field(default_factory=dict)
    served: bytes | None = None
    failure: str = ""
    figures: Sequence[Figure] = ()
    warnings: Sequence[str] = ()


def render_report(report: Report) -> str:
    """Renders the HTML page; the same content gives the same bytes.

    Raises:
        KeyError: the datasets do not contain ``samples`` and ``scores``.
    """
    chosen = choose(report.datasets["samples"], report.recipe.evaluate.grid)
    figures = metrics_of(report.datasets["scores"])
    cards = {kind: [_card(row, figures[row["id"]]) for row in chosen if row["modality"] == kind] for kind in DRAWN}
    filters = {"figure": _figure, "seconds": _seconds, "jpeg": inline, "exact": inline_exact, "png": inline_png}
    previews = _previews(report.datasets)
    sheets = _sheets(previews)
    return render_page(
        "report.html",
        filters,
        report=report,
        manifests=[dataset.manifest for dataset in report.datasets.values()],
        headlines=_headlines(report),
        curve=_loss_curve(report.datasets),
        cards=cards,
        strip=strip(sheets) if sheets else None,
        guidance=previews.get(GUIDANCE),
        scales={"prompt": PROMPT_SCALES, "drawing": DRAWING_SCALES},
        collections=_collections(report.datasets),
        quarantine=_quarantine(report.datasets),
        example=chosen[0] if chosen else None,
    )


def _previews(datasets: Mapping[str, Dataset]) -> dict[str, bytes]:
    """The previews that the phases stored, by name."""
    found: dict[str, bytes] = {}
    for stage, dataset in datasets.items():
        if stage.startswith("train-"):
            places = [file.path for file in dataset.manifest.files if file.path.startswith(f"{PREVIEWS}/")]
            found |= {place.removeprefix(f"{PREVIEWS}/"): dataset.read(place) for place in places}
    return found


def _sheets(previews: Mapping[str, bytes]) -> list[tuple[int, bytes]]:
    names = sorted(name for name in previews if name.startswith("step-"))
    return [(int(name.removeprefix("step-").removesuffix(".png")), previews[name]) for name in names]


def _headlines(report: Report) -> list[dict[str, Any]]:
    metrics, known = report.metrics, {figure.name: figure for figure in report.figures}
    titles = [(name, title, against, reference) for name, title, against, reference in HEADLINES if name in metrics]
    titles += [
        (name, f"Fréchet distance ({_measured(name)})", "", "") for name in metrics if name.startswith(MASK_FRECHET)
    ]
    return [
        {
            "title": title,
            "value": metrics[name],
            "against": against,
            "reference": metrics.get(reference),
            "low": known[name].low if name in known else None,
            "high": known[name].high if name in known else None,
        }
        for name, title, against, reference in titles
    ]


def _measured(name: str) -> str:
    """The parts of a Fréchet distance's name, as readable text."""
    known = FrechetName.parse(name)
    if known is None:
        extractor, _, images = name.removeprefix(MASK_FRECHET).rpartition("_n")
        return f"{extractor}, {images} images"
    return f"{known.extractor} {known.weights}, {known.n} images {known.rows} at {known.resolution} px"


def _loss_curve(datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    """The loss of all phases on one axis of steps: as logged, and by modality, smoothed within each phase."""
    lines: list[chart.Line] = []
    borders: list[tuple[float, str]] = []
    steps = 0
    for stage, offset, history in chart.histories(datasets):
        borders.append((offset, f"phase {len(borders) + 1}: {stage.rsplit('-', 1)[-1]} px"))
        for name, style in (("loss", "faint"), ("loss_mask", "mask"), ("loss_sketch", "sketch")):
            points = [(offset + entry["step"], float(entry[name])) for entry in history if name in entry]
            lines.append(chart.Line(name, style, points if name == "loss" else chart.smooth(points)))
        steps = offset + max((int(entry["step"]) for entry in history), default=0)
    return {
        "svg": chart.line_chart(lines, label="steps", borders=borders),
        "steps": steps,
        "phases": len(borders),
    }


def _card(row: Mapping[str, Any], figures: Mapping[str, float]) -> dict[str, Any]:
    if row["modality"] == "mask":
        notes = [f"mIoU {_figure(figures['miou'])}"]
        if "hair_colour_accuracy" in figures:
            notes.append("hair colour right" if figures["hair_colour_accuracy"] == 1 else "hair colour wrong")
    else:
        notes = [f"edge agreement {_figure(figures['edge_agreement'])}"]
    return {**row, "notes": notes}


def _collections(datasets: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """A table row for the photographs of each collection and one for each of its sidecars.

    Datasets of earlier releases have no sidecars.
    """
    rows = []
    for one in datasets["images"].manifest.extra.get("sources", []) if "images" in datasets else []:
        ignored = one.get("ignored_suffixes", {"files": one["ignored_files"]})
        photographs = {"matched": one["pictures"], "uri": one["images"], "ignored_suffixes": ignored}
        rows += [{"name": one["name"], "of": "photographs", **photographs}]
        rows += [{"name": one["name"], "of": kind, **facts} for kind, facts in one.get("sidecars", {}).items()]
    return rows


def _quarantine(datasets: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """The most frequent reasons for quarantine, each with its number of rows and one example."""
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    for stage, dataset in datasets.items():
        for row in dataset.quarantine().to_pylist():
            reason = (stage, str(row["error"]), str(row["message"]))
            counts[reason] += 1
            examples.setdefault(reason, str(row["uri"]))
    return [
        {"stage": stage, "error": error, "message": message, "count": count, "example": examples[stage, error, message]}
        for (stage, error, message), count in counts.most_common(20)
    ]


def _figure(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "—"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 0.1 or abs(value) >= 100 else f"{value:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60} s"
