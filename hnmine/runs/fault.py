"""What ends a command before its time, in one message that says whose fault it is and what to do."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version

from hnmine.errors import HnmineError, InUseError, UnavailableError
from hnmine.redaction import redacted
from hnmine.runs.progress import emit
from hnmine.runs.streams import write

_OUT_OF_MEMORY = (
    *("bad_alloc", "allocate memory", "malloc of size", "out of memory", "failed to map segment"),
    *("could not create a primitive", "can't start new thread", "Resource temporarily unavailable"),
)


def report(error: Exception, command: str) -> int:
    """Print what ended a command, in one message; return the exit code.

    What the user or the machine can mend is said. Of any other error the traceback is written to a file.
    """
    if isinstance(error, HnmineError):
        code = 3 if isinstance(error, InUseError) else 75 if isinstance(error, UnavailableError) else 2
        message = str(error)
    elif (lacking := _of_the_machine(error)) is not None:
        code, message = 1, lacking
    else:
        kind = " ".join(redacted(f"{type(error).__name__}: {error}").split())[:200]
        path = _written(_record(error, command))
        code, message = 1, f"this is an error of hnmine itself, not of yours ({kind}); please report it, with {path}"
    emit(f"error: {message}", command, message, level="error", exit_code=code)
    return code


def _of_the_machine(error: Exception) -> str | None:
    """Return what the machine lacks, in words; None if it is not that."""
    if isinstance(error, MemoryError) or any(each in str(error) for each in _OUT_OF_MEMORY):
        return "the memory of this machine, or what this process may take of it, ran out: give more, or work on less"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}; make it readable and writable, or make room there"
    if isinstance(error, OSError) and error.strerror:
        return f"the machine refused: {error.strerror}"
    return None


def _record(error: Exception, command: str) -> str:
    try:
        release = version("hnmine")
    except PackageNotFoundError:
        release = "not installed"
    about = f"hnmine {release}, {command}; Python {platform.python_version()}, {platform.platform()}"
    return redacted(f"{about}\n\n{''.join(traceback.format_exception(error))}")


def _written(record: str) -> str:
    """Write a record into a new file; return its path. Where that is not possible it is printed."""
    try:
        number, path = tempfile.mkstemp(prefix="hnmine-error-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(record)
    except OSError:
        write(record, sys.stderr)
        return "what stands above"
    return path
