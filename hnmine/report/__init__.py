"""Tables, texts and pages for people. The package is a function too: `hnmine.report(out)` makes the page of OUT."""

import sys
from pathlib import Path
from types import ModuleType


class _Report(ModuleType):
    """The package, which can be called; a function of the same name would hide it, or be hidden by it."""

    def __call__(self, out: str | Path) -> Path:
        """Write OUT/report.html of the files of OUT, and return where it is; see `report.page`."""
        from hnmine.report.page import report

        return report(out)


sys.modules[__name__].__class__ = _Report
