"""Workers of Ray Train meet at the nodes' Ray addresses: nobody else can read or write what they exchange."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.builders.sockets import LOOPBACK, listening
from tests.builders.training import train_quickly, yes_no_lists


@pytest.mark.ray
@pytest.mark.slow
def test_workers_listen_to_this_machine_only(start: Path, tmp_path: Path) -> None:
    with listening(os.getpid()) as found:
        train_quickly(start, tmp_path, yes_no_lists(33), workers=2)
    workers = {name: addresses for name, addresses in found.items() if "RayTrainWorker" in name}
    assert workers, found
    assert set().union(*found.values()) <= LOOPBACK, found
