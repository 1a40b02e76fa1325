"""Errors a user can act on; every one says what was expected, what came, and what to do.

Rows that are bad one by one are no errors: they are quarantined with a reason (see `corpus`).
"""

from hnmine.redaction import redacted


class HnmineError(ValueError):
    """The base of all of them; the command line prints it without a traceback, exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class ConfigError(HnmineError):
    """An unknown key, a value out of range, or settings that contradict each other."""


class DataError(HnmineError):
    """A file or a run folder that is missing, malformed as a whole, or holds nothing usable."""


class ModelError(HnmineError):
    """An encoder or re-ranker that cannot be loaded or is not the one that was asked for."""


class DeviceError(HnmineError):
    """A device or a library for it that was asked for and is not there."""


class UnavailableError(DataError):
    """What may pass by itself: a store that does not answer, or a lock that was lost; exit code 75."""


class InUseError(HnmineError):
    """Another job works on the same home; exit code 3."""
