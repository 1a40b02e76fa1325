"""The command line: it calls the steps of `pipeline` and the nights, and prints what a person wants to see at the end.

An error that a user can mend is one message on standard error, and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hnmine.config.base import slug
from hnmine.config.load import describe, load
from hnmine.config.root import Config
from hnmine.config.training import LOADED_BY
from hnmine.errors import HnmineError, InUseError
from hnmine.runs.progress import Level, emit, json_lines
from hnmine.runs.tables import text_table

_DESCRIPTION = """\
Mine hard negatives for your domain, fine-tune a re-ranker on them, and see what it gained.

  hnmine audit    --data DIR --out DIR     how dangerous is mining in this domain? (a minute, before all else)
  hnmine run      --data DIR --out DIR     all of it: mine, train, evaluate
  hnmine compare  --data DIR --out DIR     every way to choose negatives, side by side (hours; --quick: 40 minutes)

the steps of run, one by one; what is already done is reused:
  hnmine embed    --data DIR --out DIR     only fill OUT/store with the vectors that it lacks
  hnmine mine     --data DIR --out DIR     hard negatives only: OUT/negatives.parquet, OUT/triplets.parquet
  hnmine train    --data DIR --out DIR     fine-tune on what mine left in OUT
  hnmine evaluate --data DIR --out DIR     re-rank the test queries before and after
  hnmine paired   AFTER BEFORE             test two files of OUT/evaluation against each other

every night:
  hnmine nightly  --data DIR --home DIR    mine the collection as it is tonight; deploy what is not worse
  hnmine history  --home DIR               the nights: what changed, and what was decided
  hnmine rollback --home DIR               deploy the re-ranker before the current one again

DIR is a BEIR folder: corpus.jsonl, queries.jsonl (each may end in .gz) and qrels/train.tsv, dev.tsv, test.tsv.
`hnmine config` lists every setting with its default; a file (--config) or an option (--set step.key=value) changes it.

Exit codes: 0 done; 1 an error of hnmine itself, or of the machine; 2 a mistake that the message tells how to mend;
3 another job works on this HOME; 130 interrupted, 143 terminated: the same command goes on from there.
"""
_STEPS = {
    "run": "mine, fine-tune and evaluate; what is already done is reused",
    "embed": "encode the documents and queries that the store lacks, and nothing else",
    "mine": "mine the hard negatives of the train pairs",
    "train": "fine-tune the re-ranker on the negatives in OUT",
    "evaluate": "compare the re-rankers in OUT on the test queries",
    "compare": "train a re-ranker with every way to choose negatives, and compare them; goes on where it was stopped",
    "audit": "measure how often right answers without a label would be taken for negatives",
}
_EXAMPLES = {
    "run": ["--preset paper", "--preset distilled --preset anchored --preset mistakes-of-the-start"],
    "embed": ["--set embed.store=s3://bucket/vectors"],
    "mine": ["--set select.negatives=4", "--set 'encoders=[{name: bge, model: BAAI/bge-base-en-v1.5}]'"],
    "train": [
        "--preset distilled --preset mistakes-of-the-start",
        "--set train.model=cross-encoder/ms-marco-MiniLM-L6-v2",
    ],
    "evaluate": ["--set evaluate.queries=200", "--set evaluate.first_stage=run.trec"],
    "compare": [
        "--quick",
        "--arms bm25,two-conditions-then-bm25 --seeds 1",
        "--quick --arms two-conditions-then-bm25 --set compare.sizes=[100,250,500]",
    ],
    "audit": ["--set guards.margin=0.02 --set guards.first_rank=5"],
}
QUICK_ARMS = (
    "random-of-bm25-s-first-50",
    "the-paper",
    "two-conditions-then-bm25",
    "mistakes-of-the-start",
    "adore-star",
    "distillation-mistakes-of-the-start",
)
"""Arms of `compare --quick`, as far as the settings allow them."""
_QUICK = (
    f"compare.arms=[{', '.join(QUICK_ARMS)}]",
    "compare.seeds=1",
    "compare.learning_rates=[5e-5, 2e-4]",
    "train.max_pairs=200",
    "train.lessons=400",
    "train.max_tokens=96",
    "train.dev_queries=100",
    "train.evaluations_per_epoch=1",
    "evaluate.queries=200",
)
_AS_WRITTEN = argparse.RawDescriptionHelpFormatter
_SPINS = "10000"
"""Turns that a thread of OpenMP waits for others before it sleeps. 30 times fewer than its own default cost nothing
where cores are free, and where another training wants them both do 1.7 times the work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0 done, 2 a mistake of the user, 3 another job runs, 130 interrupted, 143 terminated.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    options = command_parser().parse_args(arguments)
    terminated = _end_on_sigterm()
    with json_lines() if options.log == "json" else nullcontext():
        try:
            _show(options, _COMMANDS[options.command](options))
        except HnmineError as error:
            code = 3 if isinstance(error, InUseError) else 2
            return _ended(options, code, str(error), "error", f"error: {error}")
        except KeyboardInterrupt:
            code, word = (143, "terminated") if terminated.is_set() else (130, "interrupted")
            message = f"{word}; the same command goes on from what is kept"
            return _ended(options, code, message, "warning", message)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return 0


