"""Types that several sections of the configuration share."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from hnmine.redaction import redacted

Device = Annotated[
    Literal["auto", "cpu", "gpu"],
    Field(description="cpu, gpu, or auto: the GPU where a step can use one; each step says what it chose"),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino"],
    Field(description="what runs models on a CPU; auto: OpenVINO where it is installed and knows the model"),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(description="auto: float16 on a GPU, bfloat16 on a CPU that multiplies it, else float32"),
]


class Section(BaseModel):
    """A group of settings: an unknown key is an error, and a value never changes after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else [value]:
            if "\0" in str(text) and isinstance(text, str | Path):
                raise ValueError(f"no setting has the character NUL, got {str(text)[:200]!r}")
        return value


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field of this type holds, or may hold, or holds a list of."""
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def plain_address(address: Any) -> Any:
    """Return a path or an address as text; raise ValueError if it lost a slash, or has credentials in it."""
    text = str(address) if isinstance(address, Path) else address
    if isinstance(text, str) and re.match(r"\w{2,}:/(?!/)", text):
        raise ValueError(f"an address has two slashes, got {text!r}; write it as text, not as a Path")
    if isinstance(text, str) and "://" in text:
        named = text.replace("://anonymous@", "://")  # as of public buckets
        if (shown := redacted(named)) != named:
            known = "AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_USERNAME …"
            raise ValueError(f"credentials belong in the environment ({known}), not in the address {shown}")
    return text


Address = Annotated[str, Field(min_length=1), BeforeValidator(plain_address)]
"""A folder, or an address of an object store or a server."""
Slug = Annotated[str, Field(pattern=r"^[a-z0-9.]+(-[a-z0-9.]+)*$")]
"""A name in the form that `slug` returns; files are named after it."""
_NO_FILE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # on some systems a device, whatever the folder
_LONGEST = 100  # signs of a slug; a file's name may have 255 bytes, and what is put before and behind needs some


def slug(name: str) -> str:
    """Return a name in lower case, with a hyphen for each run of other signs: for command lines and file names.

    It leads nowhere as a path, and is never empty. Where more than marks and the case of letters would be lost, as of
    names in other scripts, and of long ones, it ends in a digest of the name.
    """
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    plain = re.sub(r"\.*-[-.]*", "-", plain)  # no part begins or ends with a dot
    if plain and name.isascii() and len(plain) <= _LONGEST and not _NO_FILE.fullmatch(plain):
        return plain
    end = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, ("name", plain[: _LONGEST - 14].rstrip("-."), end)))
