"""``mmface jobs list|logs|stop`` and ``mmface reap``: the jobs of a cluster, and orphaned jobs."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from mmface.errors import InputError, ServiceError

if TYPE_CHECKING:
    from flows.cluster.client import Cluster


def add_command(commands: Any) -> None:
    """Adds both commands to the command line."""
    text = "List, read and stop jobs on the Ray cluster of RAY_ADDRESS."
    group = commands.add_parser("jobs", help=text, description=text).add_subparsers(required=True, metavar="ACTION")
    listing = group.add_parser("list", help="List jobs, newest first: status, age, and which flow waits for them.")
    listing.add_argument("--running", action="store_true", help="list only jobs that still run")
    listing.set_defaults(run=show_jobs)
    logs = group.add_parser("logs", help="Print the log of a job.")
    logs.add_argument("id")
    logs.add_argument("--follow", action="store_true", help="follow the log until the job ends")
    logs.set_defaults(run=show_logs)
    stop = group.add_parser("stop", help="Stop a job; the flow that waits for it fails and can be run again.")
    stop.add_argument("id")
    stop.set_defaults(run=stop_job)
    text = "Stop jobs whose flow is dead, and mark its flow run as crashed."
    commands.add_parser("reap", help=text, description=text).set_defaults(run=reap)


def show_jobs(arguments: argparse.Namespace) -> int:
    """``mmface jobs list``."""
    from flows.cli.tables import age, table
    from flows.cluster import ledger
    from mmface.store import home, leases

    store, rows = home(), []
    for job in sorted(_cluster().jobs(), key=lambda job: -(job.start_time or 0)):
        if arguments.running and job.status.is_terminal():
            continue
        entry = ledger.find(store, str(job.submission_id))
        owner = leases.holder(store, entry.lease) if entry and not job.status.is_terminal() else None
        shown = str(owner or ("" if job.status.is_terminal() else "none (mmface reap stops it)" if entry else "?"))
        since = age(time.time() - (job.start_time or 0) / 1000)
        rows.append((str(job.submission_id), str(job.status.value), since, shown))
    print(table(("JOB", "STATUS", "STARTED", "OWNER"), rows))
    return 0


def show_logs(arguments: argparse.Namespace) -> int:
    """``mmface jobs logs``."""
    cluster = _cluster()
    _known(cluster, arguments.id)
    if arguments.follow:
        from flows.cluster.watch import watch

        watch(cluster, arguments.id, lambda: None, print)
    else:
        print(cluster.logs(arguments.id), end="")
    return 0


def stop_job(arguments: argparse.Namespace) -> int:
    """``mmface jobs stop``."""
    cluster = _cluster()
    _known(cluster, arguments.id)
    print(f"{arguments.id} {'was stopped' if cluster.stop(arguments.id) else 'had already ended'}")
    return 0


def reap(arguments: argparse.Namespace) -> int:
    """``mmface reap``."""
    from flows.cluster.reap import reap_everything
    from mmface.store import home

    lines = reap_everything(home())
    print("\n".join(lines) if lines else "no orphaned jobs or flow runs")
    return 0


def _cluster() -> Cluster:
    from mmface.store.reach import dashboard_address

    address = dashboard_address()
    if address is None:
        raise ServiceError("set it to the dashboard of a Ray cluster, such as http://head:8265", field="RAY_ADDRESS")
    from flows.cluster.client import Cluster

    return Cluster(address)


def _known(cluster: Cluster, submission_id: str) -> None:
    if cluster.find(submission_id) is None:
        raise InputError(f"the cluster knows no job {submission_id!r}; see mmface jobs list", field="id")
