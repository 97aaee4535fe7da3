"""Measures the overhead of the flow: a retraining in which nothing has changed, and orchestration compared with work.

    python -m tests.benchmarks.flow [--portraits 200] [--steps 100] [--samples 32] [--home DIR]

Prints both figures of one run next to their limits. The stages' own time is the time in their entrypoints and in the
steps of the release (register, gate, try, report). Everything else is orchestration: Prefect, leases, the ledger,
preflight, artifacts, waiting. With ``RAY_ADDRESS=http://…`` the time of an entrypoint is that of its Ray job. The
smaller the sizes, the more fixed costs count, so the sizes are printed too.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from mmface.store import HOME_VARIABLE
from mmface.store.reach import dashboard_address
from tests.benchmarks._common import finish, folder, parse, verdict

NO_CHANGE_SECONDS = 20.0
OVERHEAD = 0.05
ENTRYPOINTS = (
    "portraits",
    "images",
    "conditions",
    "captions",
    "text",
    "latents",
    "train",
    "evalset",
    "samples",
    "scores",
    "bundle",
)


class Stopwatch:
    """Adds up the time spent in the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def settings(portraits: int, steps: int, samples: int) -> tuple[str, ...]:
    """Overrides of the demo recipe."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sizes = [f"portraits.n={portraits}", f"phases.0.steps={steps}", f"phases.1.steps={steps}"]
    sizes += [f"evaluate.n={samples}", f"evaluate.n_sketch={samples // 2}", f"serve.port={port}"]
    return (*sizes, "gate.min_mask_miou=0", "gate.min_hair_colour=0")


def own_time() -> Stopwatch:
    """Starts to measure all functions of this process that are not orchestration."""
    from flows import release
    from flows.steps.warm import WarmUp

    watch = Stopwatch()
    for name in ENTRYPOINTS:
        module = importlib.import_module(f"ray_jobs.{name}")
        module.main = watch.around(module.main)  # type: ignore[attr-defined]
    WarmUp.run_here = watch.around(WarmUp.run_here)  # type: ignore[method-assign]
    for task in (release.register, release.gate, release.try_service, release.write_report):
        task.fn = watch.around(task.fn)
    return watch


def seconds_of_jobs() -> float:
    """Total duration of the cluster's jobs by its own clock; 0 without a cluster."""
    from flows.cluster.client import Cluster

    address = dashboard_address()
    jobs = Cluster(address).jobs() if address else []
    return sum(((job.end_time or 0) - (job.start_time or 0)) / 1000 for job in jobs)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a retraining twice and prints both figures."""
    given = parse(__doc__, argv, portraits=200, steps=100, samples=32)
    overrides = settings(given.portraits, given.steps, given.samples)
    with folder(given.home) as place:
        os.environ[HOME_VARIABLE] = str(place / "home")
        os.environ.setdefault("PREFECT_HOME", str(place / "prefect"))
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        from flows.cluster.server import start_temporary_server
        from flows.maintenance import reap
        from flows.retrain import retrain

        start_temporary_server()
        reap()  # the first flow of a process loads Prefect, which a running stack has already done
        watch, before = own_time(), seconds_of_jobs()
        took = []
        for _ in range(2):
            start = time.perf_counter()
            retrain("demo", overrides)
            took.append(time.perf_counter() - start)
            if len(took) == 1:
                own = watch.seconds + seconds_of_jobs() - before
    sizes = f"{given.portraits} portraits, 2 x {given.steps} steps, {given.samples} samples"
    print(f"demo with {sizes} on {os.cpu_count()} CPUs")
    print(f"whole retraining {took[0]:.1f} s, of which the stages' own {own:.1f} s; again, unchanged: {took[1]:.1f} s")
    held = [
        verdict("orchestration beside the stages' own time", (took[0] - own) / own, OVERHEAD),
        verdict("a retraining in which nothing has changed", took[1], NO_CHANGE_SECONDS, unit=" s"),
    ]
    finish(held)


if __name__ == "__main__":
    main()
