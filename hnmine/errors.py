"""Errors a user can act on; every one says what was expected, what came, and what to do.

    ValueError
    └── HnmineError          base of all of them; the command line prints it without a traceback, exit code 2
        ├── ConfigError      a key, a value or a combination in the configuration
        ├── DataError        a file of the collection, a precomputed vector file, a run folder
        ├── ModelError       an encoder or re-ranker that cannot be loaded or is not what was expected
        ├── DeviceError      hardware or a library for it is missing
        └── InUseError       another job holds the lock; exit code 3

Rows that are bad one by one are no errors: they are quarantined with a reason (see `sources`).
"""


class HnmineError(ValueError):
    """A user's mistake or a missing prerequisite, with its remedy in the message."""


class ConfigError(HnmineError):
    """An unknown key, a value out of range, or settings that contradict each other."""


class DataError(HnmineError):
    """A file that is missing, malformed as a whole, or holds nothing usable."""


class ModelError(HnmineError):
    """A model that cannot be loaded or is not the one that was asked for."""


class DeviceError(HnmineError):
    """A device or accelerator library that was asked for and is not there."""


class InUseError(HnmineError):
    """Another job works on the same home, or may have taken it over."""
