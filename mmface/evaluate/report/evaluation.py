"""The report of an evaluation: systems measured on one evaluation set, as HTML, Markdown and JSON (§8)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mmface.datasets.dataset import Dataset, open_dataset
from mmface.evaluate.deciding.compare import Difference, compare
from mmface.evaluate.deciding.summary import Gap, by_group, summarise
from mmface.evaluate.figures import Figure
from mmface.evaluate.measuring.metric_names import FrechetName
from mmface.evaluate.report.pictures import choose, inline, inline_png, metrics_of, rows_of
from mmface.evaluate.report.templates import render_page
from mmface.evaluate.scores import Scores
from mmface.imaging.labels import LABELS

TABLES = (("mask", "Text + Mask"), ("sketch", "Text + Sketch"))
# The columns of the paper's tables, then ours; a metric that nobody measured is left out.
ORDER = (
    *("fid", "frechet", "kid_inception", "kid_dino", "kid", "cmmd", "lpips", "ms_ssim", "ssim"),
    *("accuracy", "miou", "dataset_miou", "clip_score", "clip_distance", "llm_score"),
    *("hair_colour_accuracy", "edge_agreement", "edge_agreement_gain", "memorised", "n"),
)
WORST = 16
JUDGED = {"mask": "miou", "sketch": "edge_agreement"}  # by which the worst samples are chosen
SAME_PARSER = (
    "The parser that judges the images also made the masks of the photographs: it rewards its own mistakes. "
    "Name another one (evaluate.parser)."
)


@dataclass(frozen=True)
class System:
    """A system with its published scores."""

    name: str
    dataset: Dataset
    scores: Scores
    figures: list[Figure]

    @classmethod
    def of(cls, name: str, uri: str, min_frechet_n: int) -> System:
        """Reads published scores and summarises them."""
        dataset = open_dataset(uri)
        scores = Scores.of(dataset)
        return cls(name, dataset, scores, summarise(scores, min_frechet_n=min_frechet_n))

    @property
    def samples(self) -> Dataset:
        """The measured images."""
        return open_dataset(self.dataset.manifest.inputs["samples"])


@dataclass(frozen=True)
class Evaluation:
    """Systems that were measured on one evaluation set.

    Attributes:
        systems: the first is the one in question, a second is compared with it.
        warnings: shown on top.
        rows: samples of each modality that are shown.
    """

    systems: tuple[System, ...]
    warnings: tuple[str, ...] = ()
    rows: int = 16

    @property
    def evalset(self) -> Dataset:
        """The evaluation set."""
        return open_dataset(self.systems[0].dataset.manifest.inputs["evalset"])

    def differences(self) -> list[Difference]:
        """The first system minus the second; empty with one system."""
        if len(self.systems) < 2:
            return []
        found = compare(self.systems[0].scores, self.systems[1].scores)
        return [one for one in found if "/iou/" not in one.name]  # labels have a table of their own


def warnings_of(scores: Dataset, evalset: Dataset) -> tuple[str, ...]:
    """Why the figures of a system may be too good."""
    judge = str(scores.manifest.extra["measures"]["miou"]["extractor"])
    makers = set(evalset.table(["mask_origin"])["mask_origin"].to_pylist())
    return (SAME_PARSER,) if any(judge.startswith(_slug(maker)) for maker in makers if maker) else ()


def render_html(evaluation: Evaluation) -> str:
    """The page: one file without scripts that needs no network."""
    filters = {"cell": cell, "jpeg": inline, "png": inline_png, "number": _number}
    return render_page(
        "evaluation.html",
        filters,
        names=[system.name for system in evaluation.systems],
        evalset=evaluation.evalset.manifest,
        resolution=evaluation.systems[0].scores.resolution,
        warnings=evaluation.warnings,
        tables=[(title, *table(evaluation, kind)) for kind, title in TABLES],
        labels=label_table(evaluation),
        gaps=[(system.name, gap) for system in evaluation.systems for gap in gaps_of(system)],
        differences=evaluation.differences(),
        pairs=_pairs(evaluation),
        worst=_worst(evaluation),
        extractors=_extractors(evaluation),
    )


def render_markdown(evaluation: Evaluation) -> str:
    """Tables as Markdown, without pictures."""
    lines = [f"# Evaluation on {evaluation.evalset.manifest.fingerprint}", ""]
    lines += [f"> {warning}\n" for warning in evaluation.warnings]
    for kind, title in TABLES:
        columns, rows = table(evaluation, kind)
        if columns:
            lines += [f"## {title}", "", "| system | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
            lines += [f"| {name} | " + " | ".join(cell(one) for one in cells) + " |" for name, cells in rows]
            lines.append("")
    differences = evaluation.differences()
    if differences:
        first, second = (system.name for system in evaluation.systems[:2])
        lines += [f"## {first} - {second}", "", "| metric | difference | interval | detectable | rows | verdict |"]
        lines += ["|---|---|---|---|---|---|"]
        for one in differences:
            limits = "" if one.low is None or one.high is None else f"{_number(one.low)} … {_number(one.high)}"
            numbers = f"{_number(one.value)} | {limits} | {_number(one.detectable)} | {one.n}"
            lines.append(f"| {one.name} | {numbers} | {one.unavailable or one.verdict} |")
    return "\n".join(lines).rstrip() + "\n"


def render_json(evaluation: Evaluation) -> str:
    """Everything but the pictures."""
    tree = {
        "evalset": evaluation.evalset.manifest.fingerprint,
        "warnings": evaluation.warnings,
        "systems": [
            {
                "name": system.name,
                "scores": system.dataset.manifest.fingerprint,
                "figures": [figure.model_dump(mode="json") for figure in system.figures],
            }
            for system in evaluation.systems
        ],
        "differences": [one.model_dump(mode="json") for one in evaluation.differences()],
    }
    return json.dumps(tree, indent=1) + "\n"


def table(evaluation: Evaluation, modality: str) -> tuple[list[str], list[tuple[str, list[Figure | None]]]]:
    """Names of the columns, and for every system its name and its figures, None where it has none."""
    found = [{_column(figure.name): figure for figure in _own(system, modality)} for system in evaluation.systems]
    present = {name for figures in found for name, figure in figures.items() if not figure.unavailable}
    columns = sorted((name for name in present if _rank(name) < len(ORDER)), key=lambda name: (_rank(name), name))
    both = zip(evaluation.systems, found, strict=True)
    return columns, [(system.name, [of.get(name) for name in columns]) for system, of in both]


def label_table(evaluation: Evaluation) -> list[tuple[str, list[Figure | None]]]:
    """Intersection over union of every label, for each system."""
    found = [{figure.name: figure for figure in system.figures} for system in evaluation.systems]
    rows = [(label, [of.get(f"mask/iou/{label}") for of in found]) for label in LABELS]
    return [(label, cells) for label, cells in rows if any(cells)]


def gaps_of(system: System) -> list[Gap]:
    """mIoU by attributes of the photographs."""
    return by_group(system.scores, "mask/miou") if "mask" in system.scores.rows else []


def cell(figure: Figure | None) -> str:
    """Value and interval in one table cell."""
    if figure is None or figure.unavailable:
        return "—"
    if figure.low is None or figure.high is None:
        return _number(figure.value)
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}]"


def _own(system: System, modality: str) -> list[Figure]:
    return [figure for figure in system.figures if figure.name.startswith(f"{modality}/")]


def _column(name: str) -> str:
    """The column of a metric; a Fréchet distance is named after its extractor alone."""
    metric = name.partition("/")[2]
    known = FrechetName.parse(name)
    return f"frechet_{known.extractor}" if known else metric


def _rank(column: str) -> int:
    """Place of a column: a stand-in, whose name ends in its extractor, stands where the standard metric would."""
    return next((i for i, one in enumerate(ORDER) if column == one or column.startswith(f"{one}_zoo")), len(ORDER))


def _extractors(evaluation: Evaluation) -> list[Figure]:
    """One figure for every metric of the first system, which says what measured it or why nothing did."""
    return [figure for figure in evaluation.systems[0].figures if figure.extractor or figure.unavailable]


def _pairs(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The first samples by id: of the second system (or the photograph) beside those of the first."""
    chosen = choose(evaluation.systems[0].samples, evaluation.rows)
    if len(evaluation.systems) < 2:
        return [{**row, "other": row["source"]} for row in chosen]
    other = evaluation.systems[1].samples
    places = _places(other)
    rows = {
        row["id"]: row
        for row in rows_of(other, {one["id"]: places[one["id"]] for one in chosen if one["id"] in places})
    }
    return [{**row, "other": rows[row["id"]]["generated"]} for row in chosen if row["id"] in rows]


def _worst(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The samples of the first system with the lowest mIoU or edge agreement of their modality."""
    system = evaluation.systems[0]
    found = metrics_of(system.dataset)
    places = _places(system.samples)
    rows: list[dict[str, Any]] = []
    for modality, metric in JUDGED.items():
        values = {name: of[metric] for name, of in found.items() if name.endswith(f"-{modality}") and metric in of}
        lowest = sorted(values, key=lambda name: (values[name], name))[: WORST // 2 if len(JUDGED) > 1 else WORST]
        for row in rows_of(system.samples, {name: places[name] for name in lowest}):
            rows.append({**row, "note": f"{metric} {_number(values[row['id']])}"})
    return rows


def _places(samples: Dataset) -> dict[str, str]:
    """The part of every sample, by its id."""
    return {name: file.path for file in samples.parts() for name in samples.part(file.path, ["id"])["id"].to_pylist()}


def _slug(name: str) -> str:
    return PurePosixPath(name).name.replace(":", "-")


def _number(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.3g}"
