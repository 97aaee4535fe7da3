"""Captions from vLLM (``ray.data.llm``): its answers are recorded part by part, then the ``captions`` stage reads them.

An engine takes minutes to start and runs outside the stage's workers. Each try is therefore one pass over all
unfinished parts. The answers are stored below ``work/`` until the dataset is published; the stage reads them as if it
asked the model itself. A pass that is interrupted resumes with the parts that have no answers yet.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmface.config import Recipe
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker, look_up
from mmface.datasets.parts import DATA, read_part
from mmface.datasets.records import CAPTIONS, ORIGIN
from mmface.datasets.reuse import Known
from mmface.datasets.stage import Row
from mmface.errors import InputError, RecipeError, StageError
from mmface.store import Store
from mmface.store.tables import read_rows, to_parquet
from ray_jobs.shared.job import cause_of, connect_ray

if TYPE_CHECKING:
    from mmface.data.captions.ask import Question

ANSWERS = pa.schema(
    [("id", pa.string()), ("slot", pa.int32()), ("prompt", pa.string()), ("answer", pa.string()), ("of", pa.int32())]
)
Ask = Callable[[Sequence[str], int], Iterable[Row]]


def require_vllm() -> None:
    """Raises RecipeError if vLLM is not installed."""
    if find_spec("vllm") is None:
        message = "vllm is not installed here; pip install 'ray[llm]' on the cluster, or set transformers"
        raise RecipeError(message, field="captioning.engine")


def record_answers(publisher: Publisher, parts: Sequence[str], tries: int, ask: Ask) -> None:
    """Runs one pass per try over the parts that have no answers yet; writes a part's answers once all have arrived.

    Args:
        parts: names of the parts.
        tries: how often a question is asked at most.
        ask: answers the questions of the named parts at a try, in any order; ``of`` in each row is the number of
            questions of its part.
    """
    finished = _names(publisher.finished(DATA))
    for attempt in range(tries):
        answered = finished | _names(publisher.finished(_folder(attempt)))
        todo = [part for part in parts if part not in answered]
        waiting: dict[str, list[Row]] = defaultdict(list)
        for row in ask(todo, attempt) if todo else ():
            rows = waiting[row["part"]]
            rows.append(row)
            if len(rows) == row["of"]:
                ordered = sorted(waiting.pop(row["part"]), key=lambda one: (one["id"], one["slot"]))
                publisher.write(f"{_folder(attempt)}/{row['part']}", to_parquet(ordered, ANSWERS))
        assert not waiting, f"no complete answers for {sorted(waiting)}"


class Questions:
    """The questions of a part at a try: at the first try every prompt, later those whose last answer was refused.

    Rows of an earlier dataset are left out: the stage copies their captions.
    """

    def __init__(self, identity: Identity, store: Store, recipe: Recipe) -> None:
        self.identity, self.store, self.recipe = identity, store, recipe

    def __call__(self, part: str, attempt: int) -> list[Row]:
        """Rows of ``part id slot prompt of image``; the photograph as a data URL."""
        from mmface.data.captions.ask import Question, ask_until_accepted

        prompts = self.recipe.captioning.prompts[: self.recipe.data.captions_per_image]
        questions = [
            Question(row, url, prompt, slot)
            for row, url in self._pictures(self._new_rows(part))
            for slot, prompt in enumerate(prompts)
        ]
        captioner = RecordedAnswers(self.recipe.components.captioner)
        captioner.load(self.store.child(self.identity.key), part, attempt)
        reviewed = ask_until_accepted(questions, captioner, tries=attempt, min_words=self.recipe.captioning.min_words)
        total = len(reviewed.unanswered)
        return [
            {"part": part, "id": one.row, "slot": one.slot, "prompt": one.prompt, "of": total, "image": one.picture}
            for one in reviewed.unanswered
        ]

    def _new_rows(self, part: str) -> list[Row]:
        from mmface.data.captions import Captions

        inputs = [open_dataset(uri) for uri in self.identity.inputs.values()]
        known = Known(self.store.child(self.identity.key), CAPTIONS)
        rows, found = look_up(partial(read_part, inputs, part), Captions.reads, known)
        return [row for row in rows if row[ORIGIN[0]] not in found]

    def _pictures(self, rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
        from mmface.data.captions.captioning import supplied
        from mmface.data.conditions import square_picture

        for row in rows:
            try:
                limits = self.recipe.data.max_megapixels, self.recipe.picture_side
                picture = None if supplied(row) else square_picture(row["image"], *limits)
            except InputError:
                continue  # the stage puts the row into quarantine, with the reason
            if picture is not None:
                sink = BytesIO()
                picture.save(sink, "PNG")
                yield row["id"], f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"


class RecordedAnswers:
    """A captioner that gives the recorded answers of a part."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers: dict[tuple[str, str], str] = {}

    def load(self, store: Store, part: str, tries: int) -> None:
        """Takes the answers of a part's first ``tries`` tries, in place of those of the last part."""
        self.answers = {
            (row["id"], row["prompt"]): row["answer"]
            for attempt in range(tries)
            for row in recorded(store, part, attempt)
        }

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """The recorded answer to each question."""
        return [self.answers[question.row, question.prompt] for question in questions]


