"""The report of systems on one evaluation set, and the model card: complete, self-contained, with escaped text."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmface.config import Recipe
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.records import EVALSET, SAMPLES, SCORES
from mmface.evaluate.deciding.summary import by_group, summarise
from mmface.evaluate.leaks import Leak
from mmface.evaluate.report.card import Card, render_card
from mmface.evaluate.report.evaluation import (
    SAME_PARSER,
    Evaluation,
    System,
    render_html,
    render_json,
    render_markdown,
    table,
    warnings_of,
)
from mmface.evaluate.scores import Measure, Scores
from mmface.imaging.labels import LABELS, mask_to_png
from mmface.store import Store
from mmface.store.tables import to_parquet

ROWS = 24
PROMPT = 'a woman with <b>red</b> hair & a "hat"'
MEASURES = {
    "miou": Measure(better="higher", extractor="zoo-parser-01234567", preprocessing="whole image"),
    "edge_agreement": Measure(better="higher"),
    "lpips": Measure(better="lower", unavailable="set metrics.lpips to the backbone of LPIPS"),
}


def png(value: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (32, 32), (value, 90, 200)).save(sink, "PNG")
    return sink.getvalue()


def publish(home: Store, stage: str, rows: list[dict[str, Any]], name: str, **given: Any) -> str:
    schema = {"evalset": EVALSET, "samples": SAMPLES, "scores": SCORES}[stage]
    inputs = given.pop("inputs", {})
    publisher = Publisher(home, Identity(stage=stage, version=1, config={"name": name, "set": "v1"}, inputs=inputs))
    publisher.write("data/part-00000.parquet", to_parquet(rows, schema))
    return publisher.publish({"out": len(rows)}, extra=given)


def system(home: Store, evalset: str, name: str, miou: float) -> System:
    """A system whose mIoU is ``miou`` on even rows and 0.1 lower on odd ones; rows with red hair are the even ones."""
    kinds = [(i, kind) for kind in ("mask", "sketch") for i in range(ROWS)]
    named = [{"id": f"{i:04d}-{kind}", "image_id": f"{i:04d}", "modality": kind} for i, kind in kinds]
    condition = mask_to_png(np.full((32, 32), 13, np.uint8))
    request = {"prompt": PROMPT, "seed": 3, "condition": condition, "source": png(10)}
    samples = [{**row, **request, "generated": png(i)} for i, row in enumerate(named)]
    counts = [10] * len(LABELS)
    scores = [
        {
            **row,
            "metrics": [("miou", miou - 0.1 * (i % 2)), ("edge_agreement", 0.5 + i / 100)],
            "hit": [5] * len(LABELS),
            "given": counts,
            "found": counts,
            "groups": [("hair", "red" if i % 2 == 0 else "grey")],
        }
        for (i, _), row in zip(kinds, named, strict=True)
    ]
    painted = publish(home, "samples", samples, name, inputs={"evalset": evalset})
    facts = {"measures": {key: one.model_dump() for key, one in MEASURES.items()}, "resolution": 32}
    uri = publish(home, "scores", scores, name, inputs={"samples": painted, "evalset": evalset}, **facts)
    return System.of(name, uri, 2048)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    home = Store(tmp_path_factory.mktemp("home"))
    rows = [{"id": f"{i:04d}", "mask_origin": "zoo:parser" if i else "supplied"} for i in range(ROWS)]
    evalset = publish(home, "evalset", rows, "set")
    systems = (system(home, evalset, "ours", 0.8), system(home, evalset, "theirs <1>", 0.6))
    return Evaluation(systems, warnings_of(systems[0].dataset, open_dataset(evalset)), rows=2)


def test_the_judge_that_made_the_masks_is_named(evaluation: Evaluation) -> None:
    assert evaluation.warnings == (SAME_PARSER,)


def test_the_tables_have_a_row_for_each_system_and_no_column_for_what_nobody_measured(evaluation: Evaluation) -> None:
    columns, rows = table(evaluation, "mask")
    assert columns == ["miou", "dataset_miou", "edge_agreement", "n"]
    assert [(name, cells[0].value) for name, cells in rows if cells[0]] == [
        ("ours", pytest.approx(0.75)),
        ("theirs <1>", pytest.approx(0.55)),
    ]


def test_the_page_needs_no_network_and_escapes_names_and_prompts(evaluation: Evaluation) -> None:
    page = render_html(evaluation)
    assert "<script" not in page
    assert all(address.startswith("data:image/") for address in re.findall(r'src="([^"]*)"', page))
    assert "theirs &lt;1&gt;" in page
    assert "<b>red</b>" not in page
    assert SAME_PARSER in page
    assert "set metrics.lpips to the backbone of LPIPS" in page
    assert page.count('class="slider"') == 4  # two rows of each modality
    worst = page.partition("<h2>The worst</h2>")[2].partition("<h2>Labels</h2>")[0]
    assert worst.count("miou 0.7") == 8
    assert [label for label in LABELS if f"<td>{label}</td>" in page] == list(LABELS)


def test_markdown_and_json_say_the_same(evaluation: Evaluation) -> None:
    text, tree = render_markdown(evaluation), json.loads(render_json(evaluation))
    (line,) = [line for line in text.splitlines() if line.startswith("| mask/miou |")]
    (miou,) = [one for one in tree["differences"] if one["name"] == "mask/miou"]
    assert miou["value"] == pytest.approx(0.2)
    assert "| 0.2 |" in line
    assert line.endswith("| better |")
    assert [one["name"] for one in tree["systems"]] == ["ours", "theirs <1>"]
    assert "/iou/" not in text


def test_the_card_has_groups_leaks_licences_and_what_is_unavailable(evaluation: Evaluation) -> None:
    ours = evaluation.systems[0]
    lineage = {
        "images": {
            "dataset": "datasets/images/abc",
            "counts": {"in": 30, "out": 26, "quarantined": 3, "duplicates": 1, "filtered": 0},
            "sources": [{"name": "ours", "pictures": 30, "licence": "CC-BY-4.0"}],
        }
    }
    scores = Scores.of(ours.dataset)
    text = render_card(
        Card(
            recipe=Recipe(name="demo"),
            lineage=lineage,
            figures=summarise(scores),
            gaps=by_group(scores, "mask/miou"),
            leaks=[Leak(held_out="0001", trained="photos/1.jpg", exact=True)],
            parameters=1_234_567,
            steps=40,
            images=640,
            warnings=evaluation.warnings,
        )
    )
    assert "ours: 30 photographs, licence CC-BY-4.0" in text
    assert "| images | 30 | 26 | 3 | 1 | 0 |" in text
    assert "1,234,567 parameters, 40 optimizer steps over 640 images" in text
    assert "1 photographs of the evaluation set were trained on" in text
    assert "mask/miou by hair: grey 0.7 (n 12), red 0.8 (n 12); gap 0.1 between red and grey" in text
    assert "mask/lpips is unavailable: set metrics.lpips" in text
    assert text.startswith("---\nlibrary_name: diffusers\n")
