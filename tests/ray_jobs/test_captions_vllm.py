"""Captions from vLLM: answers are recorded by part, refused ones asked again, and the stage reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import parse_recipe
from mmface.data.captions import Captions
from mmface.data.captions.ask import Question
from mmface.data.portraits import draw
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import Runner
from mmface.datasets.records import CAPTIONS, CONDITIONS, IMAGES, QUARANTINE
from mmface.datasets.reuse import gather
from mmface.datasets.tally import reconcile
from mmface.errors import RecipeError
from mmface.imaging.labels import mask_to_png
from mmface.store import Store
from mmface.store.tables import read_rows, to_parquet
from ray_jobs import captions
from ray_jobs.shared.vllm import Questions, RecordedWorker, _answer, _request, record_answers

PARTS = ["part-00000.parquet", "part-00001.parquet"]
GOOD = "A young woman with long red hair smiles at the camera."


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(
        {
            "data": {"captions_per_image": 2},
            "components": {"captioner": "some/model"},
            "captioning": {"engine": "vllm", "prompts": ["Say who it is.", "Say what they wear."], "retries": 1},
        }
    )


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def identity(home: Store, recipe: Recipe) -> Identity:
    """Captions of two parts: a, b and c (with supplied captions); d and e (not an image)."""
    return publish_inputs(home, recipe, ROWS)


def publish_inputs(home: Store, recipe: Recipe, rows: list[list[dict[str, Any]]]) -> Identity:
    ids = [row["id"] for some in rows for row in some]
    images = Publisher(home, Identity(stage="images", version=1, config={"ids": ids}))
    conditions = Publisher(home, Identity(stage="conditions", version=1, config={"ids": ids}))
    for part, some in zip(PARTS, rows, strict=True):
        for publisher, schema in ((images, IMAGES), (conditions, CONDITIONS)):
            publisher.write(f"data/{part}", to_parquet(some, schema))
    uris = [publisher.publish({}) for publisher in (images, conditions)]
    return plan.captions(recipe, *uris)


def make(home: Store, identity: Identity, recipe: Recipe) -> Dataset:
    """Runs the captions stage on recorded answers and publishes the dataset."""
    publisher = Publisher(home, identity)
    runner = Runner(publisher.store, "data", lambda: RecordedWorker(identity, home, recipe))
    for part in PARTS:
        runner.run(part)
    tally = reconcile(publisher, PARTS)
    return open_dataset(publisher.publish(tally.counts, extra=tally.extra, files=tally.files))


def picture(name: str, supplied: list[str] | None = None) -> dict[str, Any]:
    portrait = draw(3, 64)
    sink = BytesIO()
    Image.fromarray(portrait.image).save(sink, "PNG")
    return {"id": name, "image": sink.getvalue(), "mask": mask_to_png(portrait.mask), "captions": supplied}


ROWS = [[picture("a"), picture("b"), picture("c", ["a man"])], [picture("d"), {**picture("e"), "image": b"junk"}]]


class Engine:
    """Answers in reverse order; refuses the first prompt at the first try, and always refuses photograph d."""

    def __init__(self, questions: Questions) -> None:
        self.questions = questions
        self.passes: list[tuple[int, list[str]]] = []
        self.stop_after: int | None = None

    def __call__(self, parts: Sequence[str], attempt: int) -> Iterator[dict[str, Any]]:
        self.passes.append((attempt, list(parts)))
        rows = [row for part in parts for row in self.questions(part, attempt)]
        for count, row in enumerate(reversed(rows)):
            if count == self.stop_after:
                raise KeyboardInterrupt
            assert row["image"].startswith("data:image/png;base64,")
            shy = row["id"] == "d" or (row["slot"] == 0 and attempt == 0)
            yield {**row, "answer": "I'm sorry, I can't help with that." if shy else GOOD}


def test_answers_are_recorded_asked_again_where_refused_and_read_by_the_stage(
    home: Store, identity: Identity, recipe: Recipe
):
    engine = Engine(Questions(identity, home, recipe))
    publisher = Publisher(home, identity)
    record_answers(publisher, PARTS, 2, engine)
    assert engine.passes == [(0, PARTS), (1, PARTS)]

    runner = Runner(publisher.store, "data", lambda: RecordedWorker(identity, home, recipe))
    assert [runner.run(part) for part in PARTS] == [3, 2]
    tally = reconcile(publisher, PARTS)
    rows = [row for part in PARTS for row in read_rows(publisher.store.read(f"data/{part}"))]
    assert {row["id"]: row["captions"] for row in rows} == {"a": [GOOD] * 2, "b": [GOOD] * 2, "c": ["a man"] * 2}
    assert [row["rejections"] for row in rows] == [[("refusal", 1)], [("refusal", 1)], []]
    assert [row["captioner"] for row in rows] == ["some/model", "some/model", "supplied"]
    aside = read_rows(publisher.store.read(f"quarantine/{PARTS[1]}"))
    assert QUARANTINE.names == list(aside[0])
    assert {row["id"]: row["message"] for row in aside}[
        "d"
    ] == "0 of 2 captions after 2 tries each; refused: 4x refusal"
    assert {row["id"] for row in aside} == {"d", "e"}

    publisher.publish(tally.counts, files=tally.files)
    assert not publisher.store.list("work")


class Direct:
    """A captioner in process that answers like :class:`Engine`."""

    name = "some/model"

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        return ["I'm sorry, I can't help with that." if one.prompt == "Say who it is." else GOOD for one in questions]


def test_recorded_answers_lead_to_the_same_rows_as_a_model_in_process(home: Store, identity: Identity, recipe: Recipe):
    publisher = Publisher(home, identity)
    record_answers(publisher, PARTS, 2, Engine(Questions(identity, home, recipe)))
    RecordedWorker(identity, home, recipe).run(PARTS[0])
    recorded = read_rows(publisher.store.read(f"data/{PARTS[0]}"))
    direct = read_rows(to_parquet(Captions(recipe, Direct())(ROWS[0]).rows, CAPTIONS))
    columns = ("id", "captions", "captioner", "rejections")
    assert [[row[name] for name in columns] for row in recorded] == [[row[name] for name in columns] for row in direct]


def test_rows_of_an_earlier_dataset_are_not_asked_again(home: Store, identity: Identity, recipe: Recipe):
    record_answers(Publisher(home, identity), PARTS, 2, Engine(Questions(identity, home, recipe)))
    make(home, identity, recipe)

    grown = publish_inputs(home, recipe, [[picture("new"), *ROWS[0]], ROWS[1]])
    gather(home, grown)
    questions = Questions(grown, home, recipe)
    assert [sorted({row["id"] for row in questions(part, 0)}) for part in PARTS] == [["new"], ["d"]]
    record_answers(Publisher(home, grown), PARTS, 2, Engine(questions))
    assert make(home, grown, recipe).manifest.extra == {"reused": 3, "computed": 3}


def test_an_interrupted_pass_resumes_with_the_parts_without_answers(home: Store, identity: Identity, recipe: Recipe):
    engine = Engine(Questions(identity, home, recipe))
    engine.stop_after = 3  # after both answers of the second part
    with pytest.raises(KeyboardInterrupt):
        record_answers(Publisher(home, identity), PARTS, 2, engine)
    engine.stop_after = None
    record_answers(Publisher(home, identity), PARTS, 2, engine)
    assert engine.passes == [(0, PARTS), (0, PARTS[:1]), (1, PARTS)]


def test_requests_to_vllm_and_truncated_answers():
    asked = _request("Say it.", "data:image/png;base64,AA", 9)
    assert asked["sampling_params"] == {"temperature": 0.0, "max_tokens": 9}
    assert asked["messages"][0]["content"][1] == {"type": "text", "text": "Say it."}
    row = {"part": "p", "id": "a", "slot": 0, "prompt": "Say it.", "of": 1, "generated_text": "A man with a be"}
    assert _answer({**row, "num_generated_tokens": 9}, 9)["answer"] == "A man with a"
    assert _answer({**row, "num_generated_tokens": 8}, 9)["answer"] == "A man with a be"


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_job_fails_before_it_starts_and_says_what_to_do(home: Store, identity: Identity):
    settings = ["components.captioner=some/model@main", "captioning.engine=vllm"]
    given = [part for one in settings for part in ("--set", one)]
    inputs = [part for name, uri in identity.inputs.items() for part in ("--inputs", f"{name}={uri}")]
    with pytest.raises(RecipeError, match=r"captioning.engine: vllm is not installed here; pip install 'ray\[llm\]'"):
        captions.main(["--recipe", "demo", "--home", home.uri, *given, *inputs])
