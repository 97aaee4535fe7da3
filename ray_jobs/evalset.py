"""Job that chooses the rows of an evaluation set, and stores what painting and measuring them needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath

from mmface import plan
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.parts import DATA, join_parts, part_names
from mmface.datasets.records import EVALSET
from mmface.datasets.stage import Row
from mmface.errors import StageError
from mmface.store.tables import to_parquet
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program

ROWS = ("images", "conditions", "captions")


def main(argv: Sequence[str] | None = None) -> str:
    """Chooses the rows and publishes the set; returns its URI, at once if this version of the set exists."""
    job = parse_arguments("evalset", argv, needs=ROWS)
    identity = plan.evalset(job.recipe)
    given = {name: job.inputs[name] for name in ROWS}

    def work(publisher: Publisher) -> str:
        from mmface.evaluate.evalset import PART_ROWS, choose_rows

        inputs = [open_dataset(uri) for uri in given.values()]
        chosen = choose_rows(_held_out(inputs), job.recipe.evaluate)
        if not chosen:
            raise StageError("no photograph is held out; raise data.holdout or add photographs", field="data.holdout")
        for left in publisher.finished(DATA):  # of a killed run, which may have chosen other rows
            publisher.store.delete(left)
        pinned = _pinned(inputs, chosen)
        number = 0
        while rows := list(islice(pinned, PART_ROWS)):
            publisher.write(f"{DATA}/part-{number:05d}.parquet", to_parquet(rows, EVALSET))
            number += 1
        origin = {name: "/".join(PurePosixPath(uri).parts[-2:]) for name, uri in given.items()}
        return publisher.publish({"out": len(chosen)}, extra={"chosen_from": origin})

    return exactly_once(job.home, identity, work)


def _held_out(inputs: Sequence[Dataset]) -> Iterator[str]:
    for part in part_names(inputs[0]):
        for row in join_parts(inputs, part, columns=[["id", "split"], ["id"], ["id"]]):
            if row["split"] == "test":
                yield row["id"]


def _pinned(inputs: Sequence[Dataset], chosen: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    from mmface.evaluate.evalset import pin_row

    for part in part_names(inputs[0]):
        known = {row["id"] for row in inputs[0].part(f"{DATA}/{part}", ["id"]).to_pylist()}
        if known & chosen.keys():
            yield from (pin_row(row, chosen[row["id"]]) for row in join_parts(inputs, part) if row["id"] in chosen)


if __name__ == "__main__":
    run_as_program(main)
