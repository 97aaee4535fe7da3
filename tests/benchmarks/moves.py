"""Two promotions and a rollback at once, with random kills: one winner, a whole record, no ungated champion.

Run as ``python -m tests.benchmarks.moves [--rounds 50] [--server]``: on MLflow's SQLite in a new home, or with
``--server`` on an MLflow server that this starts. Prints how each round ended, and PASS or FAIL.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 600


def main() -> int:
    """Runs the rounds; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="default: 50; every fifth is without kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", action="store_true", help="use an MLflow server instead of SQLite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MMFACE_HOME"] = f"{scratch}/home"
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        with server(Path(scratch)) if given.server else sqlite():
            return play(Path(scratch), given.rounds, given.seed)


def play(folder: Path, rounds: int, seed: int) -> int:
    """Plays the rounds and prints a line for each."""
    from tests.flows.races import Arena

    arena, kinds, killed = Arena(folder, seed), Counter[str](), 0
    print("round  exit codes, in the order of the starts                winner        time")
    for number in range(rounds):
        try:
            race = arena.round(number, kills=number % 5 > 0)
        except AssertionError as error:
            print(f"FAIL  round {number}: {error}")
            return 1
        kinds.update(race.kinds or ["none"])
        killed += sum(one.killed for one in race.commands)
        print(race.line(), flush=True)
    ends = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    print(f"PASS  {rounds} rounds, {killed} processes killed; winners: {ends}")
    return 0


@contextmanager
def sqlite() -> Iterator[None]:
    """Opens the new database in one process, before others use it."""
    from mmface.bundles.tracking import open_tracking

    open_tracking()
    yield


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """An MLflow server on SQLite; the environment names it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no process for each kind of job
    with (folder / "server.log").open("w") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(address):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError((folder / "server.log").read_text())
            time.sleep(0.5)
        os.environ["MLFLOW_TRACKING_URI"] = address
        yield
    finally:
        process.terminate()
        process.wait(60)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
