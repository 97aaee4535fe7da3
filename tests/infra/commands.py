"""Whether a command in a manifest starts what there is, with arguments that it takes."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn
from unittest.mock import patch

import pytest

from flows.cli.command_line import _parser
from ray_jobs.shared.job import parse_arguments
from tests.infra.manifests import tool

DEPENDENCIES = ("mlflow", "prefect", "ray", "serve")


class Parsed(Exception):
    """A job has understood its command line."""


def check_command(command: str | Sequence[str]) -> None:
    """Asserts that the program is ours or a dependency's, and that its own parser knows the arguments."""
    program, *arguments = shlex.split(command) if isinstance(command, str) else command
    if program == "python":
        assert re.fullmatch(r"-m ray_jobs\.[a-z]+", " ".join(arguments[:2])), command
        _check_job(arguments[1], arguments[2:])
    elif program == "mmface":
        _parser().parse_args(arguments)
    else:
        assert program in DEPENDENCIES, command
        path = [word for word in _until_option(arguments) if re.fullmatch(r"[a-z]+", word)]
        text = _help(program, *path)
        for word in arguments:
            if option := re.match(r"--?[a-z][\w-]*", word):
                assert re.search(rf"(?<![\w-]){re.escape(option[0])}(?![\w-])", text), (command, option[0])


def _check_job(module: str, arguments: list[str]) -> None:
    job = importlib.import_module(module)

    def parse(*args: Any, **options: Any) -> NoReturn:
        parse_arguments(*args, **options)
        raise Parsed

    with patch.object(job, "parse_arguments", parse), pytest.raises(Parsed):
        job.main(arguments)


def _until_option(arguments: list[str]) -> list[str]:
    first = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return arguments[:first]


@lru_cache
def _help(*command: str) -> str:
    done = subprocess.run(
        [tool(command[0]), *command[1:], "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "DO_NOT_TRACK": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
