"""`hnmine push`: a run's ranker or re-ranker to a model hub, asked twice; without the second word nothing is sent.

Only files go that the manifest names, with the content that it names, and README.md. A repository is made private, and
one that is public already takes nothing unless that is asked for too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hnmine.errors import ConfigError, DataError, UnavailableError
from hnmine.report.card import licence_of
from hnmine.runs.files import file_sha256
from hnmine.runs.folder import RERANKERS
from hnmine.runs.manifest import MANIFEST, read_manifest
from hnmine.runs.tables import text_table

Which = Literal["ranker", "reranker"]
README = "README.md"


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What would be sent, and what one should know before it is."""

    folder: Path
    to: str
    public: bool
    sizes: dict[str, int]
    """Bytes of every file, by its path in the folder."""
    warnings: list[str]

    def text(self) -> str:
        """Return it for people."""
        total = sum(self.sizes.values())
        table = text_table([(name, f"{size:,}") for name, size in self.sizes.items()], ("file", "bytes"), left=(0,))
        kind = "public" if self.public else "private"
        head = f"{self.folder} to {self.to} ({kind}): {len(self.sizes)} files, {total / 2**20:,.1f} MiB"
        return "\n".join([head, "", table, "", *(f"warning: {warning}" for warning in self.warnings)])


def push(
    out: str | Path,
    to: str,
    *,
    which: Which = "ranker",
    public: bool = False,
    confirmed: str | None = None,
    ask: Callable[[str], str] | None = None,
) -> str:
    """Say what would be sent; send it if OWNER/NAME is given twice: as `to`, and as `confirmed` or answer of `ask`.

    The hub is that of HF_ENDPOINT, the token that of HF_TOKEN or of `hf auth login`.

    Raises:
        ConfigError: a name cannot be one of the hub, or the second differs from the first.
        DataError: OUT holds no such folder, or it is not as the manifest says.
        UnavailableError: the hub does not answer, or refuses.
    """
    parcel = packed(Path(out), to, which, public)
    shown = f"{parcel.text()}\n\n"
    if confirmed is None and ask is not None:
        confirmed, shown = ask(f"{shown}Type {to} to upload, or nothing to end: ").strip() or None, ""
    if confirmed is None:
        return f"{shown}Nothing was sent. To upload, repeat the command with --yes-upload {to}"
    if confirmed != to:
        raise ConfigError(f"the second name is {confirmed!r}, the first {to!r}; nothing was sent: give the same twice")
    return f"{shown}Uploaded: {_send(parcel)}"


def packed(out: Path, to: str, which: Which, public: bool) -> Parcel:
    """Return what would be sent of a run; nothing is sent."""
    # Find the folder, and what the manifest says of it.
    try:
        validate_repo_id(to)
    except HFValidationError as error:
        raise ConfigError(f"--to {to}: {error}; expected OWNER/NAME") from None
    if to.count("/") != 1:
        raise ConfigError(f"--to {to}: expected OWNER/NAME")
    manifest = read_manifest(out)
    folder = (out / which).resolve()
    inside = folder.relative_to(out.resolve()).as_posix() if folder.is_relative_to(out.resolve()) else ""
    if not folder.is_dir() or inside.partition("/")[0] not in ("ranker", RERANKERS):
        raise DataError(f"{out} has no {which} of its own making; `hnmine run` or `hnmine evaluate` leaves one")

    # Take what it names, and refuse what it does not.
    prefix = f"{inside}/"
    named = {
        name.removeprefix(prefix): sha for name, sha in manifest.get("files", {}).items() if name.startswith(prefix)
    }
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name in sorted({*named, *found}):
        if name.rpartition("/")[2] == README and name in found:  # for people, so in no manifest
            continue
        if name not in named or name not in found or file_sha256(found[name]) != named[name]:
            raise DataError(f"{folder / name} is not as {MANIFEST} says; nothing else is sent: do the step again")
    if not named or README not in found:
        raise DataError(f"{folder} has no {README if named else 'files'} that {MANIFEST} names; do the step again")
    sizes = {name: path.stat().st_size for name, path in found.items()}
    return Parcel(folder=folder, to=to, public=public, sizes=sizes, warnings=_warnings(found, public))


def _warnings(files: dict[str, Path], public: bool) -> list[str]:
    """Return what one should know before files are given away."""
    card = ModelCard.load(files[README]).data
    warnings = []
    if not card.license:
        warnings.append("no licence is stated; set ranker.card={license: …} and run `hnmine evaluate` again")
    bases = card.base_model if isinstance(card.base_model, list) else [card.base_model] if card.base_model else []
    warnings += [f"made from {licence_of(base)}, whose licence must allow it" for base in bases]
    if not bases:
        warnings.append("the base model is not one of the hub, as far as hnmine knows: see whether you may share it")
    if copies := sorted({name.split("/")[1] for name in files if name.startswith("encoders/")}):
        warnings.append(f"it holds copies of encoders, whose licences must allow it: {', '.join(copies)}")
    if any(name == "bm25.safetensors" or name.startswith("lexical/") for name in files):
        warnings.append("it holds every word of the collection, names and numbers too, with counts")
    warnings.append("a model may repeat what it was trained on; share it with whom you would share the collection")
    if public:
        warnings.append("public: everybody can read it from the first moment")
    return warnings


def _send(parcel: Parcel) -> str:
    """Send the files in one commit; return its address."""
    api = HfApi()
    try:
        # See whether it is there, and who can read it.
        try:
            is_private = api.repo_info(parcel.to).private
        except RepositoryNotFoundError:
            api.create_repo(parcel.to, private=not parcel.public)
            is_private = api.repo_info(parcel.to).private
        if not is_private and not parcel.public:
            raise ConfigError(f"{parcel.to} is public; nothing was sent: make it private, choose another, or --public")
        operations = [CommitOperationAdd(name, parcel.folder / name) for name in parcel.sizes]
        done = api.create_commit(parcel.to, operations, commit_message="Upload by hnmine push")
    except ConfigError:
        raise
    except Exception as error:  # the hub client raises a family of errors that differ by cause
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UnavailableError(f"the hub did not take {parcel.to}: {reason}; see HF_TOKEN, HF_ENDPOINT") from None
    return str(done.commit_url)
