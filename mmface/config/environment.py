"""Prepares the environment variables of MMFace's processes: no proxy for loopback, other folders if ``HOME`` cannot be
written."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmface.store import HOME_VARIABLE, home

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # also in capitals
# Folders that libraries keep below HOME: the variable that moves each, and its folder below MMFACE_HOME/user.
FOLDERS = {
    "PREFECT_HOME": "prefect",
    "XDG_CONFIG_HOME": "config",  # MLflow, matplotlib
    "XDG_CACHE_HOME": "cache",  # the hub, torch, matplotlib
    "TRITON_CACHE_DIR": "triton",  # compiled kernels of train.compile
}
USER = "user"
# Loggers of libraries, and the level below which they say nothing that a user could act on.
QUIET = {
    "bitsandbytes.backends.cpu.ops": logging.ERROR,  # a faster 4-bit kernel could be downloaded; we do not use 4 bits
    "ray._private.authentication.authentication_token_setup": logging.ERROR,  # a local Ray wants a token, and has one
    "ray.data._internal.execution.streaming_executor": logging.ERROR,
    "ray.data._internal.progress": logging.ERROR,
}


def prepare_environment() -> None:
    """Sets variables that this process and its children need, and logs them; every process calls it at its start.

    Must run before Prefect, MLflow and Ray are imported, because they read the environment on import.

    Raises:
        InputError: ``HOME`` cannot be written and ``MMFACE_HOME`` is neither a folder nor S3.
    """
    for line in (*_reach_loopback(), *_replace_home()):
        log.info("%s", line)


def quiet_libraries() -> None:
    """Silences warnings of libraries that nobody can act on; called where a process of ours sets up its log."""
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)


def user_folder_problem() -> str | None:
    """Why the embedded Prefect server has no folder for its database; None if it has one."""
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_HOME") or _can_be_written(_user()):
        return None
    return f"{_user()} cannot be written and {HOME_VARIABLE} is not a local folder; set PREFECT_HOME to a local folder"


def _reach_loopback() -> Iterator[str]:
    """Adds loopback to ``NO_PROXY``: otherwise requests to servers on this machine would go to the proxy."""
    set_here = [name for one in PROXIES for name in (one, one.upper()) if os.environ.get(name)]
    if not set_here:
        return
    lower, upper = os.environ.get("no_proxy", ""), os.environ.get("NO_PROXY", "")
    added = []
    for name, given in (("no_proxy", lower or upper), ("NO_PROXY", upper or lower)):
        hosts = [host.strip() for host in given.split(",") if host.strip()]
        missing = [host for host in LOOPBACK if host not in hosts and hosts != ["*"]]
        os.environ[name] = ",".join([*hosts, *missing])
        added += missing
    if added:
        hosts_added = ", ".join(dict.fromkeys(added))
        yield f"{set_here[0]} is set: {hosts_added} added to NO_PROXY for the servers that MMFace runs on this machine"


def _replace_home() -> Iterator[str]:
    if all(name in os.environ for name in FOLDERS):
        return  # set by a parent process or by the user
    user = _user()
    root = None if _can_be_written(user) else home().local_path
    if root is None:
        return
    place = root / USER
    try:
        place.mkdir(parents=True, exist_ok=True)  # Prefect creates its folder, but not the folders above
    except OSError:
        return  # MMFACE_HOME cannot be written either; preflight and doctor report that
    if not user.is_absolute():
        os.environ["HOME"] = str(place)  # HOME is not set at all, and some libraries read it on import
    hub = user / ".cache" / "huggingface"
    if hub.is_dir():
        os.environ.setdefault("HF_HOME", str(hub))  # keep using the existing cache, which can still be read
    for name, folder in FOLDERS.items():
        os.environ.setdefault(name, str(place / folder))
    token = user / ".ray" / "auth_token"
    if not (os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_AUTH_TOKEN_PATH") or token.exists()):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # otherwise Ray writes a new token below HOME
    yield f"HOME ({user}) cannot be written: Prefect, MLflow and caches use {place}"


def _user() -> Path:
    """The user's home folder; ``~`` itself if the system has none."""
    return Path(os.path.expanduser("~"))


def _can_be_written(folder: Path) -> bool:
    try:
        with tempfile.TemporaryDirectory(prefix=".mmface-", dir=folder):
            return folder.is_absolute()
    except OSError:
        return False
