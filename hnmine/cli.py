"""The command line: the pipeline's steps, and two helpers. Errors a user can mend are one message and exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hnmine.config.base import slug
from hnmine.config.describe import describe
from hnmine.config.load import load
from hnmine.config.training import LOADED_BY
from hnmine.errors import HnmineError, InUseError
from hnmine.runs.progress import Level, emit, json_lines

_DESCRIPTION = """\
Mine hard negatives for your domain, fine-tune a re-ranker on them, and see what it gained.

  hnmine run      --data DIR --out DIR     all of it: mine, train, evaluate
  hnmine embed    --data DIR --out DIR     only fill OUT/store with the vectors that it lacks
  hnmine mine     --data DIR --out DIR     hard negatives only: OUT/negatives.parquet, OUT/triplets.parquet
  hnmine train    --data DIR --out DIR     fine-tune on what mine left in OUT
  hnmine evaluate --data DIR --out DIR     re-rank the test queries before and after
  hnmine paired   AFTER BEFORE             test two files of OUT/evaluation against each other
  hnmine compare  --data DIR --out DIR     every way to choose negatives, side by side (hours; --quick: 40 minutes)
  hnmine audit    --data DIR --out DIR     how dangerous is mining in this domain? (a minute, before all else)
  hnmine nightly  --data DIR --home DIR    mine what changed since last night; deploy a re-ranker that is not worse
  hnmine history  --home DIR               the nights: what changed, and what was decided
  hnmine rollback --home DIR               deploy the re-ranker before the current one again

