"""One job at a time, also across machines: a lock with an owner and a lease, on a folder or an object store.

    PLACE/lock/claim_<seconds>_<since>_<owner>_<unique>    who wants or holds the lock, and how long it stands unrenewed
    PLACE/lock/holds_<the same>                            that it is held; only for what others are told

Object stores can neither create a file only if it is absent nor rename one (not through pyarrow.fs), so the lock asks
for less: that a file which was written before a listing began, and is not removed meanwhile, is in it, as on a folder,
S3, GCS and Azure. Whoever wants the lock writes a claim of its own, *then* lists. Of two, the one that wrote last sees
the other, whose claim keeps its name and its place until it is given up; who sees another claim withdraws, and ends if
the lock is held already; if both only wanted it, each tries again after a random while. So never two hold it, and no
clock and no waiting time is relied on for that. Nothing is ever read but the listing.

A dead owner's claim stands until it is older than its lease, and both ages are the store's own: that of a claim just
written is subtracted. No machine's clock matters. The holder renews it four times a lease. One that could not for half
a lease (it was stopped, the network was away) takes the lock for lost, and says so at its next `check`. What is
relied on is that no single write takes longer than the other half: a job that was asleep for so long *within* the one
write after its `check` would not be noticed.
"""

from __future__ import annotations

import os
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hnmine.errors import HnmineError, InUseError
from hnmine.runs.places import Place

_TRIES = 8
_RENEWALS = 4
"""In one lease."""


def _now() -> float:
    """Return seconds of a clock that runs on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True)
class _Claim:
    seconds: float
    since: str
    owner: str
    age: float
    held: bool

    @classmethod
    def of(cls, name: str, age: float, *, held: bool) -> _Claim:
        _, seconds, since, owner, _ = name.split("_")
        return cls(float(seconds), since, owner, age, held)


class Lease:
    """The lock as its holder has it. Made by `hold`."""

    def __init__(self, place: Place, seconds: float) -> None:
        self._folder, self._seconds = place / "lock", seconds
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        host = re.sub(r"[^A-Za-z0-9.\-]", "-", socket.gethostname())
        name = f"{seconds:g}_{since}_process-{os.getpid()}-on-{host}_{uuid.uuid4().hex}"
        self._claim, self._mark = f"claim_{name}", f"holds_{name}"
        self._renewed = _now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Make sure that the lock is still ours; called before everything that others would see.

        Raises:
            InUseError: it could not be renewed in time.
        """
        silent = _now() - self._renewed
        if silent > self._seconds / 2:
            raise InUseError(
                f"{self._folder} could not be renewed for {silent:.0f} s, so another job may have taken it over; "
                "start again"
            )
        if self._claim not in self._folder.times():
            raise InUseError(f"another job has taken {self._folder} over, or someone removed the lock; start again")

    def acquire(self) -> None:
        """Take the lock; see `hold`."""
        for turn in range(_TRIES):
            self._write_claim()
            others = self._others()
            if not others:
                self.check()  # asleep since the claim was written, it may have been taken for dead
                self._folder.touch(self._mark)
                self._thread.start()
                return
            self._folder.remove(self._claim)
            holder = next((claim for claim in others if claim.held), None)
            if holder is not None:
                raise InUseError(
                    f"another job holds {self._folder}: {holder.owner}, since {holder.since}, last heard of "
                    f"{holder.age:.0f} s ago; wait until it is done. If it is dead, its lock expires "
                    f"{holder.seconds:g} s after its last word"
                )
            time.sleep(random.uniform(0, 0.1 * 2**turn))
        raise InUseError(f"several jobs want {self._folder} at once; start one of them again")

    def release(self) -> None:
        """Give the lock back, or withdraw the claim."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
        for name in (self._mark, self._claim):
            self._folder.remove(name)

    def _renew(self) -> None:
        while not self._done.wait(self._seconds / _RENEWALS):
            try:
                self.check()
                self._write_claim()
            except InUseError:
                return  # a claim that was given up must not come back
            except HnmineError:
                continue  # the store does not answer; `check` tells when that has lasted too long

    def _write_claim(self) -> None:
        began = _now()
        self._folder.touch(self._claim)
        self._renewed = began

    def _others(self) -> list[_Claim]:
        """Return the claims of others that stand; what has expired is removed."""
        times = self._folder.times()
        now = times.get(self._claim, 0.0)  # gone: others took it for dead, and `check` will say so
        standing = []
        for name, written in times.items():
            if not name.startswith("claim_") or name == self._claim:
                continue
            mark = name.replace("claim_", "holds_", 1)
            claim = _Claim.of(name, max(0.0, now - written), held=mark in times)
            if claim.age > claim.seconds:
                self._folder.remove(name)
                self._folder.remove(mark)
            else:
                standing.append(claim)
        return standing


@contextmanager
def hold(place: Place, seconds: float = 60.0) -> Iterator[Lease]:
    """Hold the lock of a place for the block; give it back at the end, whatever the end is.

    Args:
        place: what is locked.
        seconds: how long the lock of a dead owner stands.

    Raises:
        InUseError: another job holds it.
        DataError: the place cannot be used.
    """
    lease = Lease(place, seconds)
    try:
        lease.acquire()
        yield lease
    finally:
        lease.release()
