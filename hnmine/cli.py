"""The command line: it calls the steps of `pipeline` and the nights, and prints what a person wants to see at the end.

An error that a user can mend is one message on standard error, and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hnmine import explaining, take_away
from hnmine.command_words import (
    ABOUT_RANK,
    DESCRIPTION,
    EXAMPLES,
    RANK_EXAMPLES,
    STEPS,
    Parser,
    after_evaluation,
    next_command,
    remedy_of,
    settings_given,
)
from hnmine.config.base import slug
from hnmine.config.load import describe, load
from hnmine.config.root import Config
from hnmine.config.training import LOADED_BY
from hnmine.errors import HnmineError
from hnmine.runs import fault, stopping, streams
from hnmine.runs.nodes import use_cpus_of_a_driver
from hnmine.runs.progress import close_live, emit, json_lines
from hnmine.runs.tables import text_table

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
_DATA = "collection: a folder, s3://bucket/prefix or gs://bucket/prefix; docs/data.md lists the layouts"
_AS_WRITTEN = argparse.RawDescriptionHelpFormatter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, one of those that `hnmine --help` lists."""
    # A thread of OpenMP waits 30 times shorter for others before it sleeps than by default: this costs nothing where
    # cores are free, and where another training wants them both do 1.7 times the work.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    use_cpus_of_a_driver()
    streams.mend()
    try:
        return _called(command_parser().parse_args(arguments))
    finally:
        close_live()
        streams.flush()


def _called(options: argparse.Namespace) -> int:
    """Call the function of a command, print what it returns, and return the exit code."""
    stopping.listen()
    with json_lines() if options.log == "json" else nullcontext():
        try:
            text = options.function(options)
            return int(vars(options).get("exit_code", 0)) if emit(text, options.command, text, stream=sys.stdout) else 1
        except KeyboardInterrupt:
            code, word = (stopping.EXIT_CODE, "terminated") if stopping.is_asked() else (130, "interrupted")
            message = f"{word}; the same command goes on from what is kept"
            emit(message, options.command, message, level="warning", exit_code=code)
        except Exception as error:
            code = fault.report(error, options.command)
        return code


def _step(options: argparse.Namespace) -> str:
    """Call the function of the pipeline that has the command's name."""
    from hnmine import pipeline
    from hnmine.report.examples import examples

    # Call it.
    command, out, settings = options.command, options.out, _settings(options)
    show = {"show": _show} if command == "run" else {}
    found = getattr(pipeline, command)(options.data, out, settings, **show)

    # Say what was found, where it is, and what comes next.
    match command:
        case "embed":
            counts = f"{found['encoded']:,} texts encoded, {found['reused']:,} were there already"
            return f"{counts}: {settings.embed.store or out / 'store'}\n{next_command(options, 'mine')}"
        case "mine":
            shown, counts = (
                examples(out / "triplets.parquet", out / "negatives.parquet", count=5),
                found["mining"]["counts"],
            )
            pairs = (
                f"{counts['selected_pairs']:,} of {counts['pairs']:,} pairs have a hard negative, "
                f"{counts['distinct_documents']:,} distinct documents"
            )
            written = f"{out / 'negatives.parquet'} (ids, distances), {out / 'triplets.parquet'} (texts)"
            return f"{shown}\n\n{pairs}: {written}\n{next_command(options, 'train')}"
        case "train":
            is_old = "ranker" not in found and (out / "ranker").is_dir()
            stays = f"{out / 'ranker'} is still of the models before; evaluate chooses it anew.\n" * is_old
            return f"{_best(out, found['training'])}\n{stays}{next_command(options, 'evaluate')}"
        case "evaluate" | "run":
            shown = _ended(out, found) if command == "run" else f"{found['evaluation']['table']}\n\n{_deployed(found)}"
            return f"{shown}\n{after_evaluation(options, _deployed(found))}"
        case "audit":
            written, remedy = f"All figures: {out / 'audit.json'}{_page(out)}", remedy_of(found["verdict"])
            return f"{found['table']}\n\n{found['verdict']}\n{written}\n{next_command(options, 'run')}{remedy}"
    return str(found["table"])


