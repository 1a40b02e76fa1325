"""The picture of a run's page for README: its first sentence and picture, and the queries one by one.

    python -m benchmarks.page_picture demo/out docs/images/report.png

The table of rows is left out of the picture, so that both fit.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hnmine.report.page import report

WIDTH, HEIGHT = 1100, 1270
"""Of the screen, in CSS pixels."""
_LEFT_OUT = "nav, #rows { display: none } #queries { margin-top: 2.5rem }"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the page of a run anew, and take the picture with the Chromium of this machine, or with playwright's."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser("page_picture", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of a run")
    parser.add_argument("picture", type=Path, help="PNG to write")
    options = parser.parse_args(arguments)
    page_file, chromium = report(options.out), shutil.which("chromium")
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(page_file.absolute().as_uri())
        page.add_style_tag(content=_LEFT_OUT)
        page.screenshot(path=options.picture)
        browser.close()
    print(f"{options.picture}: {options.picture.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
