"""What lets somebody in is taken out of every text, and nothing else is."""

from __future__ import annotations

import json
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnmine.config.base import plain_address
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.errors import ConfigError, DataError
from hnmine.nights.home import Home
from hnmine.redaction import HIDDEN, redacted, redacted_all
from hnmine.runs.folder import open_run
from hnmine.runs.progress import json_lines, say
from tests.builders.collections import write_collection
from tests.builders.commands import run_hnmine

SIGNS = string.ascii_letters + string.digits + "+=._~-"
SECRETS = st.text(SIGNS, min_size=6, max_size=40).filter(lambda text: any(sign.isalpha() for sign in text))
SCHEMES = st.sampled_from(["s3", "gs", "http", "https", "abfs", "hdfs", "postgresql+psycopg"])
NAMES = st.sampled_from(
    ["password", "secret_key", "aws_secret_access_key", "api-key", "X-Amz-Signature", "sig", "token", "hf_token", "sas"]
)
AROUND = st.sampled_from([("", ""), ("the store ", " cannot be read"), ("'", "'"), ('{"store": "', '"}'), ("(", ") …")])


def forms(scheme: str, user: str, secret: str, name: str) -> list[str]:
    """The places where a secret stands."""
    return [
        f"{scheme}://{user}:{secret}@host/bucket/a",
        f"{scheme}://{user}:{secret}/x@host/bucket",
        f"{scheme}://{secret}@host:9000/bucket",
        f"{scheme}://:{secret}@host",
        f"{scheme}:/{user}:{secret}@host/x",
        f"{scheme}:/{secret}@host",
        f"s3://bucket?endpoint_override=http%3A%2F%2F{user}%3A{secret}%40host%3A90&scheme=http",
        f"{scheme}://host/bucket?x=1&{name}={secret}&y=2",
        f"--set train.{name}={secret}",
    ]


@given(SCHEMES, SECRETS, SECRETS, NAMES, AROUND)
def test_no_secret_is_left_and_what_stands_around_it_is(
    scheme: str, user: str, secret: str, name: str, around: tuple[str, str]
) -> None:
    secret = f"§{secret}§"  # occurs nowhere else
    for form in forms(scheme, user, secret, name):
        text = form.join(around)
        found = redacted(text)
        assert secret not in found, text
        assert HIDDEN in found
        assert redacted(found) == found
        assert found.startswith(around[0])
        assert found.endswith(around[1])
        assert ("host" in found) == ("host" in form)


@given(st.text(st.characters(exclude_characters="@=:%"), max_size=200))
def test_texts_without_addresses_and_values_stay(text: str) -> None:
    if "bearer" not in text.lower() and "hf_" not in text.lower():
        assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "train.max_tokens=256 and embed.tokens_per_batch: 2048",
        "s3://bucket/prefix?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http",
        "BAAI/bge-base@0123456789abcdef0123456789abcdef01234567 at http://localhost:8080/a@b",
        "--set wants step.key=value; MRR@10 .290",
        "credentials belong in the environment (AWS_ACCESS_KEY_ID …); set AWS_SECRET_ACCESS_KEY",
        "the pad token: [PAD]; mail to someone@example.org",
    ],
)
def test_what_messages_say_otherwise_stays(text: str) -> None:
    assert redacted(text) == text


def test_secrets_of_the_environment_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("HARMLESS", "a longer word")
    assert redacted("refused wJalrXUtnFEMI, a longer word") == f"refused {HIDDEN}, a longer word"


def test_values_in_values_are_found() -> None:
    value = {"a": ["s3://k:s@b", 1, None], "b": {"c": ("token=x", 2.5)}}
    assert redacted_all(value) == {"a": [f"s3://{HIDDEN}@b", 1, None], "b": {"c": [f"token={HIDDEN}", 2.5]}}


def test_manifest_messages_and_errors_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = "s3://name:hunter2@bucket/x"
    with open_run(tmp_path, Config()) as run:
        run.commit("mining", inputs={}, files={}, data=address)
    say("read", f"from {address}", address=address)
    with json_lines():
        say("read", f"from {address}", address=address)
    left = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file()) + capsys.readouterr().err
    assert left.count(f"s3://{HIDDEN}@bucket/x") == 4
    assert "hunter2" not in left + str(DataError(address))


@pytest.mark.parametrize("setting", ["embed.store", "train.mlflow"])
def test_an_address_with_credentials_is_refused_where_it_is_set(setting: str) -> None:
    with pytest.raises(ConfigError, match="credentials belong in the environment") as caught:
        load(overrides=[f"{setting}=http://name:hunter2@host/x"])
    assert "hunter2" not in str(caught.value)


def test_an_address_with_credentials_is_refused_where_it_is_used() -> None:
    for use in (Home, lambda address: read_collection(address, Config().sources)):
        with pytest.raises(ConfigError, match="credentials belong in the environment") as caught:
            use("s3://name:hunter2@bucket/x")
        assert "hunter2" not in str(caught.value)
    assert plain_address("gs://anonymous@bucket/x") == "gs://anonymous@bucket/x"


@pytest.mark.parametrize("option", ["--dta", "--data", "--set", "--config"])
def test_the_command_line_repeats_none(option: str, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    given = ["mine", "--data", data, "--out", tmp_path / "out", option, "embed.stor=s3://name:hunter2@bucket/x"]
    done = run_hnmine(*given)
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr + json.dumps([str(path) for path in (tmp_path / "out").glob("*")])


@pytest.mark.parametrize(
    "unit", ["x", "a:", "a://", "a://a:", "a:/", "%3A%2F%2F", "eyJ-", "secret_", "-token", "x.", "bearer ", "@"]
)
def test_a_long_text_takes_no_longer_than_its_length(unit: str) -> None:
    begun = time.monotonic()
    redacted(unit * (300_000 // len(unit)))
    assert time.monotonic() - begun < 20
