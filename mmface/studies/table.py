"""The tables of a study: the figures of each variant as mean and spread over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmface.config import Recipe
from mmface.studies.trials import HELD_OUT, SWITCHES, Outcome

DRAWINGS = {"mask": "Text + Mask", "sketch": "Text + Sketch"}
PARTS = ("modality embedder", "two streams", "RoPE", "VAE")


@dataclass(frozen=True)
class Column:
    """A metric as a column of the tables.

    Attributes:
        metric: its name without the kind of drawing; with ``open`` any name that begins with it and an underscore too,
            because such a metric is named by its extractor.
        drawing: the only kind of drawing that it is about; empty for all.
    """

    metric: str
    heading: str
    lower: bool = False
    open: bool = False
    drawing: str = ""

    def covers(self, metric: str) -> bool:
        """Whether the figure of that name, without its kind of drawing, belongs in this column."""
        return metric == self.metric or (self.open and metric.startswith(f"{self.metric}_"))

    def title(self, metric: str) -> str:
        """The heading for a figure, with its extractor, and which direction is better."""
        extractor = metric.removeprefix(self.metric).removeprefix("_").partition("_")[0]
        return f"{self.heading} {extractor}".strip() + (" ↓" if self.lower else " ↑")


COLUMNS = (
    Column("fid", "FID", lower=True, open=True),
    Column("kid", "KID", lower=True, open=True),
    Column("frechet", "Fréchet", lower=True, open=True),
    Column("lpips", "LPIPS", lower=True, open=True),
    Column("ms_ssim", "MS-SSIM"),
    Column("ssim", "SSIM"),
    Column("accuracy", "ACC", drawing="mask"),
    Column("miou", "mIoU", drawing="mask"),
    Column("edge_agreement", "edge F1", drawing="sketch"),
    Column("clip_score", "CLIP score"),
    Column("clip_distance", "CLIP distance", lower=True),
    Column("llm_score", "LLM score"),
)


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation over the seeds; only the value if there is one, ``-`` if there is none."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def by_variant(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each variant, in their order."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.trial.variant, []).append(outcome)
    return found


def ranked(outcomes: Iterable[Outcome], metric: str) -> list[Outcome]:
    """The outcomes ordered by the mean of a figure over the seeds of a variant, best first; without the figure last."""
    metric_only = metric.partition("/")[2]
    lower = metric == HELD_OUT or any(one.lower and one.covers(metric_only) for one in COLUMNS)

    def place(group: list[Outcome]) -> tuple[bool, float]:
        values = [value for one in group if (value := one.figure(metric)) is not None and math.isfinite(value)]
        return not values, (1 if lower else -1) * (statistics.fmean(values) if values else 0.0)

    return [one for group in sorted(by_variant(outcomes).values(), key=place) for one in group]


def columns(outcomes: Iterable[Outcome], drawing: str) -> dict[str, str]:
    """Names of the figures of one kind of drawing that the outcomes have, with their headings, in the tables' order."""
    names = sorted({name for one in outcomes for name in one.figures if name.startswith(f"{drawing}/")})
    return {
        name: column.title(name.partition("/")[2])
        for column in COLUMNS
        for name in names
        if column.drawing in ("", drawing) and column.covers(name.partition("/")[2])
    }


def tables(outcomes: Sequence[Outcome], recipes: Mapping[str, Recipe] | None = None) -> list[str]:
    """The tables of a study in Markdown, one for each kind of drawing.

    Args:
        outcomes: of all trials, in the order of the rows.
        recipes: of the variants; if given, columns show which parts of the model each has (the paper's Table 3).
    """
    return [_table(outcomes, drawing, title, recipes) for drawing, title in DRAWINGS.items()]


def _table(outcomes: Sequence[Outcome], drawing: str, title: str, recipes: Mapping[str, Recipe] | None) -> str:
    figures = {HELD_OUT: "held-out loss ↓", **columns(outcomes, drawing)}
    header = [title, *(PARTS if recipes else ()), "seeds", *figures.values()]
    rows = []
    for variant, group in by_variant(outcomes).items():
        parts = _parts(recipes[variant]) if recipes else []
        counted = [one for one in group if one.stopped is None] or group  # no mean over losses of different steps
        found = ([value for one in counted if (value := one.figure(name)) is not None] for name in figures)
        rows.append([variant + _note(group), *parts, str(len(group)), *map(spread, found)])
    return markdown(header, rows)


def _parts(recipe: Recipe) -> list[str]:
    return ["✓" if getattr(recipe.model, name) else "" for name in SWITCHES] + [recipe.components.vae]


def _note(group: Sequence[Outcome]) -> str:
    stopped = sum(one.stopped is not None for one in group)
    failed = sum(bool(one.failed) for one in group)
    notes = [f"{count} {what}" for count, what in ((stopped, "stopped early"), (failed, "failed")) if count]
    return f" ({', '.join(notes)})" if notes else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([drawn[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *drawn[1:]])
