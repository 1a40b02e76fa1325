"""A Ray to work on: the cluster this job runs in, or a private local one that leaves no trace."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hnmine.runs.progress import is_json, say

_OBJECT_STORE_BYTES = 512 * 2**20


def start_ray() -> None:
    """Connect to the Ray of RAY_ADDRESS (as in a submitted job), else start a local one; once per process.

    The local one listens on 127.0.0.1 only, asks for a token made for this process, has no dashboard, and ends
    with the process.
    """
    submitted = bool(os.environ.get("RAY_ADDRESS"))
    if not submitted:
        _prepare_local_environment()
    import ray

    if ray.is_initialized():
        return
    with _own_sigterm():
        if submitted:
            ray.init(logging_level=logging.ERROR, log_to_driver=not is_json())  # actors' lines are no objects
        else:
            with _hushed():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
    total = ray.cluster_resources()
    where = f"connected to {os.environ['RAY_ADDRESS']}" if submitted else "local session"
    say(
        "ray",
        f"{where}: {total.get('CPU', 0):.0f} CPUs, {total.get('GPU', 0):.0f} GPUs, {len(ray.nodes())} node(s)",
        cpus=total.get("CPU", 0),
        gpus=total.get("GPU", 0),
        nodes=len(ray.nodes()),
    )


def in_ray() -> bool:
    """Whether this process is part of a Ray: an actor, or a driver that has one; a submitted job connects for it."""
    if os.environ.get("RAY_ADDRESS"):
        start_ray()
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the program's own handler of SIGTERM, where it has one; Ray puts its own, which aborts, in its place."""
    own = signal.getsignal(signal.SIGTERM)
    yield
    if callable(own) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, own)


@contextmanager
def _hushed() -> Iterator[None]:
    """Hold back what native code writes to standard error; it is shown only if the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _prepare_local_environment() -> None:
    """Fix where a local Ray listens and how it authenticates.

    Ray reads this once, when it is first imported. Unset, its default depends on its
    version and on what earlier starts left in the home folder.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # keeps Linux on 127.0.0.1 as well; `_node_ip_address` does not, Ray turns it into an address others can reach
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its error lines on healthy runs alarm for nothing
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def quiet_ray_data() -> None:
    """Silence Ray Data's own progress bars and per-plan log lines; ours replace them."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
