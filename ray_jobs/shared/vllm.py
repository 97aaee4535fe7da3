"""A captioning model behind vLLM (``ray.data.llm``), whose answers are recorded part by part before they are judged.

An engine takes minutes to start and lives outside the stage's actors. So it answers all unfinished parts in one pass,
once a try; the answers lie below ``work/`` until the dataset is published, and the ``captions`` stage reads them there
as if it had asked. A pass that was killed goes on with the parts that have no answers yet.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

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

ANSWERS = pa.schema(
    [("id", pa.string()), ("slot", pa.int32()), ("prompt", pa.string()), ("answer", pa.string()), ("of", pa.int32())]
)
Ask = Callable[[Sequence[str], int], Iterable[Row]]


def require_vllm() -> None:
    """Raises RecipeError where vLLM is not installed."""
    if find_spec("vllm") is None:
        message = "vllm is not installed here; pip install 'ray[llm]' on the cluster, or set transformers"
        raise RecipeError(message, field="captioning.engine")


def record_answers(publisher: Publisher, parts: Sequence[str], tries: int, ask: Ask) -> None:
    """Asks about every part that has no answers yet, try by try, and writes each part's answers once they are complete.

    Args:
        parts: names of the parts.
        tries: how often a question is asked at most.
        ask: answers the open questions of the named parts at a try, in any order; each row says how many its part has.
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
    """The open questions of a part at a try: first every prompt, then those whose last answer was refused.

    Nothing is asked about rows that an earlier dataset holds; the stage copies these.
    """

    def __init__(self, identity: Identity, store: Store, recipe: Recipe) -> None:
        self.identity, self.store, self.recipe = identity, store, recipe

    def __call__(self, part: str, attempt: int) -> list[Row]:
        """Rows of ``part id slot prompt of image``; the picture as a data URL."""
        pictures = dict(self._pictures(self._unknown(part)))
        if attempt == 0:
            prompts = self.recipe.captioning.prompts[: self.recipe.data.captions_per_image]
            asked = [(row, slot, prompt) for row in pictures for slot, prompt in enumerate(prompts)]
        else:
            asked = list(self._refused(part, attempt - 1))
        return [
            {"part": part, "id": row, "slot": slot, "prompt": prompt, "of": len(asked), "image": pictures[row]}
            for row, slot, prompt in asked
        ]

    def _unknown(self, part: str) -> list[Row]:
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
                continue  # the stage sets the row aside, and says why
            if picture is not None:
                sink = BytesIO()
                picture.save(sink, "PNG")
                yield row["id"], f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"

    def _refused(self, part: str, attempt: int) -> Iterator[tuple[str, int, str]]:
        from mmface.data.captions.ask import again
        from mmface.data.captions.rules import Rejection, review

        for row in recorded(self.store.child(self.identity.key), part, attempt):
            judged = review(row["answer"], row["prompt"], self.recipe.captioning.min_words)
            if isinstance(judged, Rejection):
                yield row["id"], row["slot"], again(row["prompt"], judged.reason)


class RecordedAnswers:
    """The captioner of a stage whose model has answered already."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers: dict[tuple[str, str], str] = {}

    def __call__(self, questions: Sequence[Any]) -> list[str]:
        """The recorded answer to each question."""
        return [self.answers[question.row, question.prompt] for question in questions]


class RecordedWorker(PartWorker):
    """A worker that lays a part's answers before the stage."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe) -> None:
        from mmface.data.captions import Captions

        self.captioner = RecordedAnswers(recipe.components.captioner)
        self.tries = 1 + recipe.captioning.retries
        super().__init__(identity, store, Captions(recipe, self.captioner))

    def run(self, part: str) -> int:
        """Makes one part."""
        self.captioner.answers = {
            (row["id"], row["prompt"]): row["answer"]
            for attempt in range(self.tries)
            for row in recorded(self.publisher.store, part, attempt)
        }
        return super().run(part)


def recorded(store: Store, part: str, attempt: int) -> list[Row]:
    """A part's answers at a try; none where nothing was asked."""
    path = f"{_folder(attempt)}/{part}"
    return read_rows(store.read(path)) if store.exists(path) else []


def vllm(questions: Questions) -> Ask:
    """Asks vLLM engines, ``data.workers`` of them; each needs a GPU."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    from ray.exceptions import RayError

    connect_ray()
    recipe = questions.recipe
    model, _, revision = recipe.components.captioner.partition("@")
    most = recipe.captioning.max_new_tokens
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=model,
            engine_kwargs={"revision": revision} if revision else {},
            concurrency=recipe.data.workers,
            prepare_multimodal_stage={"enabled": True, "chat_template_content_format": "openai"},
        ),
        preprocess=lambda row: {**row, **_request(row["prompt"], row["image"], most)},
        postprocess=lambda row: _answer(row, most),
    )

    def ask(parts: Sequence[str], attempt: int) -> Iterable[Row]:
        blocks = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        asked = blocks.flat_map(lambda row: questions(str(row["part"]), attempt))
        try:
            yield from processor(asked).iter_rows()
        except RayError as error:
            message = f"{cause_of(error)}; run again to go on with the parts that have no answers"
            raise StageError(message, field="captions") from error

    return ask


def _request(prompt: str, image: str, most: int) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": prompt}]
    return {
        "messages": [{"role": "user", "content": content}],
        "sampling_params": {"temperature": 0.0, "max_tokens": most},
    }


def _answer(row: Row, most: int) -> Row:
    """An answer that was cut off loses its last word, which may be half a word."""
    text = str(row["generated_text"])
    answer = text if row["num_generated_tokens"] < most else text.rpartition(" ")[0]
    return {**{name: row[name] for name in ("part", "id", "slot", "prompt", "of")}, "answer": answer}


def _folder(attempt: int) -> str:
    return f"work/answers-{attempt}"


def _names(keys: Iterable[str]) -> set[str]:
    return {PurePosixPath(key).name for key in keys}
