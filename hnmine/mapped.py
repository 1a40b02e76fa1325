"""Arrays that may be larger than memory: they lie in a temporary file without a name, which goes with the process."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

IN_MEMORY = 2**28
"""Bytes of an array that stays in memory."""


def zeros(rows: int, width: int) -> Float32:
    """Return a matrix of zeros; a large one lies in a file, if the disk has room for it."""
    size = 4 * rows * width
    if size > IN_MEMORY:
        try:
            with tempfile.TemporaryFile(prefix="hnmine-") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would end the process
                pages = mmap.mmap(file.fileno(), size)  # holds the file open
        except (OSError, AttributeError):  # no room, or no Linux
            pass
        else:
            return np.frombuffer(pages, np.float32).reshape(rows, width)
    return np.zeros((rows, width), np.float32)


def let_go(array: NDArray[np.floating]) -> None:
    """Take an array that lies in a file out of the memory of this process; it is read again where it is used."""
    owner: object = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
