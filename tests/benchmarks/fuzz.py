"""Fuzzes the service with Schemathesis: thousands of valid and invalid requests made from its OpenAPI document.

A tiny model of the same classes serves over HTTP on loopback. Fails on a status 5xx, on a status, content type, header
or body that the document does not describe, and if fewer requests were sent than ``--requests``.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests import tiny
from tests.benchmarks._common import finish, verdict
from tests.serve.service import listening, tiny_recipe

ROOT = Path(__file__).parents[2]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


class Counted:
    """ASGI middleware that counts the responses by status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.statuses: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=240, help="stop after this time; default: 240")
    parser.add_argument("--requests", type=int, default=5000, help="smallest number of requests; default: 5000")
    parser.add_argument("--examples", type=int, default=150, help="examples per operation and phase; default: 150")
    given = parser.parse_args()
    logging.getLogger("serve.access").addHandler(logging.NullHandler())  # keeps thousands of lines out of the report
    settings = tiny_recipe(max_queued=50, timeout_s=20).serve
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        bundle = Bundle(tiny.pipeline(root / "tokenizer"), "1", tiny_recipe(tiny.components(root)), {}, {})
        app = Counted(create_app(Generator(bundle, settings), settings))
        with listening(app) as url:
            program = str(Path(sys.executable).parent / "schemathesis")
            options = ["--phases", "examples,coverage,fuzzing", "--max-examples", str(given.examples)]
            options += ["--checks", ",".join(CHECKS), "--max-time", str(given.seconds)]
            hooks = {"SCHEMATHESIS_HOOKS": "tests.benchmarks.fuzz_hooks", "PYTHONPATH": str(ROOT)}
            command = [program, "run", f"{url}/openapi.json", *options]
            done = subprocess.run(command, cwd=root, env=os.environ | hooks)
        print("answers:", ", ".join(f"{count} x {status}" for status, count in sorted(app.statuses.items())))
        sent = verdict("requests", app.statuses.total(), given.requests, at_most=False)
        finish([sent, done.returncode == 0])


if __name__ == "__main__":
    main()