class RecordedWorker(PartWorker):
    """A worker that runs the ``captions`` stage on the recorded answers of each part."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe) -> None:
        from mmface.data.captions import Captions

        self.captioner = RecordedAnswers(recipe.components.captioner)
        self.tries = 1 + recipe.captioning.retries
        super().__init__(identity, store, Captions(recipe, self.captioner))

    def run(self, part: str) -> int:
        """Makes one part; returns its number of rows."""
        self.captioner.load(self.publisher.store, part, self.tries)
        return super().run(part)


def recorded(store: Store, part: str, attempt: int) -> list[Row]:
    """A part's answers at a try; empty if nothing was asked."""
    path = f"{_folder(attempt)}/{part}"
    return read_rows(store.read(path)) if store.exists(path) else []


def vllm(questions: Questions) -> Ask:
    """An :data:`Ask` that runs ``data.workers`` vLLM engines; each needs a GPU."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    from ray.exceptions import RayError

    connect_ray()
    recipe = questions.recipe
    model, _, revision = recipe.components.captioner.partition("@")
    limit = recipe.captioning.max_new_tokens
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=model,
            engine_kwargs={"revision": revision} if revision else {},
            concurrency=recipe.data.workers,
            prepare_multimodal_stage={"enabled": True, "chat_template_content_format": "openai"},
        ),
        preprocess=lambda row: {**row, **_request(row["prompt"], row["image"], limit)},
        postprocess=lambda row: _answer(row, limit),
    )

    def ask(parts: Sequence[str], attempt: int) -> Iterable[Row]:
        blocks = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        rows = blocks.flat_map(lambda row: questions(str(row["part"]), attempt))
        try:
            yield from processor(rows).iter_rows()
        except RayError as error:
            message = f"{cause_of(error)}; run the job again to resume with the parts that have no answers"
            raise StageError(message, field="captions") from error

    return ask


def _request(prompt: str, image: str, limit: int) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": prompt}]
    return {
        "messages": [{"role": "user", "content": content}],
        "sampling_params": {"temperature": 0.0, "max_tokens": limit},
    }


def _answer(row: Row, limit: int) -> Row:
    """The row of :data:`ANSWERS`, with ``part``; a truncated answer loses its last word, which may be incomplete."""
    text = str(row["generated_text"])
    answer = text if row["num_generated_tokens"] < limit else text.rpartition(" ")[0]
    return {**{name: row[name] for name in ("part", "id", "slot", "prompt", "of")}, "answer": answer}


def _folder(attempt: int) -> str:
    return f"work/answers-{attempt}"


def _names(keys: Iterable[str]) -> set[str]:
    return {PurePosixPath(key).name for key in keys}
