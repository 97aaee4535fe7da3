"""Orphans: jobs that go on although nobody waits for them, and what killed flows left on this machine (§10)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import UUID

from flows.cluster import leases, ledger
from flows.cluster.leases import Lease, Owner
from flows.cluster.server import answering
from mmface.store import Store
from mmface.store.reach import dashboard_address

log = logging.getLogger(__name__)


def reap_everything(home: Store) -> list[str]:
    """Ends what dead flows left behind; one line for each thing.

    Raises:
        ServiceError: a cluster or Prefect refuses or does not answer.
    """
    runs = {owner.flow_run for _, owner in leases.dead(home)} - {""}
    lines = [f"stopped job {submission_id}" for submission_id in reap_jobs(home)]
    return lines + [f"marked flow run {run} as crashed" for run in sorted(runs) if _mark_crashed(run)]


def reap_jobs(home: Store, *, flow_run: str | None = None) -> list[str]:
    """Stops jobs whose flow is dead; ids of those it stopped.

    Args:
        flow_run: look after this flow run alone.

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
    """Stops the jobs while it holds their lease itself, so that no flow attaches to one that is being stopped."""
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
    """Entries of jobs that are at work on the cluster of ``RAY_ADDRESS`` with no living owner."""
    address = dashboard_address()
    if not address:
        return
    from flows.cluster.client import Cluster

    for job in Cluster(address).jobs():
        entry = ledger.find(home, str(job.submission_id))
        if not job.status.is_terminal() and entry and leases.holder(home, entry.lease) is None:
            yield entry


def _mark_crashed(flow_run: str) -> bool:
    """Ends a flow run that Prefect still takes for running; False when it knows better."""
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
        message = "its process is gone; run it again to go on where it stopped"
        client.set_flow_run_state(UUID(flow_run), Crashed(message=message), force=True)
        return True
