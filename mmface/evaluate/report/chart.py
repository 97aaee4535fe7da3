"""Line charts as inline SVG. Colours come from the page's CSS, so that charts follow light and dark mode."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mmface.datasets.dataset import Dataset

WIDTH, HEIGHT = 860, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34


@dataclass(frozen=True)
class Line:
    """A named curve; ``style`` is a CSS class of the page. Points that are not finite are skipped."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def histories(datasets: Mapping[str, Dataset]) -> Iterator[tuple[str, int, list[dict[str, float]]]]:
    """Yields the training history of each phase: stage, number of steps in earlier phases, logged entries."""
    offset = 0
    for stage, dataset in datasets.items():
        if stage.startswith("train-"):
            history = [json.loads(line) for line in dataset.read("history.jsonl").splitlines() if line.strip()]
            yield stage, offset, history
            offset += max((int(entry["step"]) for entry in history), default=0)


def smooth(points: Sequence[tuple[float, float]], weight: float = 0.8) -> list[tuple[float, float]]:
    """Exponential moving average, corrected for its bias towards zero at the start."""
    smoothed: list[tuple[float, float]] = []
    total, mass = 0.0, 0.0
    for x, y in points:
        if math.isfinite(y):
            total, mass = weight * total + (1 - weight) * y, weight * mass + (1 - weight)
            smoothed.append((x, total / mass))
    return smoothed


def line_chart(lines: Sequence[Line], *, label: str, borders: Sequence[tuple[float, str]] = ()) -> str:
    """An ``<svg>`` of the curves, or an empty string if no point is finite.

    Args:
        lines: curves over one x axis.
        label: of the x axis.
        borders: (x, text) of vertical marks, such as the start of a phase.
    """
    points = [(x, y) for line in lines for x, y in line.points if math.isfinite(y)]
    if not points:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    low, high = _range([y for _, y in points])

    def across(x: float) -> float:
        return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (high - min(max(y, low), high)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for y in _ticks(low, high):
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in _ticks(x_low, x_high):
        parts.append(f'<text class="tick" x="{across(x):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{x:g}</text>')
    for x, text in borders:
        at = across(min(max(x, x_low), x_high))
        parts.append(f'<line class="border" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{at + 5:.1f}" y="{TOP + 11}">{escape(text)}</text>')
    for line in lines:
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points if math.isfinite(y))
        parts.append(f'<polyline class="{line.style}" points="{path}"><title>{escape(line.name)}</title></polyline>')
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits of the y axis without the highest 1.5 % of values: the first steps would flatten the curve."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.985))]
    margin = (high - low or abs(high) or 1) * 0.06
    return low - margin, high + margin


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between the limits."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]
