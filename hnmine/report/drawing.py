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
_TRIES = 2
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What a document of XML cannot hold: the engine aborts at it."""
_lock = Lock()
_process: subprocess.Popen[str] | None = None


def svg(spec: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the SVG of a Vega-Lite specification with its data, which the library escapes.

    Characters that no document of XML can hold, as most control characters are, become U+FFFD.

    Raises:
        ValueError: it cannot be drawn.
    """
    question = json.dumps(_drawable({"vl_spec": spec, "config": config})) + "\n"
    with _lock:
        for _ in range(_TRIES):
            if answer := _asked(question):
                found: dict[str, str] = json.loads(answer)
                if "error" in found:
                    raise ValueError(found["error"])
                return found["svg"]
    raise ValueError("the engine that draws charts ended before it had drawn one")


def _drawable(value: Any) -> Any:
    if isinstance(value, str):
        return _NO_XML.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_drawable(name): _drawable(each) for name, each in value.items()}
    return [*map(_drawable, value)] if isinstance(value, list | tuple) else value


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
