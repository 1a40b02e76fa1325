"""User names, passwords, keys and tokens are taken out of what is printed, logged and recorded; here alone.

They stand in addresses (`s3://key:secret@bucket`, `?sig=…`), in values of options and settings whose name says so
(`api_key=…`), in the environment, or have the form of a well-known token.
"""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
# All repetitions are bounded, and names begin where a word begins: so the time is linear in the text.
_KIND = (
    r"[\w.-]{0,60}(?:passw(?:or)?d|secret|credential|signature|(?:access|account|api|private|shared)[_-]?key(?:[_-]?id)?|"
    r"(?:access|auth|bearer|hf|hub|session|security|sas|refresh)[_-]?token)[\w.-]{0,60}"
)
_NAMED = r"(?:[\w-]{0,60}_)?(?:passw(?:or)?d|(?:secret|access|api)_key|(?:access|auth|api|hf)_token)"
_VALUE = r"(?:\"[^\"]{0,2000}\"|'[^']{0,2000}'|[^\s&'\"\\,;)}\]]+)"
_BEFORE = r"(?<![A-Za-z0-9_.-])"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Of an address what stands before the host; an @ behind a slash is of a path, unless a colon is before it.
        r"((?<![\w+.-])\w[\w+.-]{0,40}://)(?:[^\s/?#\"']{0,2000}|[^\s/@:?#]{1,200}:(?!\d+/)[^\s\"']{0,2000})(@)",
        r"((?<![\w+.-])\w[\w+.-]{1,40}:/)[^\s/@?#\"']{1,2000}(@)",  # of an address that was taken for a path
        r"(%3A%2F%2F)(?:(?!%2F)[^\s&/?#\"']){0,2000}(%40)",
        rf"({_BEFORE}{_KIND}(?:=|%3D)){_VALUE}()",
        rf"({_BEFORE}{_NAMED}[\"']?:\s{{1,9}}){_VALUE}()",
        rf"({_BEFORE}(?:[\w.-]{{0,60}}\.)?(?:token|sig|sas|pwd)=){_VALUE}()",
        r"(\bbearer\s{1,9}|authorization:\s{0,9}\w{1,20}\s{1,9})[\w.~+/=-]{8,}()",
        r"\b()(?:hf_\w{16,}|A[KS]IA[0-9A-Z]{12,}|gh[a-z]_\w{16,}|sk-[\w-]{16,}|eyJ[\w-]{8,2000}\.[\w-]{8,}[\w.-]*)()",
    )
)
_IN_ENVIRONMENT = re.compile(r"(?i)(TOKEN|SECRET|PASSWORD|PASSWD|ACCESS_KEY|API_KEY|ACCOUNT_KEY|CREDENTIAL)(_ID)?$")
_SHORTEST = 8  # signs; shorter values of the environment stand in many words


def redacted(text: str) -> str:
    """Return a text without what lets somebody in; all else stays, also where nothing was taken out."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _IN_ENVIRONMENT.search(name):
            text = text.replace(value, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{HIDDEN}\g<2>", text)
    return text


def redacted_all(value: Any) -> Any:
    """Return what JSON can hold, redacted wherever it holds a text."""
    if isinstance(value, dict):
        return {key: redacted_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_all(each) for each in value]
    return redacted(value) if isinstance(value, str) else value
