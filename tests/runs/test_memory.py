"""What control groups of either version allow, their own and those above."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hnmine.errors import DeviceError
from hnmine.runs.memory import container_room, give_freed_blocks_back, told_if_out_of_memory


def write(folder: Path, **numbers: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in numbers.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n", "ascii")


def test_the_narrowest_group_of_version_2_decides_and_its_pages_of_files_make_way(tmp_path: Path) -> None:
    cgroups, memberships = tmp_path / "cgroup", tmp_path / "memberships"
    memberships.write_text("0::/slurm/job_7\n")
    assert container_room(cgroups, memberships) == sys.maxsize, "none is mounted"
    write(cgroups / "slurm", memory_max=1000, memory_current=300, memory_stat="anon 5\ninactive_file 250")
    write(cgroups / "slurm" / "job_7", memory_max="max", memory_current=200)
    assert container_room(cgroups, memberships) == 950
    write(cgroups / "slurm" / "job_7", memory_max=400, memory_current=200)
    assert container_room(cgroups, memberships) == 200
    write(cgroups / "slurm" / "job_7", memory_max=100)
    assert container_room(cgroups, memberships) == 0


def test_version_1_is_read_too_and_a_container_sees_its_limits_at_the_root(tmp_path: Path) -> None:
    cgroups, memberships = tmp_path / "cgroup", tmp_path / "memberships"
    memberships.write_text("3:cpuset:/\n4:memory:/docker/abc\n0::/\n")
    write(cgroups / "memory", memory_limit_in_bytes=2**62, memory_usage_in_bytes=0)
    write(cgroups / "memory" / "docker" / "abc", memory_limit_in_bytes=500, memory_usage_in_bytes=100)
    assert container_room(cgroups, memberships) == 400
    assert container_room(cgroups / "memory" / "docker", tmp_path / "absent") == sys.maxsize
    assert container_room(tmp_path / "none", tmp_path / "absent") == sys.maxsize


def test_this_machine_answers() -> None:
    assert container_room() > 2**20


def test_blocks_that_are_freed_between_blocks_that_stay_are_the_system_s_again() -> None:
    code = (
        "import psutil, sys, torch; from hnmine.runs.memory import give_freed_blocks_back\n"
        "torch.empty(2**22); give_freed_blocks_back() if sys.argv[1:] else None\n"
        "blocks = [torch.ones(2**20) for _ in range(100)]; held = psutil.Process().memory_info().rss\n"
        "del blocks[:-1:2]; print((held - psutil.Process().memory_info().rss) / 2**20)"
    )
    line = [sys.executable, "-c", code]
    kept, given = (
        float(subprocess.run([*line, *more], check=True, capture_output=True, text=True).stdout) for more in ([], ["y"])
    )
    assert given > 150, "MiB of 200"
    assert kept < given / 2 or sys.platform != "linux", "else there is no need for it"
    give_freed_blocks_back()


def test_the_peak_is_the_most_that_this_process_held_and_nothing_of_its_parent() -> None:
    code = """
from hnmine.runs.memory import peak_memory
before = peak_memory()
held = bytearray(before + 2**26)  # more than was ever held: pages of zeros count once they are written
held[:: 2**12] = b"x" * len(held[:: 2**12])
peak = peak_memory()
del held
print(before, peak, peak_memory())
"""
    parent = bytearray(2**28)
    parent[:: 2**12] = b"x" * len(parent[:: 2**12])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak, after = map(int, done.stdout.split())
    assert before + 2**26 <= peak < 3 * before + 2**28
    assert after >= peak - 2**20  # the system counts pages in batches
    assert sys.platform != "linux" or before < 2**28


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives back")
def test_free_memory_of_small_blocks_is_given_back() -> None:
    """A list of small strings, of which the last stays, holds the heap; in a process of its own."""
    code = """
import ctypes, psutil
from hnmine.runs.memory import give_free_memory_back
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [malloc(1000) for _ in range(200_000)]
for block in blocks: ctypes.memset(block, 1, 1000)
for block in blocks[:-1]: free(block)
held = psutil.Process().memory_info().rss
give_free_memory_back()
print(held - psutil.Process().memory_info().rss)
"""
    given = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(given) > 150_000_000


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory\nalloc fail type Flat"),
        MemoryError("std::bad_alloc: out_of_memory: CUDA error at: rmm/mr/cuda_memory_resource.hpp"),
        RuntimeError("ray::Shard.build() (pid=1)\n  File x\nRuntimeError: CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_one_line_with_a_remedy(error: Exception) -> None:
    match = r"^search: out of memory \(.+\); buy more$"
    with pytest.raises(DeviceError, match=match) as caught, told_if_out_of_memory("search", "buy more"):
        raise error
    assert "\n" not in str(caught.value)


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape"), told_if_out_of_memory("search", "buy more"):
        raise RuntimeError("shape")
