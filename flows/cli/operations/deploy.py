"""``mmface deploy``: applies deployments, schedules and automations to the Prefect server of PREFECT_API_URL."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

INFRA = Path(__file__).parents[3] / "infra"  # beside the packages, in a checkout as in a wheel
DEFAULT_FILE = INFRA / "prefect" / "prefect.yaml"
DASHBOARDS = INFRA / "grafana"
AUTOMATIONS = "automations.yaml"  # beside the deployments, optional
POOL_TYPE = "process"
# How many training and preparation stages run at once; see flows.steps.tasks.LIMITS.
SLOTS = {"mmface-train": 1, "mmface-prepare": 2}
SERVER = "PREFECT_API_URL"
WORKER_SECONDS = 10.0


def add_command(commands: Any, add_recipe: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the command to the command line."""
    text = "Apply deployments, schedules and automations to the Prefect server of PREFECT_API_URL."
    command = commands.add_parser("deploy", help=text, description=text)
    add_recipe(command)
    text = "prefect.yaml to apply (default: the one that ships)"
    command.add_argument("--file", type=Path, default=DEFAULT_FILE, metavar="YAML", help=text)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``mmface deploy``."""
    from flows.cli.tables import table
    from mmface.config.load import load_recipe

    load_recipe(arguments.recipe, arguments.set)
    declared = with_recipe(read(arguments.file), arguments.recipe, arguments.set)
    require_server()
    pools = sorted({one["work_pool"]["name"] for one in declared["deployments"]})
    prepare_server(pools)
    apply(declared)
    apply_automations(arguments.file.with_name(AUTOMATIONS))
    print(table(("DEPLOYMENT", "SCHEDULE", "STARTED BY"), [_row(one) for one in declared["deployments"]]))
    for pool in pools:
        if not wait_for_worker(pool):
            remedy = f"start one: prefect worker start --pool {pool} --type {POOL_TYPE} (mmface up starts one)"
            print(f"mmface: warning: no worker polls the pool {pool}, so no flow will run; {remedy}", file=sys.stderr)
    return 0


def _row(one: dict[str, Any]) -> tuple[str, str, str]:
    schedules = ", ".join(f"{each['cron']} {each.get('timezone', '')}".strip() for each in one.get("schedules", ()))
    events = ", ".join(event for trigger in one.get("triggers", ()) for event in trigger["expect"])
    return f"{one['entrypoint'].rpartition('.')[2]}/{one['name']}", schedules, events


def read(file: Path) -> dict[str, Any]:
    """The content of a prefect.yaml. Raises InputError when the file is missing or malformed."""
    import yaml

    from mmface.errors import InputError

    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        remedy = "give your own, or a copy of infra/prefect/prefect.yaml, which ships"
        raise InputError(f"cannot read {file} ({error.strerror}); {remedy}", field="--file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not YAML: {str(error).splitlines()[0]}", field="--file") from None
    if not isinstance(content, dict) or not content.get("deployments"):
        raise InputError(f"{file} lists no deployments", field="--file")
    return content


def with_recipe(declared: dict[str, Any], recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The deployments with another recipe; the overrides of each deployment are kept and come last."""
    deployments = []
    for one in declared["deployments"]:
        given = one.get("parameters", {})
        if "recipe" in given:
            given = given | {"recipe": recipe, "overrides": [*overrides, *given.get("overrides", ())]}
        deployments.append(one | {"parameters": given})
    return declared | {"deployments": deployments}


def require_server() -> None:
    """Raises ServiceError unless a Prefect server answers."""
    from mmface.errors import ServiceError, UnreachableError
    from mmface.store.reach import unreachable

    address = os.environ.get(SERVER)
    if not address:
        raise ServiceError('set it to a Prefect server: eval "$(mmface up --env)", or its own …/api', field=SERVER)
    problem = unreachable(address)
    if problem:
        raise UnreachableError(f"{problem}; start it: mmface up", field=SERVER)


def prepare_server(pools: Sequence[str]) -> None:
    """Creates missing work pools and concurrency limits; existing ones are not changed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        for pool in pools:
            try:
                client.read_work_pool(pool)
            except ObjectNotFound:
                template = ProcessWorker.get_default_base_job_template()
                client.create_work_pool(WorkPoolCreate(name=pool, type=POOL_TYPE, base_job_template=template))
        for name, limit in SLOTS.items():
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))


def apply(declared: dict[str, Any]) -> None:
    """Runs ``prefect deploy --all``. Raises ServiceError with its last line when it fails."""
    import yaml

    from mmface.errors import ServiceError

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(declared))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ServiceError(f"prefect deploy failed: {reason}", field=SERVER)


def apply_automations(file: Path) -> None:
    """Creates the automations of a file; replaces those with the same name."""
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    if not file.exists():
        return
    with get_client(sync_client=True) as client:
        for one in yaml.safe_load(file.read_text()):
            wanted = AutomationCore.model_validate(one)
            for old in client.read_automations_by_name(wanted.name):
                client.delete_automation(old.id)
            client.create_automation(wanted)


def wait_for_worker(pool: str) -> bool:
    """Whether a worker polls the pool. Waits a few seconds, since the server knows a worker by its first heartbeat."""
    from prefect.client.orchestration import get_client

    until = time.monotonic() + WORKER_SECONDS
    with get_client(sync_client=True) as client:
        while not any(one.status == "ONLINE" for one in client.read_workers_for_work_pool(pool)):
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
    return True
