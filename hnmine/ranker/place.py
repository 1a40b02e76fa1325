"""Where a ranker is: in a folder, in an object store, or what a home of nights deploys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hnmine.errors import ModelError
from hnmine.models.folder import RANKER_FILE
from hnmine.runs.directory import Directory

POINTER = "current.json"
"""The file of a home that names what it deploys."""
CURRENT = "current"
"""HOME/current is what HOME deploys, also where no link of this name can be."""
_ROLE = "ranker", "the address of a ranker"


def is_ranker(address: str | Path) -> bool:
    """Whether this is the address of a ranker and of no other model: a model's has no `://` and no pointer."""
    folder = Path(address).expanduser()
    homes = folder, *([folder.parent] if folder.name == CURRENT else [])
    return (
        "://" in str(address) or (folder / RANKER_FILE).is_file() or any((each / POINTER).is_file() for each in homes)
    )


@contextmanager
def ranker_folder(address: str | Path) -> Iterator[Path]:
    """Give the folder of a ranker on this machine; of one in an object store, a copy that goes with the block.

    Raises:
        ModelError: a home deploys no ranker yet.
        DataError: the address cannot be read.
    """
    # In a folder.
    base, mark, query = str(address).partition("?")
    if "://" not in base:
        folder = Path(address).expanduser().absolute()
        homes = [folder.parent, folder] if folder.name == CURRENT else [folder]
        home = next((each for each in homes if (each / POINTER).is_file()), None)  # a link may be older than a pointer
        yield folder if home is None else home / _deployed(Directory.at(home, *_ROLE))
        return
    # In an object store; HOME/current is no more than a name there.
    above, _, name = base.rstrip("/").rpartition("/")
    home_address = above if name == CURRENT else base
    directory = Directory.at(f"{home_address}{mark}{query}", *_ROLE)
    if POINTER in directory.files():
        name = _deployed(directory)
    else:
        directory = Directory.at(f"{above}{mark}{query}", *_ROLE)
    with TemporaryDirectory(prefix="hnmine-") as work:
        yield directory.on_this_machine(name, Path(work) / "ranker")


def _deployed(home: Directory) -> str:
    """Return the place in a home of the ranker that it deploys."""
    raw = home.read(POINTER)
    place = json.loads(raw.to_pybytes()).get("ranker") if raw is not None else None
    if not isinstance(place, str) or not place.startswith("rankers/"):
        raise ModelError(f"{home} deploys no ranker yet; the next `hnmine nightly` that deploys one leaves it there")
    return place
