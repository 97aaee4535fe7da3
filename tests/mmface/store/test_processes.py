"""Processes named for good."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from mmface.store.processes import Process, this_machine

ME = Process.of(os.getpid())


def test_one_that_runs_is_not_gone_and_one_that_ended_is() -> None:
    assert ME.machine == this_machine() != ""
    assert not ME.is_gone()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        child = Process.of(process.pid)
        assert not child.is_gone()
        process.kill()
        while not child.is_gone():  # a zombie, which nobody has waited for
            pass
    assert child.is_gone()


def test_an_id_that_was_given_again_is_another_process() -> None:
    assert replace(ME, started="1").is_gone()


def test_what_cannot_be_known_is_not_gone() -> None:
    assert not replace(ME, machine="0" * 16, started="1").is_gone()
    assert not replace(ME, machine="", started="1").is_gone()
    assert not replace(ME, started="").is_gone()
