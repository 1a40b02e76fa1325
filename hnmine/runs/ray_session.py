"""The Ray session: the cluster that this job runs in, or a private local one that leaves no trace."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hnmine.runs.progress import is_json, say
from hnmine.runs.ray_watch import private_folder, refuse_silence, remove, watch

_starting = threading.RLock()  # threads that ask an object store count it, and a count may be what connects


def start_ray() -> None:
    """Connect to the Ray of RAY_ADDRESS (as in a submitted job), else start a local one; once per process.

    The local one listens on 127.0.0.1 only, asks for a token made for this process, has no dashboard, and ends with
    the process.
    """
    with _starting:
        _start_once()


def _start_once() -> None:
    # Prepare before Ray is imported, and only then.
    address = os.environ.get("RAY_ADDRESS")
    if not address and "ray" not in sys.modules:
        _prepare_local_environment()
    import ray

    if ray.is_initialized():
        return
    # Connect or start, and say what there is.
    handler = signal.getsignal(signal.SIGTERM)
    folder = None
    if address:
        refuse_silence(address)
        ray.init(logging_level=logging.ERROR, log_to_driver=not is_json())  # lines of actors are no JSON objects
    else:
        folder = private_folder()
        atexit.register(_end, folder)  # before Ray's own end, which it waits for
        with _stderr_held_back():
            ray.init(
                _temp_dir=str(folder / "ray"),  # Ray lets everybody into its own folder
                address="local",
                include_dashboard=False,
                object_store_memory=512 * 2**20,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has set one that aborts
    watch(ray.get_runtime_context().gcs_address, folder)
    resources, nodes = ray.cluster_resources(), len(ray.nodes())
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    where = f"connected to {address}" if address else "local session"
    say("ray", f"{where}: {cpus:.0f} CPUs, {gpus:.0f} GPUs, {nodes} node(s)", cpus=cpus, gpus=gpus, nodes=nodes)


def _end(folder: Path) -> None:
    sys.modules["ray"].shutdown()
    remove(folder)


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Hold back what native code writes to standard error; show it only if the block fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _prepare_local_environment() -> None:
    """Fix where a local Ray listens and how it authenticates, in variables that Ray reads at its first import.

    Without them its defaults depend on its version and on files that earlier starts left in the home folder.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # This keeps Linux on 127.0.0.1 too; `_node_ip_address` does not: Ray makes it an address that others can reach.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it logs errors on healthy runs
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def quiet_ray_data() -> None:
    """Silence the progress bars and log lines of Ray Data; `progress` replaces them."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
