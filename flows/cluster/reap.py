"""The reaper: stops orphaned jobs, which no flow waits for, and marks killed flow runs as crashed (§10)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import UUID

from flows.cluster import ledger
from flows.cluster.server import answering
from mmface.store import Store, leases
from mmface.store.leases import Lease, Owner
from mmface.store.reach import dashboard_address

log = logging.getLogger(__name__)


def reap_everything(home: Store) -> list[str]:
    """Stops all orphaned jobs and marks the flow runs of dead processes as crashed; returns one line for each.

    Raises:
        ServiceError: a cluster or Prefect refuses or does not answer.
    """
    runs = {owner.flow_run for _, owner in leases.dead(home)} - {""}
    lines = [f"stopped job {submission_id}" for submission_id in reap_jobs(home)]
    return lines + [f"marked flow run {run} as crashed" for run in sorted(runs) if _mark_crashed(run)]


def reap_jobs(home: Store, *, flow_run: str | None = None) -> list[str]:
    """Stops jobs whose flow is dead; returns their submission ids.

    Args:
        flow_run: only jobs of this flow run.

    Raises:
        ServiceError: a cluster refuses or does not answer.
    """
    stopped = []
    for name, owner in leases.dead(home):
        if flow_run in (None, owner.flow_run):
            entry = ledger.newest(home, name)
            stopped += _stop(home, name, [entry] if entry else [], owner.flow_run)
    if flow_run is None:
        for entry in _unwanted(home):
            stopped += _stop(home, entry.lease, [entry], entry.flow_run)
    return stopped


def _stop(home: Store, name: str, entries: list[ledger.Entry], flow_run: str) -> Iterator[str]:
    """Stops the jobs while holding their lease, so that no flow attaches to a job that is being stopped."""
    lease = leases.take(home, name, Owner.this(""))
    if not isinstance(lease, Lease):
        return
    try:
        for entry in entries:
            if entry.address:
                from flows.cluster.client import Cluster

                if Cluster(entry.address).stop(entry.submission_id):
                    log.info("stopped job %s of flow run %s", entry.submission_id, flow_run or "unknown")
                    yield entry.submission_id
    finally:
        lease.release()


def _unwanted(home: Store) -> Iterator[ledger.Entry]:
    """Entries of the jobs that run on the cluster of ``RAY_ADDRESS`` without a living owner."""
    address = dashboard_address()
    if not address:
        return
    from flows.cluster.client import Cluster

    for job in Cluster(address).jobs():
        entry = ledger.find(home, str(job.submission_id))
        if not job.status.is_terminal() and entry and leases.holder(home, entry.lease) is None:
            yield entry


def _mark_crashed(flow_run: str) -> bool:
    """Marks a flow run as crashed if Prefect still believes that it runs; returns whether it did."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    with answering(), get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(flow_run)).state
        except ObjectNotFound:
            return False
        if state is None or state.is_final():
            return False
        message = "its process is gone; run it again to resume"
        client.set_flow_run_state(UUID(flow_run), Crashed(message=message), force=True)
        return True
