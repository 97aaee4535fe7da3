"""The S3 backend of :mod:`mmface.store`: single PUTs, conditional if only the first writer may win, and ranged reads.

botocore retries requests after 500, 503, throttling and timeouts with increasing pauses; ``AWS_MAX_ATTEMPTS`` and
``AWS_RETRY_MODE`` configure that. This module handles two cases itself: a response that breaks off after its headers,
and a conditional PUT that was stored although its response was lost.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from mmface.errors import CredentialsError, DatasetError, ServiceError, StoreFullError, UnreachableError
from mmface.store.base import HOME_VARIABLE, LEFT_SECONDS, Entry

log = logging.getLogger(__name__)

ATTEMPTS = 8
TIMEOUT_S = 30
BUFFER = 2**18
PART = 2**26  # bytes per part of a multipart upload; S3 allows 10,000 parts, and 5 GiB in a single PUT
MISSING = ("NoSuchKey", "NoSuchUpload", "404")
SWEEPING = "allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or give the bucket a lifecycle rule"
LOST = "PreconditionFailed"
CONFLICT = "ConditionalRequestConflict"  # two conditional PUTs at the same time; S3 asks for a retry
NEEDED = "these credentials lack a permission; grant s3:GetObject, PutObject, DeleteObject and ListBucket there"
REMEDIES = {
    "AccessDenied": NEEDED,
    "403": NEEDED,
    "NoSuchBucket": "the bucket does not exist; create it or correct the address",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "renew the credentials",
    "RequestTimeTooSkewed": "set this machine's clock",
}
NOT_ALLOWED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
)
FULL = "QuotaExceeded"


class S3:
    """Objects below ``prefix`` of ``bucket``; endpoint and credentials come from the standard ``AWS_*`` variables."""

    root = None  # not a local folder

    def __init__(self, bucket: str, prefix: str, client: Any = None) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.client = client or _client()

    def child(self, prefix: str) -> S3:
        return S3(self.bucket, self._key(prefix), self.client)

    def read(self, key: str) -> bytes:
        return self.read_range(key)

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` (exclusive) of ``key``, by default all."""
        part = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        for attempt in range(ATTEMPTS):
            response = self._call("get_object", Key=self._key(key), **part)
            if response is None:
                raise DatasetError(f"{key} is not in {self.uri}", field="uri")
            try:
                return bytes(response["Body"].read())
            except BotoCoreError as error:
                broken = error
                time.sleep(_pause(attempt))
        raise ServiceError(f"{self.uri}: reading {key} broke off {ATTEMPTS} times: {broken}", field=HOME_VARIABLE)

    def open(self, key: str) -> BinaryIO:
        head = self._call("head_object", Key=self._key(key))
        if head is None:
            raise DatasetError(f"{key} is not in {self.uri}", field="uri")
        # BufferedReader has all methods of BinaryIO but is not declared as one.
        return cast(BinaryIO, io.BufferedReader(_Ranged(self, key, int(head["ContentLength"])), BUFFER))

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        for attempt in range(ATTEMPTS):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **condition)
                return True
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == LOST:
                    # After a retry, the existing object may come from an earlier try of this same PUT.
                    retried = error.response["ResponseMetadata"].get("RetryAttempts", 0) or attempt
                    return bool(retried) and self.read(key) == data
                if code != CONFLICT:
                    raise self._refused("put_object", error) from error
                time.sleep(_pause(attempt))
            except BotoCoreError as error:
                raise self._unreachable(error) from error
        message = f"{self.uri}: writing {key} conflicted with other writers {ATTEMPTS} times; run again"
        raise ServiceError(message, field=HOME_VARIABLE)

    def write_file(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        parts = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
        try:
            with path.open("rb") as file:
                self.client.upload_fileobj(file, self.bucket, self._key(key), Config=parts)
        except ClientError as error:
            raise self._refused("upload", error) from error
        except BotoCoreError as error:
            raise self._unreachable(error) from error

    def exists(self, key: str) -> bool:
        return self._call("head_object", Key=self._key(key)) is not None

    def walk(self, prefix: str, follow_links: bool = False) -> Iterator[Entry]:  # S3 has no links
        start = len(self.prefix) + 1 if self.prefix else 0
        below = self._key(prefix)
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=f"{below}/" if below else "", **token) or {}
            for item in page.get("Contents", ()):
                written = item["LastModified"].timestamp()
                yield Entry(item["Key"][start:], int(item["Size"]), item["ETag"].strip('"'), written)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        self._call("delete_object", Key=self._key(key))

    def sweep(self) -> None:
        """Aborts old multipart uploads: killed ones leave parts that no listing shows. A broken PUT leaves nothing."""
        since = datetime.now(UTC) - timedelta(seconds=LEFT_SECONDS)
        try:
            for upload in list(self._uploads()):
                if upload["Initiated"] < since:
                    self._call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
                    log.info("aborted the unfinished upload of %s that began at %s", upload["Key"], upload["Initiated"])
        except ServiceError as error:  # some S3 servers lack these calls, some users the permission; not essential
            log.warning("could not clean up unfinished uploads (%s); %s", error.message, SWEEPING)

    def _uploads(self) -> Iterator[dict[str, Any]]:
        """Multipart uploads below the prefix that were neither completed nor aborted."""
        marker: dict[str, str] = {}
        while True:
            page = self._call("list_multipart_uploads", Prefix=f"{self.prefix}/".lstrip("/"), **marker) or {}
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/")

    def _call(self, operation: str, **arguments: Any) -> Any:
        """Sends one S3 request; returns None if the object does not exist."""
        try:
            return getattr(self.client, operation)(Bucket=self.bucket, **arguments)
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING:
                return None
            raise self._refused(operation, error) from error
        except BotoCoreError as error:
            raise self._unreachable(error) from error

    def _refused(self, operation: str, error: ClientError) -> ServiceError:
        code = error.response["Error"]["Code"]
        remedy = REMEDIES.get(code, "run again: what is finished is kept")
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            kind: type[ServiceError] = UnreachableError
        elif code in NOT_ALLOWED:
            kind = CredentialsError
        else:
            kind = StoreFullError if code == FULL else ServiceError
        return kind(f"{self.uri}: S3 refused {operation}: {code}; {remedy}", field=HOME_VARIABLE)

    def _unreachable(self, error: BotoCoreError) -> ServiceError:
        remedy = "check AWS_ENDPOINT_URL, the credentials and the bucket"
        kind: type[ServiceError] = ServiceError
        if isinstance(error, ConnectionError | HTTPClientError):
            kind = UnreachableError
        elif isinstance(error, NO_CREDENTIALS):
            kind = CredentialsError
        return kind(f"{self.uri}: {error}; {remedy}", field=HOME_VARIABLE)


class _Ranged(io.RawIOBase):
    """An object as a file that is read in ranges, so that reading one column of a Parquet file fetches that column."""

    def __init__(self, backend: S3, key: str, size: int) -> None:
        self.backend, self.key, self.size = backend, key, size
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        stop = min(self.place + len(buffer), self.size)
        if stop <= self.place:
            return 0
        data = self.backend.read_range(self.key, self.place, stop)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def _client() -> Any:
    import boto3

    retries = {
        # The other modes share one retry budget between all requests, which frequent faults would use up.
        "mode": os.environ.get("AWS_RETRY_MODE", "legacy"),
        "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS)),
    }
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S))


def _pause(attempt: int) -> float:
    return float(min(0.1 * 2**attempt, 5.0))
