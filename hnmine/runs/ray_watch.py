"""A Ray that does not answer is said within seconds: Ray itself waits for a minute or for good, and says nothing.

The head's service (GCS) speaks HTTP/2, whose server answers the first frame; nothing of Ray's own is asked.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from hnmine.errors import UnavailableError
from hnmine.runs.progress import close_live, emit

ANSWER_SECONDS = 10.0
"""How long a head may take to answer when a job connects."""
SILENCE_SECONDS = 20.0
"""How long it may be silent later; the job ends before Ray ends it without a word, after 60."""
EXIT_CODE = 75
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and an empty frame of settings
_HOST_AND_PORT = re.compile(r"(?:ray://)?(?P<host>[^/\s]+):(?P<port>\d+)/?")
_LONGEST_FOLDER = 40  # signs: with what Ray puts behind it, a socket's path has room for 107


def refuse_silence(address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Raise UnavailableError if nobody answers at the address of a cluster; `auto` and the like are left to Ray."""
    if (found := _HOST_AND_PORT.fullmatch(address)) and not _answers(found["host"], int(found["port"]), seconds):
        raise UnavailableError(
            f"RAY_ADDRESS is {address}, where no Ray answers; start the cluster, correct the address, or unset "
            "RAY_ADDRESS to work on this machine alone"
        )


def watch(address: str, folder: Path | None) -> None:
    """End this process with a message once nobody answers at the address of the head.

    `folder` is that of a local Ray, whose processes end too.
    """
    found = _HOST_AND_PORT.fullmatch(address)
    if found is not None:
        threading.Thread(target=_watch, args=(found["host"], int(found["port"]), folder), daemon=True).start()


def _watch(host: str, port: int, folder: Path | None) -> None:
    heard = time.monotonic()
    while time.monotonic() - heard < SILENCE_SECONDS:
        time.sleep(2)
        if not sys.modules["ray"].is_initialized():
            return
        if _answers(host, port, 5.0):
            heard = time.monotonic()
    message = f"Ray at {host}:{port} does not answer any more; the same command goes on from what is kept"
    close_live()
    emit(f"error: {message}", "ray", message, level="error", exit_code=EXIT_CODE)
    if folder is not None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        remove(folder)
    os._exit(EXIT_CODE)  # whatever waits for Ray waits for good


def _answers(host: str, port: int, seconds: float) -> bool:
    """Whether something that speaks HTTP/2 answers there; where it asks for TLS, whether something listens."""
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=seconds) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                connection.sendall(_PREFACE)
                return bool(connection.recv(1))
            return True
    except OSError:
        return False


def private_folder() -> Path:
    """Make a folder that nobody else can enter, for sockets and logs of a local Ray."""
    place = tempfile.gettempdir()
    short = place if len(place) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 (a fresh folder of mode 0700 is made there)
    return Path(tempfile.mkdtemp(prefix="hnmine-ray-", dir=short))


def remove(folder: Path) -> None:
    """Remove the folder of a Ray that has ended, whose last processes may still write."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
