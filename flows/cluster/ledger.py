"""The ledger (§10): every job is entered in the store before it is submitted, so that none is ever without a trace."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import asdict, dataclass

from mmface.store import Store

FOLDER = "ledger"


@dataclass(frozen=True)
class Entry:
    """One attempt at a stage.

    Attributes:
        address: of the cluster's dashboard; empty when the stage runs in the flow's process.
        session: which life of that cluster, a restarted head knows nothing of the jobs before.
        flow_run: id of the Prefect flow run that submitted it.
        lease: whose living holder wants the job; see :mod:`flows.cluster.leases`.
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
        """Where it is kept."""
        return f"{FOLDER}/{self.submission_id}.json"


def attempt(lease: str, number: int) -> str:
    """Submission id of an attempt at the work of a lease."""
    return f"mmface-{lease}-{number}"


def record(home: Store, entry: Entry) -> None:
    """Enters an attempt; the first entry of an id stays."""
    home.write(entry.key, json.dumps(asdict(entry)).encode(), if_absent=True)


def find(home: Store, submission_id: str) -> Entry | None:
    """The entry of an id."""
    key = f"{FOLDER}/{submission_id}.json"
    return Entry(**json.loads(home.read(key))) if home.exists(key) else None


def of_flow_runs(home: Store, flow_runs: Container[str]) -> list[Entry]:
    """Every entry of these flow runs."""
    entries = (Entry(**json.loads(home.read(one.key))) for one in home.list(FOLDER))
    return [entry for entry in entries if entry.flow_run in flow_runs]


def newest(home: Store, lease: str) -> Entry | None:
    """The last attempt at the work of a lease."""
    last, number = None, 0
    while entry := find(home, attempt(lease, number)):
        last, number = entry, number + 1
    return last