def _show(text: str) -> None:
    """Print what is to be seen before the training."""
    emit(f"{text}\n", "run", f"{text}\n", stream=sys.stdout)


def _ended(out: Path, manifest: dict[str, Any]) -> str:
    """Return what a whole run ends with."""
    return f"{manifest['evaluation']['table']}\n\n{_best(out, manifest['training'])}\n{_deployed(manifest)}".rstrip()


def _demo(options: argparse.Namespace) -> str:
    from hnmine.demo import demo, run_folder

    out, found = run_folder(options.out, quick=options.quick), demo(options.out, quick=options.quick, show=_show)
    return f"{_ended(out, found)}\nAll of it: {out}{_page(out)}\nNext, with your own data: hnmine inspect --data DIR"


def _page(out: Path) -> str:
    """Return where the page is, after a comma; nothing if there is none."""
    return f", as a page: {out / 'report.html'}" if (out / "report.html").is_file() else ""


def _best(out: Path, training: dict[str, Any]) -> str:
    best, loads = training["best"], LOADED_BY[training["kind"]]
    if not training["presets"][best]["best_step"]:
        best = f"the start, which no step of {best} beats"
    return f"The best re-ranker on dev is {best}: {out / 'reranker'}, which {loads} loads."


def _deployed(manifest: dict[str, Any]) -> str:
    """Return whether to deploy, what, and what it costs."""
    return str(manifest["evaluation"]["answer"])


def _rank(options: argparse.Namespace) -> str:
    from hnmine.pipeline import rank

    how = {"model": options.model, "split": options.split, "max_tokens": options.max_tokens, "dtype": options.dtype}
    found = rank(options.data, options.out, _settings(options), **how)
    table = f"{found['table']}\n\n" if "table" in found else ""
    line = f"{found['run']}: {found['documents']:,} documents of {found['queries']:,} queries, the best first"
    return f"{table}{line}\nA TREC run: trec_eval and evaluate.first_stage={found['run']} read it"


def _inspect(options: argparse.Namespace) -> str:
    from hnmine.report.inspection import inspect, inspection_text

    found = inspect(options.data, _settings(options), settings_given(options))
    options.exit_code = 2 if found["problem"] else 0
    return json.dumps(found, indent=1) if options.json else inspection_text(found)


def _report(options: argparse.Namespace) -> str:
    from hnmine.report.page import report

    return str(report(options.out))


def _presets(_options: argparse.Namespace) -> str:
    from hnmine.report.presets import presets_table

    return f"{presets_table()}\n\nNext: hnmine run --data DIR --out DIR --set encoders=NAME --set train.model=NAME"


def _paired(options: argparse.Namespace) -> str:
    from hnmine.report.rankings import paired_table

    return paired_table(options.after, options.before, options.out)


def _night(options: argparse.Namespace) -> str:
    from hnmine.nights.home import Home, history_table

    if options.command == "nightly":
        from hnmine.nights.night import nightly

        night = nightly(options.data, options.home, _settings(options))
        is_new = night.decision.startswith("deployed: ") and Home(options.home).rollback_target() is not None
        back = f"; to take it back: hnmine rollback --home {shlex.quote(options.home)}" * is_new
        return f"{history_table([night])}\n{next_command(options, 'history')}{back}"
    home = Home(options.home)
    if options.command == "rollback":
        return f"{history_table([home.rollback(options.to)])}\n{next_command(options, 'history')}"
    others = ", ".join(home.others())
    back = f"\n{next_command(options, 'rollback')} --to VERSION deploys another one again: {others}" if others else ""
    return f"{history_table(home.nights())}{back}"


def _apidocs(options: argparse.Namespace) -> str:
    from hnmine.corpus import apidocs

    counts = apidocs.describe(apidocs.write_collection(options.out, documents=options.documents))
    return f"{counts}\n{options.out}\nNext: hnmine run --data {shlex.quote(str(options.out))} --out DIR"


