"""A terminal that a child process writes to, and what somebody who sits there sees in the end."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path


def seen_on_a_terminal(code: str, stdout: Path | None = None, **environment: str) -> str:
    """Run Python code with standard error, and output if it has no file, on a terminal; return all that is written."""
    plain = {
        name: text for name, text in os.environ.items() if name not in ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    environment = plain | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"} | environment
    ours, theirs = os.openpty()
    with contextlib.ExitStack() as opened:
        out = opened.enter_context(stdout.open("w")) if stdout else theirs
        child = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=theirs, env=environment)
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while part := os.read(ours, 4096):
                seen += part
        os.close(ours)
        child.wait()
    return seen.decode("utf-8", "replace")


def screen(seen: str) -> list[str]:
    """Return the lines that stay, where live lines are rewritten by erasing (ESC[2K) and moving up (ESC[1A)."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", seen):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            lines += [""] * (row >= len(lines))
        elif token.endswith("K"):
            lines[row] = ""
        elif token.endswith("A"):
            row -= int(token[2:-1] or 1)
        elif not token.startswith("\x1b"):
            lines[row] = (lines[row].ljust(column)[:column] + token + lines[row][column + len(token) :]).rstrip("\n")
            column += len(token)
    return [line for line in lines if line.strip()]
