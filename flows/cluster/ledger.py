"""The ledger (§10): the record of every job, written to the store before the job is submitted."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import asdict, dataclass

from mmface.store import Store

FOLDER = "ledger"


@dataclass(frozen=True)
class Entry:
    """One attempt at running a stage.

    Attributes:
        address: of the cluster's dashboard; empty when the stage runs in the flow's process.
        session: the cluster's session; a restarted head has a new one and does not know earlier jobs.
        flow_run: id of the Prefect flow run that submitted it.
        lease: name of the lease whose owner waits for the job; see :mod:`mmface.store.leases`.
    """

    submission_id: str
    stage: str
    arguments: list[str]
    address: str
    session: str
    flow_run: str
    lease: str

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{FOLDER}/{self.submission_id}.json"


def attempt(lease: str, number: int) -> str:
    """The submission id of attempt ``number`` at the work of a lease."""
    return f"mmface-{lease}-{number}"


def record(home: Store, entry: Entry) -> None:
    """Writes the entry of an attempt; an existing entry with its id is kept."""
    home.write(entry.key, json.dumps(asdict(entry)).encode(), if_absent=True)


def find(home: Store, submission_id: str) -> Entry | None:
    """The entry with this submission id, if there is one."""
    key = f"{FOLDER}/{submission_id}.json"
    return Entry(**json.loads(home.read(key))) if home.exists(key) else None


def of_flow_runs(home: Store, flow_runs: Container[str]) -> list[Entry]:
    """All entries of these flow runs."""
    entries = (Entry(**json.loads(home.read(one.key))) for one in home.list(FOLDER))
    return [entry for entry in entries if entry.flow_run in flow_runs]


def newest(home: Store, lease: str) -> Entry | None:
    """The entry of the last attempt at the work of a lease."""
    last, number = None, 0
    while entry := find(home, attempt(lease, number)):
        last, number = entry, number + 1
    return last
