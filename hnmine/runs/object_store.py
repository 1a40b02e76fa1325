"""Object stores: opened with time to answer, never anonymously by accident, and asked again while they do not answer.

The library asks again by itself for a few seconds. What stays away for longer is asked here, for minutes, and it is
said. What the store refuses (credentials, names, rights) is an error at once.
"""

from __future__ import annotations

import functools
import os
import random
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import pyarrow.fs as pafs

from hnmine.errors import ConfigError, UnavailableError
from hnmine.runs.progress import clock, say

PATIENCE_SECONDS = 300.0
"""How long a store that does not answer is asked again."""
LONGEST_PAUSE_SECONDS = 20.0
_ANSWER_SECONDS = {"request_timeout": 30, "connect_timeout": 10}  # without a byte
_ATTEMPTS = 3  # of the library, one after the other
_KEPT = {"region", "scheme", "endpoint_override", "allow_delayed_open", "allow_bucket_creation"}
_KEPT |= {"allow_bucket_deletion", "force_virtual_addressing", "tls_ca_file_path"}
_PASSES = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING"  # S3
    r"|HTTP status (408|429|500|502|503|504)|curlCode|Retry policy exhausted"
    r"|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"  # Google Cloud
)
_HOSTS_OF_CLOUDS = (
    urllib.request.Request("http://169.254.169.254/", headers={"Metadata-Flavor": "Google"}),
    urllib.request.Request(
        "http://169.254.169.254/latest/api/token",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
        method="PUT",
    ),
)
_AnswerT = TypeVar("_AnswerT")
_said = 0.0  # when it was last told that a store is waited for


def passes_by_itself(error: Exception) -> bool:
    """Whether the store, or the network before it, may do later what it does not now."""
    return isinstance(error, ConnectionError | TimeoutError) or _PASSES.search(str(error)) is not None


def ask(name: str, call: Callable[[], _AnswerT], patience: float | None = None) -> _AnswerT:
    """Return what `call` returns; while the store `name` does not answer, call again for `patience` seconds.

    Raises:
        UnavailableError: it did not answer in all that time.
        Exception: what else `call` raises.
    """
    global _said
    began, pause = time.monotonic(), 1.0
    while True:
        try:
            return call()
        except Exception as error:
            if not passes_by_itself(error):
                raise
            waited = time.monotonic() - began
            left = (PATIENCE_SECONDS if patience is None else patience) - waited
            reason = str(error).splitlines()[0]
            if left <= 0:
                raise UnavailableError(
                    f"{name} has not answered for {clock(waited)}: {reason}; check the address and the network, or "
                    "start again when it answers: the same command goes on from what is kept"
                ) from None
        pause = min(pause * random.uniform(1.2, 2.0), LONGEST_PAUSE_SECONDS, left)
        if time.monotonic() - _said > 1.0:  # several threads may ask at once
            _said = time.monotonic()
            say("store", f"{name} does not answer ({reason}); waiting, for {clock(left)} at most", level="warning")
        time.sleep(pause)


@functools.cache  # the region of a bucket may be a question to the network
def open_address(address: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of an address and the path in it.

    Raises:
        ConfigError: nothing on this machine says who asks.
        pa.ArrowException, ValueError, OSError: as `FileSystem.from_uri` does.
    """
    parts = urlsplit(address)
    shown = f"{parts.scheme}://{parts.hostname}{parts.path}"
    if parts.scheme in ("s3", "gs", "gcs") and parts.username is None and not _has_credentials(parts.scheme):
        known = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if parts.scheme != "s3":
            known = "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`"
        raise ConfigError(f"{shown}: this machine has no credentials for it; set {known}; nothing is asked anonymously")
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:
        address += ("&" if parts.query else "?") + f"retry_limit_seconds={_ANSWER_SECONDS['request_timeout']}"
    filesystem, path = pafs.FileSystem.from_uri(address)
    if parts.scheme == "s3" and parse_qs(parts.query).keys() <= _KEPT:
        (options,) = filesystem.__reduce__()[1]
        given = {name: options[name] for name in (*_KEPT, "access_key", "secret_key") if options[name]}
        given["allow_delayed_open"] = True  # a small file is one question then, and not three
        retries = pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        filesystem = pafs.S3FileSystem(**given, **_ANSWER_SECONDS, retry_strategy=retries)
    return filesystem, path


def _has_credentials(scheme: str) -> bool:
    """Whether this machine has credentials where the libraries look for them."""
    names = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"]
    names += ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    files = [os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")]
    files.append(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"))
    if scheme != "s3":
        names, files = ["GOOGLE_APPLICATION_CREDENTIALS"], ["~/.config/gcloud/application_default_credentials.json"]
    if any(os.environ.get(name) for name in names) or any(Path(file).expanduser().is_file() for file in files):
        return True
    if scheme == "s3" and os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    try:  # a machine of the cloud asks its host
        with urllib.request.urlopen(_HOSTS_OF_CLOUDS[scheme == "s3"], timeout=1):  # noqa: S310 (http)
            return True
    except OSError:
        return False
