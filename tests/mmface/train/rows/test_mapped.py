"""Memory-mapped rows, also on a disk with too little space."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmface.train.rows.mapped import mapped

CODE = """
import resource, sys
if sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
from mmface.errors import TrainingError
from mmface.train.rows.mapped import mapped
mapped(100, 1000)[:] = 1.0
try:
    mapped(300, 1000)[:] = 1.0
except TrainingError as error:
    print(error)
"""


def test_an_array_is_zero_and_may_be_empty() -> None:
    assert mapped(2, 3).tolist() == np.zeros((2, 3)).tolist()
    assert mapped(0, 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("disk", "reason"), [("full", "No space left on device"), ("of small files", "File too large")]
)
def test_a_full_disk_raises_an_error_that_names_it(tmp_path: Path, disk: str, reason: str) -> None:
    command = [sys.executable, "-c", CODE]
    if disk == "full":
        small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m none "$TMPDIR" && exec "$@"', "sh"]
        if shutil.which("unshare") is None or _run([*small, "true"], tmp_path).returncode:
            pytest.skip("nothing can be mounted here")
        ended = _run([*small, *command], tmp_path)
    else:
        ended = _run([*command, "limited"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    message = f"TMPDIR: no space for 1.1 MiB of training rows in {tmp_path}: {reason}; free space there, or set it to"
    assert ended.stdout.startswith(message)


def _run(command: list[str], tmpdir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmpdir)}
    )