DIR is a BEIR folder: corpus.jsonl, queries.jsonl (each may end in .gz) and qrels/train.tsv, dev.tsv, test.tsv.

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
_QUICK_ARMS = (
    "random-of-bm25-s-first-50",
    "the-paper",
    "two-conditions-then-bm25",
    "mistakes-of-the-start",
    "adore-star",
    "distillation-mistakes-of-the-start",
)
"""Those of them that the settings allow."""
_QUICK = (
    f"compare.arms=[{', '.join(_QUICK_ARMS)}]",
    "compare.seeds=1",
    "compare.learning_rates=[5e-5, 2e-4]",
    "train.max_pairs=200",
    "train.distill.lessons=400",
    "train.max_tokens=96",
    "train.dev_queries=100",
    "train.evaluations_per_epoch=1",
    "evaluate.queries=200",
)
_SPINS = "10000"
"""Turns that a thread of OpenMP waits for others before it sleeps. 30 times fewer than its own default cost nothing
where cores are free, and where another training wants them both do 1.7 times the work."""
_EXAMPLES = {
    "run": ["--preset auto", "--preset distilled --preset anchored --preset paper"],
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


def _epilog(step: str) -> str:
    """Return examples of a step."""
    lines = [f"  hnmine {step} --data my-search/ --out out/ {more}".rstrip() for more in ("", *_EXAMPLES[step])]
    last = f"  hnmine {step} --data my-search/ --out out/ --config settings.yaml"
    return "\n".join(["examples:", *lines, last, "`hnmine config` lists every setting with its default."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0 done, 2 a mistake of the user, 3 another job runs, 130 interrupted, 143 terminated.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    options = command_parser().parse_args(arguments)
    terminated = threading.Event()

    def terminate(_signal: int, _frame: object) -> None:
        """End as Ctrl-C does, which all libraries pass on, and close what is open on the way out, undisturbed."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        terminated.set()
        raise KeyboardInterrupt

    def ended(code: int, message: str, level: Level, line: str) -> int:
        emit(line, options.command, message, level=level, exit_code=code)
        return code

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    with json_lines() if options.log == "json" else nullcontext():
        try:
            text = _run(options)
            emit(text, options.command, text, stream=sys.stdout)
        except HnmineError as error:
            return ended(3 if isinstance(error, InUseError) else 2, str(error), "error", f"error: {error}")
        except KeyboardInterrupt:
            code, word = (143, "terminated") if terminated.is_set() else (130, "interrupted")
            message = f"{word}; the same command goes on from what is kept"
            return ended(code, message, "warning", message)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return 0


class _Version(argparse.Action):
    """Print the version and end; a job's uploaded copy need not be installed, so nobody else asks for it."""

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
        width = max(map(len, map(slug, arms)))
        for name, arm in arms.items():
            print(f"{slug(name):<{width}}  {arm.about}{' Only if named.' if arm.asked else ''}")  # noqa: T201
        parser.exit()


def command_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("hnmine", description=_DESCRIPTION, formatter_class=raw)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version that is installed and end")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    log = argparse.ArgumentParser(add_help=False)
    log.add_argument("--log", choices=["text", "json"], default="text", help="json: one object a line (default text)")
    for step, help_text in _STEPS.items():
        command = commands.add_parser(
            step,
            help=help_text,
            description=help_text,
            epilog=_epilog(step),
            formatter_class=raw,
            parents=[log],
        )
        command.add_argument("--data", required=True, type=Path, metavar="DIR", help="BEIR folder")
        command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of this run")
        _add_settings(command)
        if step in ("run", "train"):
            command.add_argument(
                "--preset",
                action="append",
                default=[],
                metavar="NAME",
                help="what to train: distilled (default), lists with easier negatives and lessons from the encoders; "
                "anchored, the same without lessons; paper, the pure triplet margin; positives, no negatives; auto, "
                "the best on dev of a few ways to choose negatives; or a way of `hnmine compare --list`; may be "
                "repeated",
            )
        if step == "compare":
            command.add_argument("--arms", metavar="A,B,…", help="which; default all, as `hnmine compare --list` says")
            says = "list the arms that the settings before it leave, and end"
            command.add_argument("--list", action=_ListArms, nargs=0, help=says)
            command.add_argument("--seeds", type=int, metavar="N", help="trainings an arm (default 3)")
            command.add_argument("--quick", action="store_true", help=f"minutes, not hours: {', '.join(_QUICK)}")
    paired = commands.add_parser(
        "paired",
        help="test two rankings of the same queries against each other",
        description="Paired randomisation test and 95 % interval of every metric, over the queries both files have.",
        epilog="example:\n  hnmine paired out/evaluation/after-distilled.parquet out/evaluation/after-paper.parquet",
        formatter_class=raw,
        parents=[log],
    )
    for name in ("after", "before"):
        paired.add_argument(name, type=Path, metavar=name.upper(), help="a Parquet file of OUT/evaluation")
    _add_nights(commands, log)
    commands.add_parser("config", help="list every setting with its default and meaning", parents=[log])
    about = "make a collection of the installed packages' API documentation"
    apidocs = commands.add_parser("apidocs", help=about, parents=[log])
    apidocs.add_argument("--out", required=True, type=Path, metavar="DIR", help="BEIR folder to write")
    apidocs.add_argument("--documents", type=int, default=3000, metavar="N", help="documents to keep (default 3000)")
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="step.key=value",
        help="override a setting; may be repeated",
    )


def _add_nights(commands: Any, log: argparse.ArgumentParser) -> None:
    helps = {
        "nightly": "mine what changed since last night, and deploy a re-ranker that is not worse",
        "history": "list the nights: documents, negatives, MRR@10, decision",
        "rollback": "deploy the re-ranker before the current one again",
    }
    for name, help_text in helps.items():
        command = commands.add_parser(name, help=help_text, description=help_text, parents=[log])
        command.add_argument("--home", required=True, metavar="DIR", help="folder or s3://bucket/prefix of all nights")
        if name == "nightly":
            command.add_argument(
                "--data", required=True, type=Path, metavar="DIR", help="BEIR folder, as it is tonight"
            )
        if name == "rollback":
            command.add_argument("--to", metavar="VERSION", help="this version (see history), whatever its re-ranker")
        if name != "history":
            _add_settings(command)


def _run(options: argparse.Namespace) -> str:
    """Do what is asked; return what a person wants to see at the end."""
    if options.command == "config":
        return describe()
    if options.command == "apidocs":
        from hnmine.corpus import apidocs

        return apidocs.describe(apidocs.write_collection(options.out, documents=options.documents))
    if options.command == "paired":
        from hnmine.ranking.evaluate import between

        return between(options.after, options.before)
    if options.command == "history":
        from hnmine.nights.home import Home, history_table

        home = Home.at(options.home)
        return history_table(home.history()) if home.history() else f"home {home.directory} has no version yet"
    config = load(options.config, _overrides(options))
    if options.command in ("nightly", "rollback"):
        from hnmine.nights import night as nightly
        from hnmine.nights.home import history_table

        if options.command == "nightly":
            return history_table([nightly.nightly(options.data, options.home, config)])
        return history_table([nightly.rollback(options.home, options.to, config)])
    from hnmine import pipeline

    step = {name: getattr(pipeline, name) for name in _STEPS}[options.command]
    return _report(options.command, options.out, step(options.data, options.out, config))


def _overrides(options: argparse.Namespace) -> list[str]:
    """Return what --set says, and the options that are short for a setting."""
    overrides = [*(_quick(options) if getattr(options, "quick", False) else ()), *options.set]
    if getattr(options, "preset", None):
        overrides.append(f"train.presets=[{', '.join(options.preset)}]")
    if getattr(options, "arms", None):
        overrides.append(f"compare.arms={json.dumps([name.strip() for name in options.arms.split(',')])}")
    if getattr(options, "seeds", None) is not None:
        overrides.append(f"compare.seeds={options.seeds}")
    return overrides


def _quick(options: argparse.Namespace) -> list[str]:
    from hnmine.arms.arm import known_arms  # imports torch

    known = set(map(slug, known_arms(load(options.config, options.set))))
    return [*_QUICK, f"compare.arms=[{', '.join(name for name in _QUICK_ARMS if name in known)}]"]


def _report(command: str, out: Path, found: dict[str, Any]) -> str:
    from hnmine.report.examples import examples

    if command == "embed":
        return f"{found['encoded']:,} texts encoded, {found['reused']:,} were in the store"
    if command == "audit":
        return f"{found['table']}\n\n{found['verdict']}"
    if command == "compare":
        return str(found["table"])
    parts = []
    if command in ("run", "mine"):
        parts.append(examples(out / "triplets.parquet", out / "negatives.parquet", count=5))
    if command in ("run", "evaluate"):
        parts.append(found["evaluation"]["table"])
    if command in ("run", "train"):
        best, loaded = found["training"]["best"], LOADED_BY[found["training"]["kind"]]
        parts.append(f"Best on dev: {best}. It is {out / 'reranker'}; {loaded} loads it.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
