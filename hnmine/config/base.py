"""What the sections of the configuration share."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Device = Annotated[
    Literal["auto", "cpu", "gpu"], Field(description="cpu, gpu, or auto: the GPU where one can be used, and it is said")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(description="auto: float16 on a GPU, bfloat16 on a CPU that multiplies it, else float32"),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino"],
    Field(description="what computes on a CPU; auto: OpenVINO where it is installed and knows the model, else torch"),
]


class Section(BaseModel):
    """Keys that are not known are errors; nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Slug = Annotated[str, Field(pattern=r"^[a-z0-9.]+(-[a-z0-9.]+)*$")]
"""What `slug` returns; files are named after it."""


def slug(name: str) -> str:
    """Return a name as it is written on a command line and in file names."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