def _settings(options: argparse.Namespace) -> Config:
    """Read --config and --set, and what --quick and --preset are short for."""
    overrides = quick_overrides(options.config, options.set) if getattr(options, "quick", False) else []
    overrides += options.set
    if getattr(options, "preset", None):
        overrides.append(f"train.presets={json.dumps(options.preset)}")
    return load(options.config, overrides)


def quick_overrides(config: Path | None, overrides: Sequence[str]) -> list[str]:
    """Return what `compare --quick` sets, with those of its arms that these settings have."""
    from hnmine.arms.arm import known_arms

    known = set(map(slug, known_arms(load(config, overrides))))
    return [*_QUICK, f"compare.arms=[{', '.join(name for name in QUICK_ARMS if name in known)}]"]


def _arms(options: argparse.Namespace) -> str:
    from hnmine.arms.arm import known_arms

    arms = known_arms(load(options.config, options.set))
    rows = [(slug(name), arm.about + " Only if named." * arm.only_named) for name, arm in arms.items()]
    return text_table(rows, ("arm", "what it does"), left=(0, 1))


class _Print(argparse.Action):
    """Print the text that the function `const` makes of the options before, whatever else is required; and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any, **__: Any) -> None:
        try:
            streams.write(self.const(namespace), sys.stdout)
        except HnmineError as error:
            parser.error(str(error))
        parser.exit()


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser("hnmine", description=DESCRIPTION, formatter_class=_AS_WRITTEN)
    # The version is looked up only if asked for: a job's uploaded copy has none, as it is not installed.
    about = "print the version that is installed and end"
    parser.add_argument("--version", action=_Print, nargs=0, const=lambda _: f"hnmine {version('hnmine')}", help=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for step in STEPS:
        _add_step(commands, step)

    _add_rank(commands)
    take_away.add_export_options(_add_command(commands, "export", take_away.exported, take_away.EXPORT), _Print)
    take_away.add_push_options(_add_command(commands, "push", take_away.pushed, take_away.PUSH))
    about, words = explaining.ABOUT, explaining.EXAMPLES
    explaining.add_options(_add_command(commands, "explain", explaining.explained, about, words))
    page = _add_command(commands, "report", _report, "make OUT/report.html, the page of a run, of its files alone")
    page.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    about = "say what a folder is taken for, what stands in it, what is not read, and what to do next"
    inspect = _add_command(commands, "inspect", _inspect, about)
    inspect.add_argument("--data", required=True, metavar="DATA", help=_DATA)
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    _add_settings(inspect)

    # Test two rankings.
    about = "test two rankings of the same queries: randomisation test and confidence interval of every metric"
    example = (
        "  hnmine paired --out out/ after-distilled blended-first-stage\n"
        "  hnmine paired out/evaluation/after-distilled.parquet other/evaluation/after-distilled.parquet"
    )
    paired = _add_command(commands, "paired", _paired, about, f"example:\n{example}")
    for name in ("after", "before"):
        about = "a Parquet file of OUT/evaluation; with --out a row of the table, by its name or that of its file"
        paired.add_argument(name, metavar=name.upper(), help=about)
    paired.add_argument("--out", type=Path, metavar="DIR", help="folder of a run, whose rows are compared")

    # Work on --home.
    about = "mine the collection as it is tonight, and deploy a ranker that is not worse"
    nightly = _add_command(commands, "nightly", _night, about)
    history = _add_command(commands, "history", _night, "list the nights: documents, negatives, MRR@10, decision")
    rollback = _add_command(commands, "rollback", _night, "deploy the ranker before the current one again")
    for command in (nightly, history, rollback):
        command.add_argument("--home", required=True, metavar="DIR", help="folder or s3://bucket/prefix of all nights")
    nightly.add_argument("--data", required=True, metavar="DATA", help=f"{_DATA}, as it is tonight")
    _add_settings(nightly)
    rollback.add_argument("--to", metavar="VERSION", help="this version (see history), whatever it deploys")

    # Need neither --data nor --home.
    _add_command(commands, "config", lambda _: describe(), "list every setting with its default and meaning")
    _add_command(commands, "presets", _presets, "list named encoders and re-rankers: size, languages, licence, layout")
    about = "all steps on the installed packages' API documentation, offline: 6 to 12 minutes on 2 cores"
    demo = _add_command(commands, "demo", _demo, about)
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder (default: demo)")
    demo.add_argument("--quick", action="store_true", help="less of everything, to see what it looks like: a minute")
    about = "make a collection of the installed packages' API documentation"
    apidocs = _add_command(commands, "apidocs", _apidocs, about)
    apidocs.add_argument("--out", required=True, type=Path, metavar="DIR", help="BEIR folder to write")
    apidocs.add_argument("--documents", type=int, default=3000, metavar="N", help="documents to keep (default 3000)")
    return parser


def _add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], str], about: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """Add a command that prints what `function` returns, with the options that all have; return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=_AS_WRITTEN
    )
    command.add_argument("--log", choices=["text", "json"], default="text", help="json: one object a line")
    command.set_defaults(function=function)
    return command


