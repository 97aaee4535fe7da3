"""Scratch folders are deleted with their context, and those of killed processes by the next process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from mmface.store.scratch import scratch_folder

HOLD = """
import os, sys, time
from mmface.store.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def hold(place: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "TMPDIR": str(place)}
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment)
    return process, Path(process.stdout.readline().strip())


def test_folders_of_killed_processes_are_deleted_and_of_running_ones_kept(tmp_path, monkeypatch):
    (dead, left), (alive, used) = hold(tmp_path), hold(tmp_path)
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert (left / "large").exists()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as folder:
        assert not list(folder.iterdir())
        assert not left.exists()
        assert (used / "large").exists()
    alive.send_signal(signal.SIGKILL)
    alive.wait()
    with scratch_folder():
        assert not used.exists()
    assert not list(tmp_path.iterdir())
