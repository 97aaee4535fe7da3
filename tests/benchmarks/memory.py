"""Compares the peak memory of stages over many rows and over few rows, for the driver and its largest worker.

A stage that keeps more than a part in memory fails. Every stage runs in processes of its own, whose peak memory is the
kernel's ``VmHWM``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from mmface.store import Store
from tests.benchmarks._common import finish, folder, parse, pictures, run_job, settings, verdict

LIMIT = 1.15
SECONDS = 0.2


def main() -> None:
    given = parse(__doc__, few=2000, many=20000, shard=64)
    with folder(given.home) as place:
        few, many = (measure(place, count, given.shard, given.stages.split(",")) for count in (given.few, given.many))
    held = []
    for who in few:
        print(f"     {who}: {few[who] / 1024:.0f} MiB over {given.few} rows, {many[who] / 1024:.0f} over {given.many}")
        held.append(verdict(f"{who}: peak memory, many over few rows", many[who] / few[who], LIMIT, unit=" x"))
    finish(held)


def measure(place: Path, count: int, shard: int, stages: list[str]) -> dict[str, int]:
    """Peak memory in KiB of driver and worker by stage, over ``count`` photographs."""
    photos = pictures(place, count)
    peaks = {}
    made: dict[str, str] = {}
    for stage in stages:
        task = {"stage": stage, "options": settings(photos, f"data.shard_rows={shard}"), "made": made}
        task |= {"home": str(place / f"home-{count}")}
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--driver", json.dumps(task)]
        answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        made[stage] = answer["uri"]
        if answer["worker"]:  # no worker ran if the dataset was already published
            peaks |= {f"{stage} driver": answer["driver"], f"{stage} worker": answer["worker"]}
    return peaks


def drive(task: dict[str, Any]) -> None:
    """Runs one stage in this process, polls its workers, and prints the peaks."""
    seen: dict[int, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS):
            seen.update(workers())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    uri = run_job(task["stage"], Store(task["home"]), task["options"], task["made"])
    over.set()
    thread.join()
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"uri": uri, "driver": driver, "worker": max(seen.values(), default=0)}))


def workers() -> dict[int, int]:
    """Peak memory so far in KiB of every busy Ray worker that descends from this process."""
    import os

    parents, status = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines = dict(
                    line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line
                )
                title = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(lines["PPid"])
            if title.startswith(b"ray::") and b"IDLE" not in title and "VmHWM" in lines:
                status[int(entry.name)] = int(lines["VmHWM"].split()[0])

    def below(pid: int) -> bool:
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid]
        return False

    return {pid: peak for pid, peak in status.items() if below(pid)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--driver"]:
        drive(json.loads(sys.argv[2]))
    else:
        main()
