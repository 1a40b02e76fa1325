"""A lock with a lease, also between machines: one job at a time works on a directory.

    DIRECTORY/lock/claim_<seconds>_<since>_<owner>_<unique>    a job wants or holds the lock; seconds: its lease
    DIRECTORY/lock/holds_<the same>                            the job holds it; serves only the message to others

An object store can neither create a file only if it is absent nor rename one (not through pyarrow.fs). The lock relies
on what folders, S3, GCS and Azure all keep: a listing contains every file that was written before it began and is not
removed during it. A job writes its own claim, *then* lists. Of two jobs, the one that wrote last sees the claim of the
other, and a job that sees one withdraws its own. If the lock is held, it ends; if both only wanted it, each tries again
after a random pause. So two jobs never hold the lock, and no clock and no waiting time matters for that.

The claim of a dead job expires after its lease, by the store's clock: the time of the claim that was just written minus
its own. A lease is a minute in a folder and ten in an object store, which may be away for minutes. A holder renews its
claim every quarter of a minute. One that could not for half a lease (it was stopped, the network was away) treats the
lock as lost, and its next `check` says so. The other half is the time that a single write may take: a job that sleeps
longer *within* the write after its `check` goes unnoticed. A holder that is silent is waited for until its lease ends.
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
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

from hnmine.errors import DataError, HnmineError, InUseError, UnavailableError
from hnmine.runs.directory import Directory
from hnmine.runs.progress import clock, say

TRIES = 8  # to claim a lock that others claim at the same time
_LEASE_SECONDS = {"folder": 60.0, "object store": 600.0}
_RENEWAL_SECONDS = 15.0  # a shorter lease is renewed four times
_SKEW_SECONDS = 60.0  # that a claim may come from the future: clocks are corrected
_CLAIM = re.compile(r"claim_(?P<seconds>[\d.]+)_(?P<since>[^_]+)_(?P<owner>[^_]+)_[0-9a-f]+")
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first runs while the machine sleeps, too


class LockLostError(UnavailableError):
    """Another job may work on the home by now."""


class _Holder(NamedTuple):
    """Another job that claims the lock."""

    name: str
    age: float  # seconds since it was last heard of
    seconds: float  # its lease
    words: str
    holds: bool


class Lease:
    """A lock that this process holds. Made by `hold`."""

    def __init__(self, directory: Directory, seconds: float) -> None:
        self._folder, self._seconds = directory / "lock", seconds
        self._once = replace(self._folder, patience=0.0)  # for the thread, which asks again by itself
        self._pause = min(seconds / 4, _RENEWAL_SECONDS)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        host = re.sub(r"[^A-Za-z0-9.\-]", "-", socket.gethostname())
        name = f"{seconds:g}_{since}_process-{os.getpid()}-on-{host}_{uuid.uuid4().hex}"
        self.claim, self._mark = f"claim_{name}", f"holds_{name}"
        self._renewed = time.clock_gettime(_CLOCK)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def check(self) -> None:
        """Raise LockLostError unless this process still holds the lock; called before every write that others see."""
        self._check(self._folder)

    def _check(self, folder: Directory) -> None:
        self._refuse_silence()
        if self.claim not in folder.times():  # which may take minutes
            raise LockLostError(f"another job has taken {self._folder} over, or someone removed the lock; start again")
        self._refuse_silence()

    def _refuse_silence(self) -> None:
        silent = time.clock_gettime(_CLOCK) - self._renewed
        if silent > self._seconds / 2:
            raise LockLostError(
                f"{self._folder} could not be renewed for {silent:.0f} s, so another job may have taken it over; "
                "start again"
            )

    def acquire(self) -> None:
        """Take the lock, or raise InUseError."""
        self._say_foreign()
        attempt = 0
        while attempt < TRIES:
            self.renew()
            others = self._other_claims()
            if not others:
                self.check()  # others may have removed the claim if this process slept since it wrote it
                self._folder.touch(self._mark)
                self._thread.start()
                return
            self._folder.remove(self.claim)
            holder = max(others, key=lambda other: other.holds)
            if not holder.holds:
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
                attempt += 1
            elif holder.age > 2 * self._pause + 2 and holder.seconds > holder.age:  # it is renewed more often
                left = holder.seconds - holder.age
                say("nightly", f"{self._folder} is held by {holder.words}; it seems dead, waiting for {clock(left)}")
                time.sleep(min(left + 0.1, _RENEWAL_SECONDS))
            else:
                raise InUseError(f"another job holds {self._folder}: {holder.words}")
        raise InUseError(f"several jobs want {self._folder} at once; start one of them again")

    def release(self) -> None:
        """Give the lock back, or withdraw the claim."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(UnavailableError):  # then it expires
            for name in (self._mark, self.claim):
                replace(self._folder, patience=self._pause).remove(name)

    def renew(self) -> None:
        """Write the claim anew, which begins another lease."""
        self._renew(self._folder)

    def _renew(self, folder: Directory) -> None:
        began = time.clock_gettime(_CLOCK)
        folder.touch(self.claim)
        self._renewed = began

    def _keep_renewing(self) -> None:
        while not self._done.wait(self._pause):
            try:
                self._check(self._once)
                self._renew(self._once)
            except LockLostError:
                return  # a claim that is lost must not come back
            except HnmineError:
                continue  # the store does not answer; `check` raises when that has lasted too long

    def _say_foreign(self) -> None:
        if foreign := [name for name in self._folder.files() if not name.startswith(("claim_", "holds_", "."))]:
            say("nightly", f"{self._folder}/{foreign[0]} is none of hnmine's and is left alone", level="warning")

    def _other_claims(self) -> list[_Holder]:
        """Return the other jobs that claim the lock; remove the expired claims."""
        times = self._folder.times()
        now = times.get(self.claim, 0.0)  # 0 if others have removed the claim, which `check` will find
        others = []
        for name in times.keys() - {self.claim}:
            if not name.startswith("claim_"):
                continue
            mark, known, age = name.replace("claim_", "holds_", 1), _CLAIM.fullmatch(name), now - times[name]
            if known is None:
                raise DataError(f"{self._folder}/{name} is no claim of this hnmine; remove it if no other job runs")
            seconds = float(known["seconds"])
            if now and age < -_SKEW_SECONDS:
                raise DataError(
                    f"{self._folder}/{name} comes from the future, by {clock(-age)}: a clock was set back, or the file "
                    "was copied here; remove it if no other job runs"
                )
            if age > seconds:
                self._folder.remove(name)
                self._folder.remove(mark)
                continue
            words = (
                f"{known['owner']}, since {known['since']}, last heard of {max(0.0, age):.0f} s ago; wait until it is "
                f"done. If it is dead, its lock expires {seconds:g} s after its last word"
            )
            others.append(_Holder(name, age, seconds, words, mark in times))
        return others


@contextmanager
def hold(directory: Directory, seconds: float | None = None) -> Iterator[Lease]:
    """Hold the lock of a directory for the block, if no other job does; `seconds` after its death, a job's expires.

    Raises:
        InUseError: another job holds it.
        DataError: in its folder lies what no job wrote in our time.
        UnavailableError: the store does not answer.
    """
    lease = Lease(directory, seconds or _LEASE_SECONDS["folder" if directory.local else "object store"])
    try:
        lease.acquire()
        yield lease
    finally:
        lease.release()
