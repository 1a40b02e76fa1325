"""A lock with a lease, also between machines: one job at a time works on a directory.

    DIRECTORY/lock/claim_<seconds>_<since>_<owner>_<unique>    a job wants or holds the lock; seconds: its lease
    DIRECTORY/lock/holds_<the same>                            the job holds it; serves only the message to others

An object store can neither create a file only if it is absent nor rename one (not through pyarrow.fs). The lock relies
on what folders, S3, GCS and Azure all keep: a listing contains every file that was written before it began and is not
removed during it. A job writes its own claim, *then* lists. Of two jobs, the one that wrote last sees the claim of the
other, and a job that sees one withdraws its own. If the lock is held, it ends; if both only wanted it, each tries again
after a random pause. So two jobs never hold the lock, and no clock and no waiting time matters for that.

The claim of a dead job expires after its lease, by the store's clock: the time of the claim that was just written minus
its own. A holder renews its claim four times a lease. One that could not for half a lease (it was stopped, the network
was away) treats the lock as lost, and its next `check` says so. The other half is the time that a single write may
take: a job that sleeps longer *within* the write after its `check` goes unnoticed.
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

from hnmine.errors import HnmineError, InUseError
from hnmine.runs.directory import Directory

TRIES = 8  # to claim a lock that others claim at the same time
_RENEWALS = 4  # in one lease
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first runs while the machine sleeps, too


class Lease:
    """A lock that this process holds. Made by `hold`."""

    def __init__(self, directory: Directory, seconds: float) -> None:
        self._folder, self._seconds = directory / "lock", seconds
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        host = re.sub(r"[^A-Za-z0-9.\-]", "-", socket.gethostname())
        name = f"{seconds:g}_{since}_process-{os.getpid()}-on-{host}_{uuid.uuid4().hex}"
        self.claim, self._mark = f"claim_{name}", f"holds_{name}"
        self._renewed = time.clock_gettime(_CLOCK)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def check(self) -> None:
        """Raise InUseError unless this process still holds the lock; called before every write that others see."""
        silent = time.clock_gettime(_CLOCK) - self._renewed
        if silent > self._seconds / 2:
            raise InUseError(
                f"{self._folder} could not be renewed for {silent:.0f} s, so another job may have taken it over; "
                "start again"
            )
        if self.claim not in self._folder.times():
            raise InUseError(f"another job has taken {self._folder} over, or someone removed the lock; start again")

    def acquire(self) -> None:
        """Take the lock, or raise InUseError."""
        for attempt in range(TRIES):
            self.renew()
            claimed, holder = self._other_claims()
            if not claimed:
                self.check()  # others may have removed the claim if this process slept since it wrote it
                self._folder.touch(self._mark)
                self._thread.start()
                return
            self._folder.remove(self.claim)
            if holder:
                raise InUseError(f"another job holds {self._folder}: {holder}")
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise InUseError(f"several jobs want {self._folder} at once; start one of them again")

    def release(self) -> None:
        """Give the lock back, or withdraw the claim."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
        for name in (self._mark, self.claim):
            self._folder.remove(name)

    def renew(self) -> None:
        """Write the claim anew, which begins another lease."""
        began = time.clock_gettime(_CLOCK)
        self._folder.touch(self.claim)
        self._renewed = began

    def _keep_renewing(self) -> None:
        while not self._done.wait(self._seconds / _RENEWALS):
            try:
                self.check()
                self.renew()
            except InUseError:
                return  # a claim that is lost must not come back
            except HnmineError:
                continue  # the store does not answer; `check` raises when that has lasted too long

    def _other_claims(self) -> tuple[bool, str]:
        """Return whether another job claims the lock, and who holds it, in words; remove the expired claims."""
        times = self._folder.times()
        now = times.get(self.claim, 0.0)  # 0 if others have removed the claim, which `check` will find
        claimed, holder = False, ""
        for name in times.keys() - {self.claim}:
            if not name.startswith("claim_"):
                continue
            mark = name.replace("claim_", "holds_", 1)
            _, seconds, since, owner, _ = name.split("_")
            age = max(0.0, now - times[name])
            if age > float(seconds):
                self._folder.remove(name)
                self._folder.remove(mark)
                continue
            claimed = True
            if mark in times:
                holder = (
                    f"{owner}, since {since}, last heard of {age:.0f} s ago; wait until it is done. If it is dead, its "
                    f"lock expires {seconds} s after its last word"
                )
        return claimed, holder


@contextmanager
def hold(directory: Directory, seconds: float = 60.0) -> Iterator[Lease]:
    """Hold the lock of a directory for the block, if no other job does; `seconds` after its death, a job's expires."""
    lease = Lease(directory, seconds)
    try:
        lease.acquire()
        yield lease
    finally:
        lease.release()
