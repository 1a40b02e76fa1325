"""Charts become SVG in a process of its own: the engine of JavaScript that draws them may abort, and ends no run."""

from __future__ import annotations

import atexit
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from threading import Lock
from typing import Any

_CODE = """
import json, sys, vl_convert
for line in sys.stdin:
    try:
        answer = {"svg": vl_convert.vegalite_to_svg(**json.loads(line))}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What a document of XML cannot hold: the engine aborts at it."""
_PAIRS = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd]")
"""Also what JavaScript holds as a pair: the engine may cut it into halves where it shortens a label, and then fails."""
_lock = Lock()
_process: subprocess.Popen[str] | None = None


def svg(spec: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the SVG of a Vega-Lite specification with its data, which the library escapes.

    Characters that no document of XML can hold become U+FFFD, and those that are rare where the engine fails at them.

    Raises:
        ValueError: it cannot be drawn.
    """
    error = "the engine that draws charts ended before it had drawn one"
    for undrawn in (_NO_XML, _PAIRS):
        question = json.dumps(_drawable({"vl_spec": spec, "config": config}, undrawn)) + "\n"
        with _lock:
            answer = _asked(question) or _asked(question)
        found: dict[str, str] = json.loads(answer or "{}")
        if "svg" in found:
            return found["svg"]
        error = found.get("error", error)
    raise ValueError(error)


def _drawable(value: Any, undrawn: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return undrawn.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_drawable(name, undrawn): _drawable(each, undrawn) for name, each in value.items()}
    return [_drawable(each, undrawn) for each in value] if isinstance(value, list | tuple) else value


def _asked(question: str) -> str:
    """Return the engine's answer, nothing if it has ended; start it if there is none."""
    global _process
    if _process is None or _process.poll() is not None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        _process = subprocess.Popen([sys.executable, "-c", _CODE], text=True, **pipes)  # noqa: S603 (code of this file)
        atexit.register(_process.kill)
    assert _process.stdin is not None
    assert _process.stdout is not None
    try:
        _process.stdin.write(question)
        _process.stdin.flush()
        return _process.stdout.readline()
    except BrokenPipeError:
        return ""
