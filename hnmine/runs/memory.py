"""How much memory the container of this process leaves it, and how what is freed is given back."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hnmine.errors import DeviceError

_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # of version 2, of 1
_CACHE = ("inactive_file", "total_inactive_file")  # pages of files, which make way

# "alloc fail" is FAISS's, "bad_alloc" cuML's
_OUT_OF_MEMORY = re.compile(r"out.of.memory|bad_alloc|alloc fail|cudaMalloc|can't allocate memory", re.IGNORECASE)
_MMAP_THRESHOLD = -3  # in malloc.h


def give_freed_blocks_back() -> None:
    """Let every block over 1 MiB be the system's own from now on, so that none is held once it is freed.

    The heap of glibc keeps the holes between blocks that stay: up to as much again as they take. This costs a training
    of a small model a quarter of its speed, so it is for those that are short of memory. Elsewhere nothing happens.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**20)


def give_free_memory_back() -> None:
    """Return to the system what the heap of glibc holds and nobody uses; elsewhere nothing happens."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """Return the most bytes that this process has held so far; those of Ray's workers are not among them.

    On Linux the number of getrusage is at least what the parent held when it started this process.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def container_room(cgroups: Path = Path("/sys/fs/cgroup"), memberships: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that this process' control groups, and those above them, still allow; `sys.maxsize`: no limit.

    `cgroups` is where the system mounts them, `memberships` names those of this process.
    """
    rooms = [sys.maxsize]
    for folder in cgroup_folders(cgroups, memberships, "memory"):
        for limit_name, used_name in _LIMITS:
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                rooms.append(max(0, limit - used + _file_pages(folder / "memory.stat")))
    return min(rooms)


def cgroup_folders(cgroups: Path, memberships: Path, controller: str) -> list[Path]:
    """Return the folders of the groups that limit memory or CPUs, of both versions, from the process' own to the root.

    `controller` is `memory` or `cpu`, as version 1 calls it.
    """
    folders = [cgroups, cgroups / controller]
    lines = memberships.read_text("utf-8").splitlines() if memberships.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups if not controllers else cgroups / controller
        if not controllers or controller in controllers.split(","):
            own_folder = root / path.lstrip("/")
            folders += [each for each in (own_folder, *own_folder.parents) if each.is_relative_to(root)]
    return folders


def _number(path: Path) -> int | None:
    """Return the number in a file; None where there is none, as in `max`."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _file_pages(path: Path) -> int:
    """Return the bytes that a group uses for pages of files that make way."""
    try:
        lines = dict(line.split(maxsplit=1) for line in path.read_text("ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(next((lines[name] for name in reversed(_CACHE) if name in lines), 0))


@contextmanager
def told_if_out_of_memory(task: str, remedy: str) -> Iterator[None]:
    """Turn what torch, FAISS or cuML raise when memory runs out in the block into a DeviceError of one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error))):
            raise
        said = [line.strip() for line in str(error).splitlines() if _OUT_OF_MEMORY.search(line)]
        raise DeviceError(f"{task}: out of memory ({(said or [type(error).__name__])[-1][:200]}); {remedy}") from None