def _end_on_sigterm() -> threading.Event:
    """Let SIGTERM end the program as Ctrl-C does, which all libraries pass on; return what is set when it came."""
    terminated = threading.Event()

    def terminate(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is open is closed undisturbed
        terminated.set()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    return terminated


def _show(options: argparse.Namespace, text: str) -> None:
    """Print what a person asked for, on standard output."""
    emit(text, options.command, text, stream=sys.stdout)


def _ended(options: argparse.Namespace, code: int, message: str, level: Level, line: str) -> int:
    """Say why the command ends early; return its exit code."""
    emit(line, options.command, message, level=level, exit_code=code)
    return code


def _step(options: argparse.Namespace) -> str:
    """Call the function of the pipeline that has the command's name."""
    from hnmine import pipeline
    from hnmine.report.examples import examples

    command, out = options.command, options.out
    show = {"show": lambda text: _show(options, f"{text}\n")} if command == "run" else {}
    found = getattr(pipeline, command)(options.data, out, _settings(options), **show)
    match command:
        case "embed":
            return f"{found['encoded']:,} texts encoded, {found['reused']:,} were in the store"
        case "mine":
            return examples(out / "triplets.parquet", out / "negatives.parquet", count=5)
        case "train":
            return _best(out, found["training"])
        case "evaluate":
            return str(found["evaluation"]["table"])
        case "run":
            return f"{found['evaluation']['table']}\n\n{_best(out, found['training'])}"
        case "audit":
            return f"{found['table']}\n\n{found['verdict']}"
    return str(found["table"])


def _best(out: Path, training: dict[str, Any]) -> str:
    return f"Best on dev: {training['best']}. It is {out / 'reranker'}; {LOADED_BY[training['kind']]} loads it."


def _paired(options: argparse.Namespace) -> str:
    from hnmine.report.rankings import paired_table

    return paired_table(options.after, options.before)


def _nightly(options: argparse.Namespace) -> str:
    from hnmine.nights.home import history_table
    from hnmine.nights.night import nightly

    return history_table([nightly(options.data, options.home, _settings(options))])


def _history(options: argparse.Namespace) -> str:
    from hnmine.nights.home import Home, history_table

    home = Home(options.home)
    nights = home.history()
    return history_table(nights) if nights else f"home {home.directory} has no version yet"


def _rollback(options: argparse.Namespace) -> str:
    from hnmine.nights.home import Home, history_table

    return history_table([Home(options.home).rollback(options.to)])


def _apidocs(options: argparse.Namespace) -> str:
    from hnmine.corpus import apidocs

    return apidocs.describe(apidocs.write_collection(options.out, documents=options.documents))


_COMMANDS: dict[str, Callable[[argparse.Namespace], str]] = {
    **dict.fromkeys(_STEPS, _step),
    "paired": _paired,
    "nightly": _nightly,
    "history": _history,
    "rollback": _rollback,
    "config": lambda _options: describe(),
    "apidocs": _apidocs,
}


def _settings(options: argparse.Namespace) -> Config:
    """Read --config and --set, and the options that are short for a setting."""
    overrides = [*options.set]
    if getattr(options, "quick", False):
        overrides = [*quick_overrides(options.config, options.set), *options.set]
    if getattr(options, "preset", None):
        overrides.append(f"train.presets=[{', '.join(options.preset)}]")
    if getattr(options, "arms", None):
        overrides.append(f"compare.arms={json.dumps([name.strip() for name in options.arms.split(',')])}")
    if getattr(options, "seeds", None) is not None:
        overrides.append(f"compare.seeds={options.seeds}")
    return load(options.config, overrides)


def quick_overrides(config: Path | None, overrides: Sequence[str]) -> list[str]:
    """Return what `compare --quick` sets, with those of its arms that these settings have."""
    from hnmine.arms.arm import known_arms

    known = set(map(slug, known_arms(load(config, overrides))))
    return [*_QUICK, f"compare.arms=[{', '.join(name for name in QUICK_ARMS if name in known)}]"]


class _Version(argparse.Action):
    """Print the version and end; the version is looked up only here, as a job's uploaded copy is not installed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(f"hnmine {version('hnmine')}")  # noqa: T201
        parser.exit()


class _ListArms(argparse.Action):
    """Print the arms and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any, **__: Any) -> None:
        from hnmine.arms.arm import known_arms

        try:
            arms = known_arms(load(namespace.config, namespace.set or []))
        except HnmineError as error:
            parser.error(str(error))
        rows = [(slug(name), arm.about + " Only if named." * arm.only_named) for name, arm in arms.items()]
        print(text_table(rows, ("arm", "what it does"), left=(0, 1)))  # noqa: T201
        parser.exit()


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser("hnmine", description=_DESCRIPTION, formatter_class=_AS_WRITTEN)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version that is installed and end")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for step in _STEPS:
        _add_step(commands, step)
    _add_paired(commands)
    _add_nights(commands)
    _add_command(commands, "config", "list every setting with its default and meaning")
    apidocs = _add_command(commands, "apidocs", "make a collection of the installed packages' API documentation")
    apidocs.add_argument("--out", required=True, type=Path, metavar="DIR", help="BEIR folder to write")
    apidocs.add_argument("--documents", type=int, default=3000, metavar="N", help="documents to keep (default 3000)")
    return parser


