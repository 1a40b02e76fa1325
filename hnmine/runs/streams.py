"""Standard output and error, which may be closed, full, a pipe that nobody reads, or ASCII: none of it ends a run."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import TextIO

_ASCII = {"│": "|", "…": "...", "→": "->", "·": "-", "\u2212": "-", "\u2013": "-", "\u00d7": "x", "≤": "<="}
"""Signs of messages, as a terminal of few signs shows them; others become question marks."""


def mend() -> None:
    """Make standard input, output and error usable: what is closed leads nowhere, and no sign is an error.

    The next file that a program opens would get the number of a closed one, and with it what libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, so this one
    codecs.register_error("hnmine.ascii", _in_ascii)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        with suppress(AttributeError, ValueError):
            if not takes_all_signs(getattr(sys, name)):
                getattr(sys, name).reconfigure(errors="hnmine.ascii")


def write(text: str, stream: TextIO | None) -> Exception | None:
    """Write a line; return what went wrong, if something did. A stream that fails leads nowhere from then on."""
    if stream is None:
        return None
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError) as error:
        give_up(stream)
        return error
    return None


def flush() -> None:
    """Write what others printed; the interpreter would end with a traceback where that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            give_up(stream)


def give_up(stream: TextIO) -> None:
    """Lead a stream nowhere, with all that is written to it by others and all that it still holds."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_live() -> bool:
    """Whether standard error is a terminal whose lines can be rewritten, and nobody asked for plain lines."""
    asked = os.environ.get("NO_COLOR") or os.environ.get("CI", "").lower() not in ("", "0", "false")
    if asked or os.environ.get("TERM") in ("dumb", "unknown") or sys.stderr is None:
        return False
    with suppress(ValueError):  # it is closed
        return sys.stderr.isatty() and takes_all_signs(sys.stderr)
    return False


def takes_all_signs(stream: TextIO) -> bool:
    """Whether a stream can show what is not ASCII."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end
