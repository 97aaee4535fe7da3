"""Processes, identified uniquely over time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from mmface.store.processes import Process, this_machine

ME = Process.of(os.getpid())


def test_a_running_process_is_not_gone_and_an_ended_one_is() -> None:
    assert ME.machine == this_machine() != ""
    assert not ME.is_gone()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        child = Process.of(process.pid)
        assert not child.is_gone()
        process.kill()
        while not child.is_gone():  # a zombie until the parent waits for it
            pass
    assert child.is_gone()


def test_a_process_with_a_reused_id_is_a_different_process() -> None:
    assert replace(ME, started="1").is_gone()


def test_a_process_of_unknown_state_is_not_gone() -> None:
    assert not replace(ME, machine="0" * 16, started="1").is_gone()
    assert not replace(ME, machine="", started="1").is_gone()
    assert not replace(ME, started="").is_gone()