def _add_command(commands: Any, name: str, about: str, epilog: str = "") -> argparse.ArgumentParser:
    """Add a command with what all have, and return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=_AS_WRITTEN
    )
    command.add_argument("--log", choices=["text", "json"], default="text", help="json: one object a line")
    return command


def _add_step(commands: Any, step: str) -> None:
    """Add a command that works on --data and in --out."""
    start = f"  hnmine {step} --data my-search/ --out out/"
    examples = [start, *(f"{start} {more}" for more in _EXAMPLES[step]), f"{start} --config settings.yaml"]
    epilog = "\n".join(["examples:", *examples, "`hnmine config` lists every setting with its default."])
    command = _add_command(commands, step, _STEPS[step], epilog)
    command.add_argument("--data", required=True, type=Path, metavar="DIR", help="BEIR folder")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of this run")
    _add_settings(command)
    if step in ("run", "train"):
        about = (
            "what to train: distilled (default), lists with easier negatives and lessons from the encoders; anchored, "
            "the same without lessons; paper, the pure triplet margin; positives, no negatives; or a way of "
            "`hnmine compare --list`; may be repeated, the best on dev is kept"
        )
        command.add_argument("--preset", action="append", default=[], metavar="NAME", help=about)
    if step == "compare":
        command.add_argument("--arms", metavar="A,B,…", help="which; default all, as `hnmine compare --list` says")
        about = "list the arms that the settings before it leave, and end"
        command.add_argument("--list", action=_ListArms, nargs=0, help=about)
        command.add_argument("--seeds", type=int, metavar="N", help="trainings an arm (default 3)")
        command.add_argument("--quick", action="store_true", help=f"minutes, not hours: {', '.join(_QUICK)}")


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML")
    about = "override a setting; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="step.key=value", help=about)


def _add_paired(commands: Any) -> None:
    """Add the command that tests two rankings."""
    about = "test two rankings of the same queries: randomisation test and confidence interval of every metric"
    example = "  hnmine paired out/evaluation/after-distilled.parquet out/evaluation/after-paper.parquet"
    command = _add_command(commands, "paired", about, f"example:\n{example}")
    for name in ("after", "before"):
        command.add_argument(name, type=Path, metavar=name.upper(), help="a Parquet file of OUT/evaluation")


def _add_nights(commands: Any) -> None:
    """Add the commands that work on --home."""
    nightly = _add_command(
        commands, "nightly", "mine the collection as it is tonight, and deploy a re-ranker that is not worse"
    )
    history = _add_command(commands, "history", "list the nights: documents, negatives, MRR@10, decision")
    rollback = _add_command(commands, "rollback", "deploy the re-ranker before the current one again")
    for command in (nightly, history, rollback):
        command.add_argument("--home", required=True, metavar="DIR", help="folder or s3://bucket/prefix of all nights")
    nightly.add_argument("--data", required=True, type=Path, metavar="DIR", help="BEIR folder, as it is tonight")
    _add_settings(nightly)
    rollback.add_argument("--to", metavar="VERSION", help="this version (see history), whatever its re-ranker")


if __name__ == "__main__":
    sys.exit(main())
