"""Measures a rerun in which nothing has changed: the time to find all datasets, against the time to make them.

Times what a flow does before its first task: it checks the sources, and for every stage whether its dataset is
published.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from mmface.store import Store
from tests.benchmarks._common import (
    finish,
    folder,
    identity_of,
    parse,
    pictures,
    recipe_of,
    run_job,
    settings,
    verdict,
)

LIMIT = 5.0


def main() -> None:
    given = parse(__doc__, images=20000, shard=64)
    order = given.stages.split(",")
    with folder(given.home) as place:
        options = settings(pictures(place, given.images), f"data.shard_rows={given.shard}")
        home, made = Store(place / f"home-{given.images}"), {}
        for stage in order:
            run_job(stage, home, options, made)
        seconds = sum(json.loads(Store(uri).read("manifest.json"))["seconds"] for uri in made.values())
        task = {"home": home.uri, "options": options, "stages": order}
        command = [sys.executable, "-m", "tests.benchmarks.rerun", "--decide", json.dumps(task)]
        answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    assert answer["found"] == made, "the rerun does not find the datasets of the first run"
    again = answer["seconds"]
    print(f"     made in {seconds:.1f} s, found again in {again:.2f} s: {seconds / again:.0f} x, {given.images} rows")
    finish([verdict("no-change rerun decides", again, LIMIT, unit=" s")])


def decide(home: Store, options: Sequence[str], order: Sequence[str]) -> dict[str, Any]:
    """Looks up the dataset of every stage in a new process; the time excludes imports."""
    from flows.steps.preflight import check
    from mmface.datasets.dataset import published

    start = time.perf_counter()
    recipe = recipe_of(options)
    check(recipe)
    found: dict[str, str] = {}
    for stage in order:
        uri = published(home, identity_of(stage, recipe, home, found))
        if uri is None:
            break
        found[stage] = uri
    return {"found": found, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--decide"]:
        task = json.loads(sys.argv[2])
        print(json.dumps(decide(Store(task["home"]), task["options"], task["stages"])))
    else:
        main()
