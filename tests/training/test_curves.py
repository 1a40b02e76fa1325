"""A disk without room ends the curves of a training, and not the training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_FULL = """
import resource, signal, sys
from pathlib import Path
from hnmine.training.curves import curves
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with curves(Path(sys.argv[1]) / "run") as opened:
    opened.add("loss", 1.0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    for step in range(3000):
        opened.add("loss", 1.0, step)
print("done")
"""


def test_without_room_it_is_said_once_and_the_training_goes_on(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "done\n"
    (line,) = done.stderr.splitlines()
    assert line.endswith("run (File too large); the training goes on without them")
