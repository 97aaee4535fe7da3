"""``mmface up`` and ``mmface down``: the local stack as real processes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULT_FOLDER = Path("mmface-stack")
ABOUT = """
Start Prefect, MLflow, Ray, an S3 server, a Prefect worker and, once there is a champion, the HTTP service, and restart
each one that dies. The command runs in the foreground until Ctrl-C; the folder keeps the data for the next start.
"""
DETACHED_SECONDS = 330.0
DOWN_SECONDS = 120.0


def add_command(commands: Any, add_recipe: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds both commands to the command line."""
    up = commands.add_parser("up", help="Start the local stack.", description=ABOUT)
    _add_folder(up)
    up.add_argument("--detach", action="store_true", help="return when every service answers; stop with mmface down")
    up.add_argument("--env", action="store_true", help="print the running stack's environment, for a shell to eval")
    up.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="NAME=PORT",
        help="port of prefect, mlflow, ray, gcs, s3 or serve",
    )
    up.add_argument("--free-ports", action="store_true", help="use any free port for each service without --port")
    up.add_argument("--cpus", type=int, help="CPUs that Ray schedules (default: all, plus one for the HTTP service)")
    up.add_argument("--object-store-mb", type=int, default=500, metavar="MB", help="object store of Ray (default: 500)")
    add_recipe(up)
    up.set_defaults(run=start)
    down = commands.add_parser("down", help="Stop the local stack.", description="Stop every process of mmface up.")
    _add_folder(down)
    down.set_defaults(run=stop)


def _add_folder(command: argparse.ArgumentParser) -> None:
    text = f"folder for data, logs and state of the stack (default: {DEFAULT_FOLDER})"
    command.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help=text)


def start(arguments: argparse.Namespace) -> int:
    """``mmface up``."""
    from flows.stack.place import FIELD, Place
    from mmface.config.load import load_recipe
    from mmface.errors import ServiceError

    place = Place(arguments.folder)
    if arguments.env:
        print(place.environment(), end="")
        return 0
    state = place.state()
    if state is not None and state.supervisor.alive:
        raise ServiceError(f"a stack runs in {place.folder}; stop it with mmface down", field=FIELD)
    if state is not None and any(one.alive for one in state.seen):
        raise ServiceError(
            f"some processes of a dead stack in {place.folder} still run; run mmface down first", field=FIELD
        )
    load_recipe(arguments.recipe, arguments.set)  # fails here rather than in the log of the service
    place.make()
    return _detach(arguments) if arguments.detach else _supervise(arguments)


def stop(arguments: argparse.Namespace) -> int:
    """``mmface down``."""
    import shutil
    import signal

    from flows.stack.place import Place
    from flows.stack.processes import Family, end
    from mmface.errors import ServiceError

    place = Place(arguments.folder)
    state = place.state()
    if state is None:
        print(f"no stack runs in {place.folder}")
        return 0
    state.supervisor.send(signal.SIGTERM)
    until = time.monotonic() + DOWN_SECONDS
    while state.supervisor.alive and time.monotonic() < until:
        state = place.state() or state
        time.sleep(0.2)
    # If the supervisor was killed: the processes that it had recorded, and their descendants.
    left = {one for one in state.seen if one.alive}
    left |= Family().under([one.pid for one in left]) | ({state.supervisor} if state.supervisor.alive else set())
    end(left, 10.0)
    if any(one.alive for one in left):
        raise ServiceError(f"these processes did not stop: {sorted(one.pid for one in left if one.alive)}")
    shutil.rmtree(state.scratch, ignore_errors=True)
    place.forget()
    print(f"stopped {', '.join(state.services)}; data is kept in {place.folder}")
    return 0


def _supervise(arguments: argparse.Namespace) -> int:
    from flows.stack.place import Place
    from flows.stack.services import Options, plan
    from flows.stack.supervisor import Supervisor
    from mmface.store.reach import check_sockets

    place = Place(arguments.folder)
    options = Options(
        folder=place.folder,
        ports=_ports(arguments.port),
        free_ports=arguments.free_ports,
        cpus=arguments.cpus,
        object_store_mb=arguments.object_store_mb,
        recipe=arguments.recipe,
        overrides=tuple(arguments.set),
    )
    scratch = tempfile.mkdtemp(prefix="mmface-ray-")
    try:
        check_sockets(Path(scratch))
        made = plan(options, scratch)
    except BaseException:
        Path(scratch).rmdir()
        raise

    def ready() -> None:
        place.keep_environment(made.environment)
        for service in made.services:
            say(f"{service.name:9}{service.url:26}{service.about}; log {place.log(service.name)}")
        say(f'every service answers; use the stack with: eval "$(mmface up --env --folder {place.folder})"')

    Supervisor(made.services, place, scratch, say).run(ready)
    return 0


def _detach(arguments: argparse.Namespace) -> int:
    """Runs the same command as a background process and waits until the stack is ready."""
    from flows.stack.place import Place
    from mmface.errors import ServiceError

    place = Place(arguments.folder)
    log = place.log("supervisor")
    given = [one for one in sys.argv[1:] if one != "--detach"]
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *given],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + DETACHED_SECONDS
    while time.monotonic() < until and child.poll() is None:
        state = place.state()
        if state is not None and state.supervisor.pid == child.pid and state.ready:
            print(log.read_text(), end="")
            return 0
        time.sleep(0.3)
    child.terminate()
    child.wait(DOWN_SECONDS)
    errors = [line for line in log.read_text().splitlines() if line.startswith("mmface: error: ")]
    raise ServiceError(errors[-1].removeprefix("mmface: error: ") if errors else f"the stack did not start; see {log}")


def say(line: str) -> None:
    """Prints a line without buffering."""
    print(line, flush=True)


def _ports(given: list[str]) -> dict[str, int]:
    from mmface.errors import InputError

    ports = {}
    for one in given:
        name, _, port = one.partition("=")
        if not port.isdigit() or not 1 <= int(port) <= 65535:
            raise InputError(f"{one!r} is not NAME=PORT, such as prefect=4201", field="--port")
        ports[name] = int(port)
    return ports
