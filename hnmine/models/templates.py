"""Chat templates of model folders: programs of their makers, which may loop for ever or fill the memory.

A process of its own renders them, each text within limits of computing and memory, whatever the text is.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from contextvars import ContextVar
from functools import partial, wraps
from pathlib import Path
from threading import Lock
from typing import Any

from hnmine.errors import ModelError

SECONDS = 3
"""Of computing, that a template may take for one text."""
_CODE = """
import contextlib, json, resource, sys, time
from transformers.utils.chat_template_utils import render_jinja_template

def limit(kind, most=None):
    hard = resource.getrlimit(kind)[1]
    with contextlib.suppress(OSError, ValueError):  # a system without this limit, or with a stricter one
        resource.setrlimit(kind, (hard if most is None else most, hard))

def next_line():
    limit(resource.RLIMIT_AS)
    limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + int(sys.argv[1]))
    return sys.stdin.readline()

limit(resource.RLIMIT_CORE, 0)
while line := next_line():
    try:
        settings = json.loads(line)
        with contextlib.suppress(OSError), open("/proc/self/statm") as held:
            pages = int(held.read().split()[0])
            limit(resource.RLIMIT_AS, pages * resource.getpagesize() + 2**29 + 16 * len(line))
        texts, indices = render_jinja_template(**settings)
        answer = {"rendered": [texts, indices]} if len(texts[0]) < 2**18 + 8 * len(line) else {}
    except MemoryError:
        answer = {}
    except Exception as error:
        answer = {"raised": [type(error).__name__, str(error)[:1000]]}
    print(json.dumps(answer), flush=True)
    settings = texts = answer = None
"""
_lock = Lock()
_processes: dict[int, subprocess.Popen[str]] = {}  # by the process that started it: a fork has its parent's pipes
_is_limited = ContextVar("_is_limited", default=False)


class _ExceededError(BaseException):
    """Passes through libraries that turn an Exception into advice."""


def limit_template(model: Any, folder: Path) -> None:
    """Let `preprocess` of a loaded model of sentence-transformers raise ModelError where its template goes too far."""
    from transformers import processing_utils, tokenization_utils_base

    for module in (tokenization_utils_base, processing_utils):
        if getattr(module.render_jinja_template, "func", None) is not _render:
            module.render_jinja_template = partial(_render, module.render_jinja_template)
    preprocess = model.preprocess

    @wraps(preprocess)
    def limited(*args: Any, **settings: Any) -> Any:
        before = _is_limited.set(True)
        try:
            return preprocess(*args, **settings)
        except _ExceededError:
            raise ModelError(
                f"the chat template of {folder} computes for more than {SECONDS} seconds, or fills the memory, for one "
                "text; repair it (chat_template.jinja), or use another model"
            ) from None
        finally:
            _is_limited.reset(before)

    model.preprocess = limited


def _render(original: Any, conversations: list[Any], **settings: Any) -> Any:
    """Return what transformers' `render_jinja_template` does, the `original`; of limited models within limits."""
    if not _is_limited.get():
        return original(conversations, **settings)
    rendered: tuple[list[str], list[Any]] = [], []
    for conversation in conversations:
        with _lock:
            answer = _answer(json.dumps({"conversations": [conversation], **settings}, default=str))
        if "raised" in answer:
            name, message = answer["raised"]
            raise type(name, (ValueError,), {})(message)  # by its name one knows what is wrong
        if "rendered" not in answer:
            raise _ExceededError
        for whole, part in zip(rendered, answer["rendered"], strict=True):
            whole.extend(part)
    return rendered


def _answer(question: str) -> dict[str, Any]:
    """Return what the process says, nothing if a limit ended it; start it if there is none."""
    process = _processes.get(os.getpid())
    if process is None or process.poll() is not None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        command = [sys.executable, "-P", "-c", _CODE, str(SECONDS)]
        process = _processes[os.getpid()] = subprocess.Popen(command, text=True, **pipes)  # noqa: S603 (code of this file)
        atexit.register(process.kill)
    try:
        process.stdin.write(f"{question}\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return dict(json.loads(process.stdout.readline()))  # type: ignore[union-attr]
    except (BrokenPipeError, json.JSONDecodeError):
        process.kill()
        process.wait()
        return {}