def _add_step(commands: Any, step: str) -> None:
    """Add a command that works on --data and in --out."""
    # Say what it does, with examples.
    start = f"  hnmine {step} --data my-search/ --out out/"
    further = [line.removeprefix(step) for line in EXAMPLES.splitlines() if line.startswith(f"{step} ")]
    examples = [f"{start}{options}" for options in ("", *further, " --config settings.yaml")]
    epilog = "\n".join(["examples:", *examples, "`hnmine config` lists every setting with its default."])
    command = _add_command(commands, step, _step, STEPS[step], epilog)

    # Add the options of all steps, and those of some.
    command.add_argument("--data", required=True, metavar="DATA", help=_DATA)
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
        short_for_set: dict[str, Any] = {"dest": "set", "action": "append"}
        about = "which; default all, as `hnmine compare --list` says"
        command.add_argument("--arms", **short_for_set, type="compare.arms=[{}]".format, metavar="A,B,…", help=about)
        about = "list the arms that the settings before it leave, and end"
        command.add_argument("--list", action=_Print, nargs=0, const=_arms, help=about)
        about = "trainings an arm (default 3)"
        command.add_argument("--seeds", **short_for_set, type="compare.seeds={}".format, metavar="N", help=about)
        command.add_argument("--quick", action="store_true", help=f"minutes, not hours: {', '.join(_QUICK)}")


def _add_rank(commands: Any) -> None:
    """Add the command that re-ranks with any model."""
    command = _add_command(commands, "rank", _rank, ABOUT_RANK, RANK_EXAMPLES)
    command.add_argument("--model", required=True, metavar="M", help="the model that re-ranks")
    command.add_argument("--data", required=True, metavar="DATA", help=_DATA)
    command.add_argument("--out", required=True, type=Path, metavar="RUN", help="run file to write; .gz compresses it")
    _add_settings(command)
    about = "queries of this judged split, and metrics on it (default: all queries of the folder, no metrics)"
    command.add_argument("--split", metavar="NAME", help=about)
    short_for_set: dict[str, Any] = {"dest": "set", "action": "append"}
    about = "what is re-ranked: a TREC run file, bm25 (default) or dense; evaluate.first_stage"
    candidates = lambda name: f"evaluate.first_stage={json.dumps(name)}"  # noqa: E731
    command.add_argument("--candidates", **short_for_set, type=candidates, metavar="FILE", help=about)
    about = "of each query the first K documents (default: of a ranker its own, else 20); evaluate.depth"
    command.add_argument("--depth", **short_for_set, type="evaluate.depth={}".format, metavar="K", help=about)
    about = "tokens read of query and document together (default: what the model's makers say)"
    command.add_argument("--max-tokens", type=int, metavar="N", help=about)
    about = "number format of the computation (default auto: the fastest that the device has)"
    command.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help=about)


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML")
    about = "override a setting; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="step.key=value", help=about)


if __name__ == "__main__":
    sys.exit(main())
