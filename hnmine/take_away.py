"""`hnmine export` and `hnmine push`: options, and what they print."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXPORT = "write what was mined in the format of another tool"
PUSH = "say what would be sent to a model hub; send it if OWNER/NAME is given twice"


def add_export_options(command: argparse.ArgumentParser, prints: type[argparse.Action]) -> None:
    """Add the options of `hnmine export`; `prints` is the action that prints a text and ends."""
    command.add_argument("target", type=Path, metavar="FILE_OR_DIR", help="new, or what an earlier export left")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    command.add_argument("--to", required=True, metavar="FORMAT", help="one that --list names")
    command.add_argument("--list", action=prints, nargs=0, const=_formats, help="list the formats, and end")
    command.add_argument("--data", metavar="DATA", help="collection of the run, for its judgements and all its texts")
    command.add_argument("--scores", action="store_true", help="cosines in the place of labels (sentence-transformers)")
    command.add_argument("--negatives", type=int, metavar="N", help="of each n-tuple (default: as many as keep most)")


def exported(options: argparse.Namespace) -> str:
    """Return what `hnmine export` prints."""
    from hnmine.report.exports import export, export_text

    how = {name: vars(options)[name] for name in ("data", "scores", "negatives")}
    return export_text(export(options.out, options.to, options.target, **how))


def _formats(_options: argparse.Namespace) -> str:
    from hnmine.report.exports import formats_table

    return formats_table()


def add_push_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `hnmine push`."""
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    command.add_argument("--to", required=True, metavar="OWNER/NAME", help="repository; made, private, if it is new")
    command.add_argument(
        "--what", dest="which", choices=["ranker", "reranker"], default="ranker", help="default: ranker"
    )
    command.add_argument("--public", action="store_true", help="let everybody read it")
    about = "the same name again: upload. A terminal asks for it otherwise"
    command.add_argument("--yes-upload", dest="confirmed", metavar="OWNER/NAME", help=about)


def pushed(options: argparse.Namespace) -> str:
    """Return what `hnmine push` prints; only a terminal is asked."""
    from hnmine.report.push import push

    how = {name: vars(options)[name] for name in ("which", "public", "confirmed")}
    return push(options.out, options.to, **how, ask=_ask if sys.stdin.isatty() and sys.stdout.isatty() else None)


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:  # Ctrl-D
        return ""
