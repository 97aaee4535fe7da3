"""An S3 server for one machine: moto's server, with its objects saved in a folder so that they outlive the process.

Each change is saved before the response is sent, so an acknowledged request is never lost; at start the objects of the
folder are loaded into moto. Changes are made one at a time, so conditional writes are atomic. The access key is checked
but signatures are not, so the server is for the loopback interface only. A restart resets modification times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

HEALTH, DRAFT = "/healthz", ".draft"
REFUSAL = b"<Error><Code>InvalidAccessKeyId</Code><Message>unknown access key</Message></Error>"
KEPT_HEADERS = ("content-type", "content-encoding", "content-disposition", "cache-control")
USER_HEADERS = "x-amz-meta-"
SAFE = "-_."  # characters that are not escaped in file names
LONGEST_NAME = 200

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Kept:
    """A WSGI app in front of moto's app that saves its objects.

    Args:
        app: moto's app.
        folder: holds each object as ``<bucket>/<key>``, with the key escaped to one file name.
        access_key: the key that requests must use; ``/healthz`` needs none.
    """

    def __init__(self, app: App, folder: Path, access_key: str) -> None:
        self.app, self.folder, self.access_key = app, folder, access_key
        self._one_at_a_time = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answers one request."""
        if environ["PATH_INFO"] == HEALTH:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"ok\n"]
        signed = environ.get("HTTP_AUTHORIZATION", "") + unquote(environ.get("QUERY_STRING", ""))
        if f"Credential={self.access_key}/" not in signed:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [REFUSAL]
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self.app(environ, start_response)
        with self._one_at_a_time:
            answer = list(self.app(environ, start_response))
            path = environ["PATH_INFO"].encode("latin-1").decode()  # WSGI passes bytes as latin-1
            self._mirror(path, parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True))
            return answer

    def restore(self, bucket: str) -> None:
        """Loads the objects of the folder into moto and creates ``bucket`` unless it exists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in sorted(self.folder.iterdir()):
            self._ask("PUT", f"/{place.name}")
            for file in sorted(place.iterdir()):
                if file.name.endswith(DRAFT):
                    file.unlink()
                    continue
                headers, _, body = file.read_bytes().partition(b"\n")
                kept = json.loads(headers)
                self._ask("PUT", f"/{place.name}/{kept.pop('key')}", body, kept)
        (self.folder / bucket).mkdir(exist_ok=True)
        self._ask("PUT", f"/{bucket}")

    def _mirror(self, path: str, query: dict[str, list[str]]) -> None:
        bucket, _, key = path.lstrip("/").partition("/")
        if "partNumber" in query or "uploads" in query or not bucket:
            return  # a multipart upload is saved when it completes
        if "delete" in query:
            for file in sorted((self.folder / bucket).iterdir()):
                self._mirror_object(bucket, json.loads(file.read_bytes().partition(b"\n")[0])["key"])
        elif key:
            self._mirror_object(bucket, key)
        elif self._ask("HEAD", f"/{bucket}")[0] == 200:
            (self.folder / bucket).mkdir(exist_ok=True)
        elif (self.folder / bucket).is_dir():
            (self.folder / bucket).rmdir()

    def _mirror_object(self, bucket: str, key: str) -> None:
        status, headers, body = self._ask("GET", f"/{bucket}/{key}")
        file = self.folder / bucket / _file_name(key)
        if status == 200:
            kept = {k: v for k, v in headers.items() if k in KEPT_HEADERS or k.startswith(USER_HEADERS)}
            draft = file.with_name(file.name + DRAFT)
            draft.write_bytes(json.dumps({"key": key, **kept}).encode() + b"\n" + body)
            draft.replace(file)
        elif status == 404:
            file.unlink(missing_ok=True)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Sends a request to moto; returns status, headers in lower case, and body."""
        from werkzeug.test import Client

        signature = f"AWS4-HMAC-SHA256 Credential={self.access_key}/20000101/us-east-1/s3/aws4_request"
        response = Client(self.app).open(
            quote(path), method=method, data=body, headers={"Authorization": signature, **(headers or {})}
        )
        return response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.get_data()


def _file_name(key: str) -> str:
    """A key as one file name; a long key is cut and gets its digest."""
    name = quote(key, safe=SAFE)
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + hashlib.sha256(key.encode()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until the process is stopped. ``AWS_ACCESS_KEY_ID`` is the access key that requests must use."""
    parser = argparse.ArgumentParser(prog="python -m flows.stack.s3")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--bucket", required=True, help="created unless it exists")
    given = parser.parse_args(argv)
    # moto is a development dependency; mmface up reports when it is missing.
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    kept = Kept(DomainDispatcherApplication(create_backend_app), given.folder, os.environ["AWS_ACCESS_KEY_ID"])
    kept.restore(given.bucket)
    run_simple(given.host, given.port, kept, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
