"""The report of published datasets: self-contained, complete, and with escaped text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmface.config import Gate, Recipe
from mmface.config.load import parse_recipe
from mmface.data.conditions import grey_png
from mmface.datasets.dataset import Publisher, upstream
from mmface.datasets.manifest import Identity
from mmface.datasets.records import QUARANTINE, SAMPLES, SCORES
from mmface.evaluate.deciding.gate import decide
from mmface.evaluate.report import chart
from mmface.evaluate.report.page import Report, render_report
from mmface.evaluate.report.pictures import grid, inline_png, strip
from mmface.imaging.labels import mask_to_png
from mmface.store import Store
from mmface.store.tables import to_parquet
from tests.mmface.evaluate.simulated import simulate

METRICS = {
    "mask/miou": 0.512,
    "mask/source_miou": 0.81,
    "mask/hair_colour_accuracy": 0.75,
    "mask/frechet_zoo-clip_n128": 12.5,
    "mask/frechet_zoo-clip-1a2b3c4d_128px_n64-9f8e7d6c": 13.5,
    "sketch/edge_agreement": 0.6,
    "sketch/edge_agreement_baseline": 0.3,
    "sketch/edge_agreement_gain": 0.3,
    "mask/ssim": float("nan"),
}
MEASURED = simulate({"mask/miou": [0.512], "mask/hair_colour_accuracy": [0.75]})
SIDECAR = {"uri": "s3://b/texts", "matched": 9, "unmatched_pictures": 1, "unmatched_entries": 3}
NEW = {
    "name": "ours",
    "images": "s3://b/images",
    "pictures": 10,
    "ignored_files": 2,
    "ignored_suffixes": {".gif": 2},
    "sidecars": {"captions": {**SIDECAR, "ignored_suffixes": {".json": 90, "hidden": 1}}},
}
OLD = {"name": "old", "images": "old/images", "pictures": 2, "ignored_files": 0}  # as earlier releases wrote it
PROMPT = 'a woman with <b>red</b> hair & a "hat"'


def _sample(i: int, modality: str) -> dict[str, Any]:
    colour = Image.new("RGB", (32, 32), (40 * i, 90, 200))
    sink = BytesIO()
    colour.save(sink, "PNG")
    pixels = np.full((32, 32), 13, np.uint8)
    return {
        "id": f"{i:04d}-{modality}",
        "image_id": f"{i:04d}",
        "modality": modality,
        "prompt": PROMPT,
        "seed": i,
        "condition": mask_to_png(pixels) if modality == "mask" else grey_png(pixels),
        "generated": sink.getvalue(),
        "source": sink.getvalue(),
    }


def _score(sample: dict[str, Any]) -> dict[str, Any]:
    hair = float(sample["seed"] % 2)
    metrics = [("miou", 0.5), ("edge_agreement", 0.25), ("hair_colour_accuracy", hair)]
    return {name: sample[name] for name in ("id", "image_id", "modality")} | {"metrics": metrics}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe({"name": "demo", "phases": [{"resolution": 32, "steps": 40}], "evaluate": {"grid": 2}})


@pytest.fixture(scope="module")
def report(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Report:
    home = Store(tmp_path_factory.mktemp("home"))

    def publish(
        stage: str, inputs: dict[str, str], files: dict[str, bytes], counts: dict[str, int], **extra: object
    ) -> str:
        publisher = Publisher(home, Identity(stage=stage, version=1, config={}, inputs=inputs))
        for path, data in files.items():
            publisher.write(path, data)
        return publisher.publish(counts, extra=extra)

    lost = [{"id": "x", "uri": "photos/bad.jpg", "stage": "images", "error": "InputError", "message": "truncated"}] * 2
    images = publish(
        "images",
        {},
        {"quarantine/part-0.parquet": to_parquet(lost, QUARANTINE)},
        {"in": 12, "out": 7, "quarantined": 2, "duplicates": 1, "filtered": 2},
        sources=[NEW, OLD],
    )
    steps = range(10, 41, 10)
    history = [{"step": s, "loss": 1 / s, "loss_mask": 1 / s, "loss_sketch": 2 / s} for s in steps]
    lines = "".join(json.dumps(entry) + "\n" for entry in history).encode()
    previews = {f"previews/step-{step:06d}.png": _sheet(step) for step in (10, 20, 30, 40)}
    files = {"history.jsonl": lines, "previews/guidance.png": _sheet(99), **previews}
    trained = publish("train-0-32", {"images": images}, files, {})
    samples = [_sample(i, kind) for kind in ("mask", "sketch", "unconditional") for i in range(3)]
    painted = publish(
        "samples", {"train": trained, "images": images}, {"data/part-0.parquet": to_parquet(samples, SAMPLES)}, {}
    )
    rows = to_parquet([_score(sample) for sample in samples], SCORES)
    scored = publish("scores", {"samples": painted}, {"data/part-0.parquet": rows}, {})
    return Report(
        recipe=recipe,
        datasets=upstream(scored),
        metrics=METRICS,
        decision=decide(MEASURED, None, Gate(min_mask_miou=0.5, min_hair_colour=0.8)),
        version="4",
        champion=False,
        curl="curl -F 'prompt=x' http://127.0.0.1:8000/v1/generate/mask",
        links={"MLflow run": "abcdef"},
    )


def _sheet(step: int) -> bytes:
    """A sheet of two rows whose columns are grey; the third, which was painted, is as light as the step is late."""
    columns = [Image.new("L", (8, 16), grey) for grey in (200, 100, step, 0, 0)]
    sheet = Image.new("L", (40, 16))
    for i, column in enumerate(columns):
        sheet.paste(column, (8 * i, 0))
    sink = BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_report(report)


def test_upstream_lists_datasets_after_their_inputs(report: Report) -> None:
    assert list(report.datasets) == ["images", "train-0-32", "samples", "scores"]


def test_the_page_is_self_contained(page: str) -> None:
    assert "<script" not in page
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith("data:image/")
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_lists_matched_and_unmatched_files_of_collections(page: str) -> None:
    table = page.partition("<h2>Collections</h2>")[2].partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>|\s+", " ", row).split() for row in table.split("<tr>")[2:]]
    assert rows == [
        ["ours", "photographs", "10", "2", ".gif", "s3://b/images"],
        ["ours", "captions", "9", "1", "3", "90", ".json,", "1", "hidden", "s3://b/texts"],
        ["old", "photographs", "2", "old/images"],
    ]


def test_the_strip_shows_the_same_drawings_over_the_steps() -> None:
    drawn = np.asarray(Image.open(BytesIO(strip([(step, _sheet(step)) for step in (10, 20, 30, 40)], most=2))))
    assert drawn.shape[1] == 4 * (8 + 2)  # mask, two sheets, photograph
    assert [int(drawn[-4, 10 * i + 4, 0]) for i in range(4)] == [100, 20, 40, 200]


def test_previews_are_in_the_report(page: str) -> None:
    assert "Over the training steps" in page
    assert inline_png(_sheet(99)) in page


def test_the_page_is_well_formed(page: str) -> None:
    class Balance(HTMLParser):
        stack: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "img", "br", "input"):
                self.stack.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

        def handle_endtag(self, tag: str) -> None:
            assert self.stack.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.stack == []


@pytest.mark.parametrize(
    "text",
    [
        "version 4",
        "The gate refused",
        "mask/hair_colour_accuracy is 0.75, required &gt;= 0.8",
        "Fréchet distance (zoo-clip, 128 images)",
        "12.5",
        "Fréchet distance (zoo-clip 1a2b3c4d, 64 images 9f8e7d6c at 128 px)",
        "13.5",
        "without the sketch: 0.30",
        "photos/bad.jpg",
        "InputError: truncated",
        "curl -F &#39;prompt=x&#39; http://127.0.0.1:8000/v1/generate/mask",
        "abcdef",
        "a woman with &lt;b&gt;red&lt;/b&gt; hair &amp; a &#34;hat&#34;",
        "hair colour wrong",
        "edge agreement 0.25",
        "phase 1: 32 px",
        "40 steps in 1 phase,",
        "zoo:parser",
    ],
)
def test_the_page_contains(page: str, text: str) -> None:
    assert text in page


def test_the_stage_table_shows_the_counts(page: str, report: Report) -> None:
    row = page[page.index("<tr><td>images</td>") :].split("</tr>")[0]
    assert re.findall(r'<td class="n">(\d+)</td>', row) == ["12", "7", "2", "1", "2"]
    assert report.datasets["images"].manifest.fingerprint in row


def test_the_page_shows_as_many_samples_as_the_recipe_says(page: str) -> None:
    assert page.count('<figure class="card">') == 2 * 2  # masks and sketches, without the baseline


def test_rendering_is_deterministic(page: str, report: Report) -> None:
    assert render_report(report) == page


def test_the_contact_sheet_shows_the_samples(report: Report) -> None:
    sheet = Image.open(BytesIO(grid(report.datasets["samples"], 3)))
    assert sheet.format == "PNG"
    assert sheet.width > sheet.height  # two lines of three triples each
    colours = {sheet.getpixel((x, 90)) for x in range(sheet.width)}
    assert {(0, 0, 204), (0, 90, 200), (40, 90, 200)} <= colours  # the palette colour of hair, and two generated images


def test_the_contact_sheet_without_samples_is_an_image(report: Report) -> None:
    assert Image.open(BytesIO(grid(report.datasets["images"], 3))).size > (0, 0)  # a dataset without rows


def test_a_chart_without_finite_points_is_empty() -> None:
    assert chart.line_chart([chart.Line("loss", "mask", [(1, float("nan"))])], label="steps") == ""


def test_smoothing_keeps_a_constant() -> None:
    assert [y for _, y in chart.smooth([(i, 3.0) for i in range(5)])] == pytest.approx([3.0] * 5)


def test_ticks_are_round() -> None:
    svg = chart.line_chart([chart.Line("loss", "mask", [(0, 0.0), (700, 1.0)])], label="steps")
    ticks = re.findall(r'text-anchor="middle">([^<]+)<', svg)
    assert ticks == ["0", "200", "400", "600"]


def test_the_template_is_part_of_the_package(report: Report) -> None:
    import mmface.evaluate.report

    assert (Path(mmface.evaluate.report.__file__).parent / "report.html").is_file()
