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


@cache
def gpu_multiplies_bfloat16() -> bool:
    """Whether the GPU has bfloat16 matrix instructions, as those since Ampere; true where no GPU can be asked.

    The head of a cluster may have none; what its workers lack, torch emulates.
    """
    import torch

    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def choose_dtype(setting: str, device: Kind, *, training: bool = False, model_type: str | None = None) -> str:
    """Turn `auto` into the fastest number type that the device computes in hardware.

    That is bfloat16, which has the range of float32, and on older GPUs float16. Training does not use float16, in which
    small gradients vanish, and neither do Gemma and its kin (`model_type` of config.json), whose activations exceed it.

    Raises:
        DeviceError: float16 is set for a model that cannot compute in it.
    """
    exceeds = "gemma" in (model_type or "")
    if setting == "float16" and exceeds:
        raise DeviceError(f"dtype: float16 is too narrow for the numbers of {model_type}; set auto or bfloat16")
    if setting != "auto":
        return setting
    if gpu_multiplies_bfloat16() if device == "gpu" else cpu_multiplies_bfloat16():
        return "bfloat16"
    return "float16" if device == "gpu" and not training and not exceeds else "float32"


def safer_dtype(dtype: str) -> str | None:
    """Return the number type to try where this one gives NaN or infinity; None: there is none."""
    return {"float16": "bfloat16", "bfloat16": "float32"}.get(dtype)
