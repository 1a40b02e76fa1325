"""Tables, texts and pages for people. The package is a function too: `hnmine.report(out)` makes the page of OUT."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


class _Report(ModuleType):
    """The package, which can be called; a function of the same name would hide it, or be hidden by it."""

    def __call__(self, out: str | Path) -> Path:
        """Write OUT/report.html of the files of OUT, and return where it is; see `report.page`."""
        page: Path = import_module(".page", __name__).report(out)
        return page


sys.modules[__name__].__class__ = _Report
