"""Hostile input, class by class: what hnmine does is right or refused by name, and nothing else.

    python benchmarks/attack.py [--minutes 10] [--only CLASS] [--json benchmarks/attack.json]

Each case is decided by its class and a number; the counts of earlier calls stand in the JSON file, and a call goes on
at the number after them. A case ends in one of these: held (done right, or refused with one message), traceback (an
error of hnmine itself, or a process that dies), wrong (another result, a lost file, a leak, and nobody was told), hung.
Writes the file after every class; exit code 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as Late
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import mutate_readers
from hnmine.runs.files import file_sha256, write_json
from hnmine.runs.manifest import versions
from tests.builders.collections import write_collection
from tests.builders.layouts import LAYOUTS
from tests.builders.models import tiny_cross_encoder, tiny_word_encoder
from tests.builders.settings import quick_options

BEGIN, END = "<!-- attack: begin -->", "<!-- attack: end -->"
HELD, TRACEBACK, WRONG, HUNG = OUTCOMES = ("held", "traceback", "wrong", "hung")
FAULT = "error of hnmine itself"
SECONDS = 150  # of one case
SHOWN = 40  # failures that are kept
CANARY = "import pathlib; pathlib.Path({path!r}).write_text('it ran')\n"
Outcome = tuple[str, str]


class Class(NamedTuple):
    """A class of attacks."""

    about: str
    case: Callable[[random.Random, Path], Outcome]


def called(*arguments: object) -> tuple[int, str, str]:
    """Call the command line in this process; return exit code, standard output and standard error."""
    from hnmine import cli
    from hnmine.runs import stopping

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(each) for each in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    assert not stopping.is_asked()
    return code, out.getvalue(), err.getvalue()


def judged(code: int, out: str, err: str, *, may_be_killed: bool = False) -> Outcome:
    """Judge how a command ended."""
    if "Traceback" in err + out or FAULT in err:
        return TRACEBACK, err[-600:]
    if code not in (0, 1, 2, 3, 75, 130, 143) and not may_be_killed:
        return TRACEBACK, f"exit code {code}: {err[-400:]}"
    if code in (1, 2) and "error: " not in err and '"level": "error"' not in err and not out.strip():
        return WRONG, f"exit code {code} without a message: {err[-300:]}"
    return HELD, ""


def process(
    arguments: list[object], limits: dict[int, int] | None = None, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Call the command line in a process of its own, with limits of the system."""

    def set_limits() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for each, value in (limits or {}).items():
            resource.setrlimit(each, (value, value))

    given = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | how.pop("environment", {})
    command = [sys.executable, "-m", "hnmine.cli", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.run(
        command, text=True, errors="replace", timeout=SECONDS - 20, env=given, preexec_fn=set_limits, **streams
    )


# What the classes start from, made once a process


class Prepared:
    """A collection, models, and a run of them."""

    folder: Path | None = None

    @classmethod
    def parts(cls) -> tuple[Path, list[str], Path, dict[str, str]]:
        """Return the data, the options of a quick run, the folder of one that is done, and its results."""
        if cls.folder is None:
            cls.folder = folder = Path(tempfile.mkdtemp(prefix="attack-"))
            write_collection(folder / "data")
            tiny_cross_encoder(folder / "model")
            tiny_word_encoder(folder / "encoder")
            code, _, err = called("run", "--data", folder / "data", "--out", folder / "out", *cls.options())
            assert code == 0, err
        return cls.folder / "data", cls.options(), cls.folder / "out", results(cls.folder / "out")

    @classmethod
    def options(cls) -> list[str]:
        """Return the options of a quick run."""
        assert cls.folder is not None
        tiny = f"encoders=[{{name: tiny, model: {cls.folder / 'encoder'}}}, {{name: lexical, lexical: {{width: 8}}}}]"
        return quick_options(cls.folder / "model", tiny, "train.presets=anchored", "train.evaluations_per_epoch=3")


def results(out: Path) -> dict[str, str]:
    """Return what a run found: negatives, models, scores by sha256, and the figures of the manifest."""
    manifest = json.loads((out / "manifest.json").read_text())
    files = [*out.glob("*.parquet"), *out.glob("evaluation/*.parquet"), *out.glob("reranker/*.safetensors")]
    found = {path.relative_to(out).as_posix(): file_sha256(path) for path in sorted(files)}
    found["metrics"] = json.dumps(
        manifest["evaluation"].get("metrics") or manifest["evaluation"].get("rows"), sort_keys=True
    )
    return found | {"negatives": json.dumps(manifest["mining"]["counts"]["negatives"])}


# The classes


def readers(draw: random.Random, _folder: Path) -> Outcome:
    """Spoil a collection of any layout, and read it."""
    layout = draw.choice([*LAYOUTS, mutate_readers.OBJECTS])
    outcome, detail = mutate_readers.spoil_and_read(layout, draw.randrange(2**31))
    return (TRACEBACK, f"{layout}: {detail}") if outcome == "failed" else (HELD, "")


def some_value(draw: random.Random) -> str:
    """Return text that may stand where a setting is expected."""
    return draw.choice(
        [
            str(
                draw.choice(
                    [
                        5,
                        -1,
                        0,
                        10**30,
                        1e999,
                        True,
                        None,
                        "",
                        " ",
                        "x",
                        "nan",
                        ".inf",
                        "2024-13-45",
                        "0x",
                        "~",
                        "..",
                        "/",
                    ]
                )
            ),
            "[" * draw.choice([3, 100, 2000, 100_000]),
            "{a: " * draw.choice([3, 100, 20_000]),
            "x" * draw.choice([300, 5000, 100_000]),
            draw.choice(
                [
                    "a\x1b[2J",
                    "\ud800",
                    "日本",
                    "a\u202eb",
                    "&a [*a]",
                    "*a",
                    "!!python/object:os.system x",
                    "<<: 1",
                    "- - -",
                    "|",
                    ">-",
                ]
            ),
            f"[{{name: '{draw.choice(['..', 'a/b', '.', 'con', 'x' * 80, ''])}', lexical: {{}}}}]",
            str([draw.choice([1, "a", None, [], {}, 1.5]) for _ in range(draw.randrange(4))]),
            json.dumps({draw.choice(["name", "model", "rank", ""]): draw.choice([1, "a", None, []])}),
        ]
    )


def settings(draw: random.Random, folder: Path) -> Outcome:
    """Give settings that are no settings, as options and as a file."""
    from hnmine.config.root import Config

    sections = {
        name: list(getattr(field.annotation, "model_fields", {})) for name, field in Config.model_fields.items()
    }
    section = draw.choice(list(sections))
    keys = sections[section]
    key = (
        f"{section}.{draw.choice(keys)}"
        if keys and draw.random() < 0.8
        else draw.choice([section, "x.y", "train..x", "", "a" * 3000])
    )
    value = some_value(draw)
    if draw.random() < 0.4:
        file = folder / "settings.yaml"
        text = f"{section}: {value}" if draw.random() < 0.5 else f"{section}:\n  {draw.choice(keys or ['x'])}: {value}"
        file.write_bytes(
            draw.choice(
                [
                    text.encode(errors="surrogatepass"),
                    text.encode("utf-16", "surrogatepass"),
                    b"\0" + value.encode(errors="surrogatepass"),
                ]
            )
        )
        given = ["--config", file]
    else:
        given = ["--set", f"{key}={value}"]
    return judged(*called("mine", "--data", folder / "nothing", "--out", folder / "out", *given))


def paths(draw: random.Random, folder: Path) -> Outcome:
    """Give paths that are no paths, links, and files in the place of folders, wherever one is asked for."""
    (folder / "file").write_text("x")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere").symlink_to(folder / "gone")
    (folder / "circle").mkdir()
    (folder / "circle" / "again").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe")
    os.mkdir(os.fsencode(folder) + b"/\xff\xfe")
    path = draw.choice(
        [
            "a\0b",
            "x" * 300,
            "/".join(["d" * 200] * 30),
            os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"),
            "",
            " ",
            "~nobody/x",
            *(str(folder / name) for name in ("file", "loop", "nowhere", "circle", "file/below", "gone")),
            "/dev/null",
            "/proc/self/mem",
            "file://",
            "s3://",
            "s3:/x",
            "gs://a b",
            "nosuch://x",
            "http://127.0.0.1:1/x",
            "-",
            "..",
            "\n",
            "日本/\u202e",
        ]
    )
    data = write_collection(folder / "data")
    command = draw.choice(["inspect", "mine", "train", "evaluate", "rank", "history", "rollback", "paired", "audit"])
    options: dict[str, list[Any]] = {
        "inspect": ["--data", path],
        "history": ["--home", path],
        "rollback": ["--home", path],
        "paired": [path, path],
        "rank": [
            "--model",
            draw.choice([path, "no/such"]),
            "--data",
            draw.choice([data, path]),
            "--out",
            draw.choice([folder / "r", path]),
        ],
    }
    given = options.get(command) or ["--data", draw.choice([data, path]), "--out", draw.choice([folder / "out", path])]
    if command in ("mine", "train", "evaluate", "audit"):
        where = draw.choice(["train.model", "embed.store", "evaluate.first_stage", "reduce.basis", "nightly.work"])
        given += ["--set", f"{where}={json.dumps(path)}", "--set", "encoders=[{name: l, lexical: {width: 4}}]"]
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    return judged(*called(command, *given))


def reused(draw: random.Random, folder: Path) -> Outcome:
    """Damage one file of a finished run, and run it again: the same figures, or a message."""
    data, options, done, expected = Prepared.parts()
    out = folder / "out"
    shutil.copytree(done, out, symlinks=True)
    files = [
        path for path in sorted(out.rglob("*")) if path.is_file() and not path.is_symlink() and path.stat().st_size
    ]
    files = [path for path in files if path.name not in (".lock", "README.md") and path.suffix not in (".md", ".html")]
    path = draw.choice(files)
    content = bytearray(path.read_bytes())
    way = draw.choice(["flip", "flip", "cut", "empty", "gone", "other"])
    if way == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    content = {"cut": content[: draw.randrange(len(content))], "empty": bytearray(), "other": content + b"x"}.get(
        way, content
    )
    times = path.stat()
    path.unlink() if way == "gone" else path.write_bytes(content)
    if way != "gone" and draw.random() < 0.5:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # a change that the times do not show
    ended = called("run", "--data", data, "--out", out, *options)
    outcome = judged(*ended)
    if outcome[0] == HELD and ended[0] == 0 and (found := results(out)) != expected:
        differs = [name for name in expected if found.get(name) != expected[name]]
        return WRONG, f"{way} of {path.relative_to(out)}: other {differs[:3]}"
    return outcome if outcome[0] == HELD else (outcome[0], f"{way} of {path.relative_to(out)}: {outcome[1]}")


def kills(draw: random.Random, folder: Path) -> Outcome:
    """Kill a run at random, up to three times, and let the same command end it: the same bytes."""
    data, options, _, expected = Prepared.parts()
    out = folder / "out"
    command = [sys.executable, "-m", "hnmine.cli", "run", "--data", str(data), "--out", str(out), *options]
    for _ in range(draw.randrange(1, 4)):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(draw.uniform(1, 14))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
    code, stdout, err = called("run", "--data", data, "--out", out, *options)
    if code:
        return TRACEBACK, err[-500:]
    if (found := results(out)) != expected:
        return WRONG, f"other {[name for name in expected if found.get(name) != expected[name]][:3]}"
    left = [path.name for path in (out / "rerankers").iterdir() if path.name.startswith(".")]
    return (WRONG, f"left {left}") if left else judged(code, stdout, err)


def streams(draw: random.Random, folder: Path) -> Outcome:
    """Close standard streams, fill them, make them ASCII, and run a command."""
    data = write_collection(folder / "data")
    command: list[Any] = draw.choice(
        [
            ["inspect", "--data", data],
            ["presets"],
            ["config"],
            ["mine", "--data", data, "--out", folder / "out", "--set", "encoders=[{name: l, lexical: {width: 4}}]"],
            ["--help"],
            ["nonsense"],
        ]
    )
    text = " ".join([sys.executable, "-m", "hnmine.cli", *(f"'{each}'" for each in command)])
    redirections = " ".join(
        draw.sample(
            ["</dev/null", "<&-", ">/dev/full", ">&-", "2>/dev/full", "2>&-", "| head -c 1"], draw.randrange(1, 3)
        )
    )
    given = os.environ | draw.choice(
        [{}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"TERM": "dumb"}, {"COLUMNS": "1"}]
    )
    done = subprocess.run(
        ["bash", "-c", f"{text} {redirections}"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS - 20,
        env=given,
    )
    return judged(0, done.stdout, done.stderr)


def disk(draw: random.Random, folder: Path) -> Outcome:
    """Let no file grow beyond a random size: a message, and the next call ends as if nothing had been."""
    data, options, _, expected = Prepared.parts()
    arguments: list[object] = ["run", "--data", data, "--out", folder / "out", *options]
    done = process(arguments, {resource.RLIMIT_FSIZE: int(2 ** draw.uniform(8, 22))})
    outcome = judged(done.returncode, done.stdout, done.stderr)
    if outcome[0] != HELD:
        return outcome
    code, stdout, err = called(*arguments)
    if code == 0 and (found := results(folder / "out")) != expected:
        return WRONG, f"other {[name for name in expected if found.get(name) != expected[name]][:3]}"
    return judged(code, stdout, err) if code == 0 else (WRONG, f"does not go on: {err[-400:]}")


def memory(draw: random.Random, folder: Path) -> Outcome:
    """Give little address space: a message, or done; what no Python process survives does not count."""
    data, options, _, _ = Prepared.parts()
    least = 2**20 * 700  # below, numpy's and torch's libraries cannot be loaded at all
    size = int(least * 2 ** draw.uniform(0, 3))
    done = process(["run", "--data", data, "--out", folder / "out", *options], {resource.RLIMIT_AS: size})
    return judged(done.returncode, done.stdout, done.stderr, may_be_killed=True)


def secrets(draw: random.Random, folder: Path) -> Outcome:
    """Put a key into addresses and options; it stands nowhere afterwards."""
    secret = "".join(draw.choices("abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789+=._~-", k=24)) + "Zz9"
    scheme = draw.choice(["s3", "gs", "http", "hdfs", "abfs"])
    address = draw.choice(
        [
            f"{scheme}://name:{secret}@bucket/x",
            f"{scheme}://{secret}@bucket/x",
            f"{scheme}://bucket/x?secret_key={secret}",
            f"{scheme}://bucket/x?X-Amz-Signature={secret}&y=1",
            f"s3://bucket/x?endpoint_override=http%3A%2F%2Fn%3A{secret}%40127.0.0.1%3A1",
            f"{scheme}:/name:{secret}@bucket/x",
        ]
    )
    data = write_collection(folder / "data")
    where = draw.choice(["data", "home", "store", "mlflow", "model", "unknown", "config", "dtaa"])
    out = ["--out", folder / "out"]
    given: dict[str, list[object]] = {
        "data": ["mine", "--data", address, *out],
        "home": ["history", "--home", address],
        "store": ["mine", "--data", data, *out, "--set", f"embed.store={address}"],
        "mlflow": ["mine", "--data", data, *out, "--set", f"train.mlflow={address}"],
        "model": ["rank", "--data", data, "--out", folder / "r", "--model", address],
        "unknown": ["mine", "--data", data, *out, "--set", f"embed.token={secret}"],
        "config": ["mine", "--data", data, *out, "--config", address],
        "dtaa": ["mine", "--dtaa", address],
    }
    options = ["--log", "json"] if draw.random() < 0.3 else []
    os.chdir(folder)
    code, stdout, err = called(*given[where], *options)
    texts = [stdout, err, *(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())]
    if any(secret in text for text in texts):
        return WRONG, f"{where} {address.replace(secret, 'SECRET')}: {err.replace(secret, 'SECRET')[-300:]}"
    return judged(code, stdout, err)


def canaries(draw: random.Random, folder: Path) -> Outcome:
    """Put files of others where hnmine writes; they stay, whatever is called."""
    data, options, done, _ = Prepared.parts()
    out = folder / "out"
    if draw.random() < 0.5:
        shutil.copytree(done, out, symlinks=True)
    names = [
        "notes.txt",
        "evaluation/my.md",
        "evaluation/before-mine.parquet",
        "rerankers/mine/model.safetensors",
        "rerankers/paper/x",
        "ranker/mine.txt",
        "encoders/mine/x",
        "scored/mine",
        "store/mine.txt",
        "cache/mine.json",
        "tensorboard/mine",
        "negatives.parquet.bak",
        "evaluation/changes-mine.md",
        ".hidden",
        "versions/0001/x",
        "lock/x",
    ]
    placed = {}
    for name in draw.sample(names, draw.randrange(1, 5)):
        path = out / name
        if path.exists() or any(parent.is_file() for parent in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"of others: {name}")
        placed[path] = path.read_text()
    for command in draw.sample(["run", "mine", "train", "evaluate", "audit"], 2):
        more = ["--preset", draw.choice(["paper", "anchored", "positives"])] if command in ("run", "train") else []
        ended = called(command, "--data", data, "--out", out, *options, *more)
        outcome = judged(*ended)
        if outcome[0] != HELD:
            return outcome
    there = {
        path.read_text(errors="replace") for path in out.rglob("*") if path.is_file() and path.stat().st_size < 100
    }
    lost = [str(path.relative_to(out)) for path, text in placed.items() if text not in there]
    return (WRONG, f"lost {lost}") if lost else (HELD, "")


def doors(draw: random.Random, folder: Path) -> Outcome:
    """Name code in the settings of a model's folder; it is never run."""
    from hnmine.config.root import Config
    from hnmine.errors import HnmineError
    from hnmine.ranking.rank import find_model

    model = (tiny_word_encoder if draw.random() < 0.5 else tiny_cross_encoder)(folder / "model")
    (model / "canary.py").write_text(CANARY.format(path=str(folder / "sang")))
    os.chdir(model)
    sys.path.insert(0, str(model))
    try:
        for _ in range(draw.randrange(1, 4)):
            path = draw.choice(
                [p for p in sorted(model.rglob("*.json")) if p.name not in ("tokenizer.json", "vocab.json")]
            )
            tree = json.loads(path.read_text())
            node: Any = tree
            while isinstance(node, dict | list) and node and draw.random() < 0.6:
                inner = list(node.values()) if isinstance(node, dict) else node
                inner = [each for each in inner if isinstance(each, dict | list)]
                if not inner:
                    break
                node = draw.choice(inner)
            name = draw.choice(
                ["canary.Sings", "canary", "./canary.py", "canary--canary.Sings", "canary:Sings", "os.system"]
            )
            key = draw.choice(
                [
                    "auto_map",
                    "type",
                    "tokenizer_class",
                    "architectures",
                    "model_type",
                    "activation_function",
                    "custom_generate",
                    "processor_class",
                    "_attn_implementation",
                    "module_kwargs",
                    "hidden_act",
                    "auto_mapping",
                    "base_model_name_or_path",
                ]
            )
            value = draw.choice(
                [name, {"AutoModel": name, "AutoConfig": name}, [name], {"AutoTokenizer": [None, name]}]
            )
            if isinstance(node, dict):
                known = [each for each, old in node.items() if isinstance(old, str)]
                node[draw.choice([key, *known])] = value
            elif isinstance(node, list):
                node.append(value)
            path.write_text(json.dumps(tree))
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(HnmineError):
            find_model(str(model), Config(device="cpu", engine="torch"))
    except Exception:
        return TRACEBACK, traceback.format_exc()[-800:]
    finally:
        sys.path.remove(str(model))
        sys.modules.pop("canary", None)
    return (WRONG, "code of the folder ran") if (folder / "sang").exists() else (HELD, "")


CLASSES = {
    "readers": Class("collections in every layout, spoiled", readers),
    "settings": Class("settings of any type, depth and length, as options and files", settings),
    "paths": Class("NUL, over-long, not UTF-8, links, pipes, files for folders, addresses", paths),
    "reused": Class("one file of a finished run flipped, cut, emptied or removed, with its old times or new", reused),
    "kills": Class("a run killed up to three times, SIGKILL or SIGTERM, and called again: the same bytes", kills),
    "streams": Class("standard streams closed, full, cut off, ASCII", streams),
    "disk": Class("no room for a file of random size, then room again", disk),
    "memory": Class("little address space", memory),
    "secrets": Class("a key in addresses and options: it stands in no output and no file", secrets),
    "canaries": Class("files of others where hnmine writes: they stay", canaries),
    "doors": Class("code named in a model's settings: it never runs", doors),
}


def attempt(name: str, number: int) -> Outcome:
    """Try one case, in a folder of its own."""
    draw = random.Random(f"{name} {number}")
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        try:
            return CLASSES[name].case(draw, Path(folder))
        except subprocess.TimeoutExpired:
            return HUNG, f"more than {SECONDS - 20} s"
        except Exception:
            return TRACEBACK, traceback.format_exc()[-1200:]
        finally:
            os.chdir(before)


def page_table(table: dict[str, dict[str, int]]) -> str:
    """Return the counts of all classes as a table of Markdown."""
    rows = ["| class | what is tried | cases | tracebacks | wrong in silence | hung |", "|---|---|---|---|---|---|"]
    for name, row in table.items():
        counts = " | ".join(f"{row[each]:,}" for each in ("tried", *OUTCOMES[1:]))
        rows.append(f"| `{name}` | {CLASSES[name].about} | {counts} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Try cases of each class in turn until the time is over; return 1 if any did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="for all classes together")
    parser.add_argument("--only", choices=CLASSES, action="append", metavar="CLASS", help=", ".join(CLASSES))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"), metavar="FILE")
    page = Path(__file__).parents[1] / "docs" / "safety.md"
    parser.add_argument("--page", type=Path, default=page, metavar="FILE", help="the page that has the table")
    options = parser.parse_args(arguments)
    os.nice(10)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    names = options.only or list(CLASSES)

    # Go on where the last call ended.
    kept = json.loads(options.json.read_text()) if options.json.is_file() else {}
    table = {name: dict.fromkeys(("tried", *OUTCOMES), 0) | kept.get("classes", {}).get(name, {}) for name in CLASSES}
    failures = kept.get("failures", [])
    for name in names:
        end, pool, counts = time.monotonic() + 60 * options.minutes / len(names), ProcessPoolExecutor(1), Counter[str]()
        while time.monotonic() < end:
            number = table[name]["tried"]
            try:
                outcome, detail = pool.submit(attempt, name, number).result(SECONDS + 60 * (not counts))
            except (Late, BrokenProcessPool) as error:
                outcome, detail = (
                    (HUNG if isinstance(error, Late) else TRACEBACK),
                    f"the process: {type(error).__name__}",
                )
                for worker in list(getattr(pool, "_processes", {}).values()):
                    worker.kill()
                pool = ProcessPoolExecutor(1)
            table[name]["tried"] += 1
            table[name][outcome] += 1
            counts[outcome] += 1
            if outcome != HELD:
                failures.append({"class": name, "number": number, "outcome": outcome, "detail": detail})
                print(f"{name} {number} {outcome}: {detail}", flush=True)
        pool.shutdown(cancel_futures=True)
        listed = {each: {"about": CLASSES[each].about, **table[each]} for each in CLASSES}
        write_json(options.json, {"classes": listed, "failures": failures[-SHOWN:], "versions": versions()})
        print(name, dict(counts), flush=True)
    if options.page.is_file():
        before, _, rest = options.page.read_text(encoding="utf-8").partition(BEGIN)
        options.page.write_text(
            f"{before}{BEGIN}\n{page_table(table)}\n{END}{rest.partition(END)[2]}", encoding="utf-8"
        )
    return int(any(row[each] for row in table.values() for each in OUTCOMES[1:]))


if __name__ == "__main__":
    sys.exit(main())
