"""Large matrices lie in a file, hold what is written to them, and can be taken out of memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from hnmine import mapped
from hnmine.types import Float32


def resident_bytes() -> int:
    """Return the memory of this process, its pages of files too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_is_let_go_leaves_memory_and_comes_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "IN_MEMORY", 0)
    large, before = mapped.zeros(40_000, 500), resident_bytes()
    assert not large.any()
    large[:] = np.arange(500, dtype=np.float32)
    large[7:9] += 1
    filled = resident_bytes()
    mapped.let_go(large[5:])
    assert resident_bytes() < before + (filled - before) // 10
    assert np.array_equal(large[8], np.arange(1, 501))
    assert np.array_equal(large[39_999], np.arange(500))
    assert large.dtype == np.float32
    assert large.shape == (40_000, 500)


def plain(rows: int, width: int) -> Float32:
    """Return a matrix in memory."""
    return np.zeros((rows, width), np.float32)


def test_small_ones_and_those_that_no_disk_has_room_for_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    small = mapped.zeros(10, 10)
    monkeypatch.setattr(mapped, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    for matrix in (small, mapped.zeros(10, 10), plain(10, 10)):
        matrix += 1
        mapped.let_go(matrix)
        assert matrix.sum() == 100
