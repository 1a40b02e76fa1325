"""The device and the number type of a step, and the reason for them, which the step says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from hnmine.errors import DeviceError

Kind = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A device and the reason for it."""

    kind: Kind
    reason: str

    @property
    def torch_name(self) -> str:
        """What torch calls the device."""
        return "cuda" if self.kind == "gpu" else "cpu"

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})"


@cache
def visible_gpus() -> int:
    """Return the number of NVIDIA GPUs this process may use, without importing a GPU library."""
    present = [path.name for path in Path("/dev").glob("nvidia[0-9]*")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(present)).split(",")
    return min(len(present), sum(part.strip() not in ("", "-1") for part in visible))


def choose_device(setting: str, needs: str = "torch") -> Choice:
    """Turn `auto`, `cpu` or `gpu` into a device; `needs` names a distribution that work on the GPU imports."""
    if setting == "cpu":
        return Choice(kind="cpu", reason="as configured")
    missing = _missing_for_gpu(needs)
    if not missing:
        return Choice(kind="gpu", reason="as configured" if setting == "gpu" else "a GPU is there")
    if setting == "gpu":
        raise DeviceError(f"device: gpu was asked for, but {missing}; or set device: auto")
    return Choice(kind="cpu", reason=missing)


def _missing_for_gpu(needs: str) -> str:
    """Return why the GPU cannot be used; empty if it can."""
    if visible_gpus() == 0:
        return "no GPU is visible"
    try:
        version(needs)
    except PackageNotFoundError:
        return f"{needs} is not installed (pip install 'hnmine[gpu]')"
    import torch

    if not torch.cuda.is_available():
        return "torch cannot use the GPU: this is a build for CPUs, or the driver is older than its CUDA"
    return ""


@cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 matrix instructions (AVX512-BF16 or AMX)."""
    known = Path("/proc/cpuinfo")
    flags = known.read_text(encoding="ascii", errors="ignore") if known.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_dtype(setting: str, device: Kind, *, training: bool = False) -> str:
    """Turn `auto` into the fastest number type that the device computes in hardware.

    Training uses bfloat16, which has the range of float32: small gradients would vanish in float16.
    """
    if setting != "auto":
        return setting
    if device == "gpu":
        return "bfloat16" if training else "float16"
    return "bfloat16" if cpu_multiplies_bfloat16() else "float32"
