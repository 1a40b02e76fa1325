"""Random histories of nights against runs from scratch, and random kills: the same result, whatever happened.

    python benchmarks/histories.py --out FILE.json [--histories 200] [--kills 100] [--minutes 60] [--encoder FOLDER]

A *history* is some nights over a small random collection. Between them documents and judgements come, change and go;
some nights are killed by SIGKILL or SIGTERM at a random moment, once or twice, and done again; some are rolled back.
After each night its negatives are compared with those of a run from scratch, which has an empty store and is given the
basis and the lexical fits of the night alone. A night that was killed is compared with one over a copy of its home that
was not: negatives, decision, figures, and the ranker's weights. What was rolled back from must not be deployed again.

A *kill* ends `run`, `compare`, `rank` or `nightly` over a collection of several blocks at a random moment, once or
twice; then the command is given again to its end. The files must have the bytes that an undisturbed command leaves.

Encoders are a lexical one and a static one: on some processors the last bits of what a transformer makes of a text
depend on the texts beside it, and a run from scratch has others beside it than a night had.

Both under two kernels of OpenBLAS in turn. What is counted is written after each piece, and the same command goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow.parquet as pq
import sentence_transformers  # noqa: F401 (loaded once here, and not in each of the processes that are forked)
import sklearn.feature_extraction.text  # noqa: F401
import transformers  # noqa: F401

from hnmine import cli, load_config
from hnmine.models.reranker import load_reranker  # noqa: F401
from hnmine.nights.home import Home
from hnmine.pipeline import mine_step
from hnmine.project import open_project
from hnmine.ranker.ranker import Ranker
from hnmine.runs.files import file_sha256, write_json
from hnmine.runs.manifest import versions
from tests.builders.models import tiny_cross_encoder, tiny_static_encoder

KERNELS = ("Haswell", "SkylakeX")
COMMANDS = ("run", "nightly", "rank", "compare")
WORDS: tuple[str, ...] = (
    *("mysql", "postgres", "in", "the", "cloud", "on", "premises", "a", "b", "c", "deploy", "query", "passage"),
    *(f"{one}{two}" for one in ("red", "blue", "cold", "old", "new") for two in ("fox", "lamp", "road", "sea")),
)
LONGEST = 300  # seconds of one command
MAY_PASS = 75  # exit code; a machine that is too busy renews a lock too late


class Different(Exception):
    """A result is not as it must be."""


# A collection that changes


class Data:
    """A random collection, in memory and as BEIR files."""

    def __init__(self, folder: Path, rng: random.Random, documents: int = 60, queries: int = 24) -> None:
        self.folder, self.rng, self.made = folder, rng, 0
        self.documents = dict(self._document() for _ in range(documents))
        names = list(self.documents)
        self.queries = {f"q{at}": self._query(names[at]) for at in range(queries)}
        splits = ["train"] * (queries // 2) + ["dev"] * (queries // 4) + ["test"] * queries
        self.judged = {(splits[at], f"q{at}", names[at]) for at in range(queries)}
        self.write()

    def _text(self, longest: int) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(3, longest)))

    def _document(self) -> tuple[str, str]:
        self.made += 1
        return f"d{self.made}", f"{self._text(30)} {self.made}"

    def _query(self, document: str) -> str:
        words = self.documents[document].split()
        return f"{' '.join(self.rng.sample(words, k=min(4, len(words))))} {self._text(3)}"

    def change(self) -> None:
        """Let documents, queries and judgements come, change and go."""
        rng = self.rng
        for name in [name for name in self.documents if rng.random() < 0.04]:
            del self.documents[name]
        for name in rng.sample(sorted(self.documents), k=rng.randint(0, 4)):
            self.documents[name] = f"{self.documents[name]} {self._text(4)}"
        self.documents |= dict(self._document() for _ in range(rng.randint(0, 5)))
        if rng.random() < 0.3:  # a copy under another name
            self.documents[f"copy{self.made}"] = rng.choice(sorted(self.documents.values()))
        order = sorted(self.documents)
        rng.shuffle(order)
        self.documents = {name: self.documents[name] for name in order}
        self.judged = {each for each in self.judged if each[2] in self.documents}
        for split, query, _ in rng.sample(sorted(self.judged), k=2):
            self.judged.add((split, query, rng.choice(order)))
        gone = rng.choice(sorted(self.judged))
        if sum(each[0] == gone[0] for each in self.judged) > 3:
            self.judged.remove(gone)
        document = rng.choice(order)
        self.queries[f"q{len(self.queries)}"] = self._query(document)
        self.judged.add(("train", f"q{len(self.queries) - 1}", document))
        self.write()

    def write(self) -> None:
        """Write the files."""
        (self.folder / "qrels").mkdir(parents=True, exist_ok=True)
        for file, rows in (("corpus", self.documents), ("queries", self.queries)):
            lines = [json.dumps({"_id": name, "text": text}) + "\n" for name, text in rows.items()]
            (self.folder / f"{file}.jsonl").write_text("".join(lines))
        for split in ("train", "dev", "test"):
            judged = [f"{query}\t{document}\t1\n" for name, query, document in sorted(self.judged) if name == split]
            (self.folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))


# Processes


def forked(function: Callable[[], int | None], log: Path, kill: tuple[int, float] | None = None) -> tuple[int, float]:
    """Call a function in a process of its own, all modules loaded; return its exit code and the seconds it took.

    `kill`: a signal that is sent after some seconds.
    """
    began, child = time.monotonic(), os.fork()
    if child == 0:
        code = 1
        try:
            with log.open("ab") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            code = function() or 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    end, ended = began + LONGEST, False
    while not ended:
        if kill is not None and time.monotonic() - began >= kill[1]:
            os.kill(child, kill[0])
            kill = None
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, os.WNOHANG)
        ended = done != 0
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


class Commands:
    """Commands of hnmine in one folder, with a log."""

    def __init__(self, folder: Path, settings: list[str], rng: random.Random) -> None:
        self.folder, self.rng, self.log = folder, rng, folder / "log"
        self.options = [part for setting in settings for part in ("--set", setting)]
        self.killed, self._seconds = 0, 0.0

    def call(self, *arguments: object, may_fail: bool = False) -> int:
        """Call a command to its end; once more, where it says that what stopped it may pass by itself."""
        for _ in range(2):
            code, self._seconds = forked(lambda: cli.main([*map(str, arguments)]), self.log)
            if code != MAY_PASS:
                break
        if code and not may_fail:
            raise Different(f"{arguments[0]} ends with {code}: {self.log.read_text(errors='replace')[-600:]}")
        return code

    def call_disturbed(self, *arguments: object, seconds: float | None = None, home: Path | None = None) -> None:
        """Kill a command once or twice at random moments of `seconds`, then let it come to its end.

        A night over `home` that was killed after its last write is done.
        """
        seconds, before = seconds or self._seconds, version_of(home)
        for _ in range(self.rng.randint(1, 2)):
            kill = self.rng.choice([signal.SIGKILL, signal.SIGTERM]), self.rng.uniform(0.0, 0.8 * seconds)
            code, _ = forked(functools.partial(cli.main, [*map(str, arguments)]), self.log, kill)
            self.killed += code != 0
            if code not in (0, 143, -signal.SIGKILL, -signal.SIGTERM):  # the last: before it listens
                raise Different(f"killed, {arguments[0]} ends with {code}: {self.log.read_text()[-600:]}")
            if home is not None and code != 143:  # a minute later it would have expired
                shutil.rmtree(home / "lock", ignore_errors=True)
            if code == 0 or version_of(home) != before:
                return
        self.call(*arguments)


def version_of(home: Path | None) -> str:
    """Return the version that holds in a home."""
    pointer = home and home / "current.json"
    return str(json.loads(pointer.read_text())["version"]) if pointer and pointer.exists() else ""


# Histories


def history(seed: int, folder: Path, models: dict[str, str]) -> dict[str, int]:
    """Live through one history; return what happened in it."""
    # Choose the settings and make the collection.
    rng, counts = random.Random(f"history {seed}"), {"nights": 0, "killed": 0, "rollbacks": 0, "deployed": 0}
    data, home = Data(folder / "data", rng), folder / "home"
    settings = settings_of(rng, models)
    commands = Commands(folder, settings, rng)
    night = ("nightly", "--data", data.folder, "--home", home, *commands.options)
    for number in range(rng.randint(3, 5)):
        if number:
            data.change()
        # Do the night, with or without harm.
        if number and rng.random() < 0.4:
            shutil.copytree(home, folder / "undisturbed", symlinks=True)
            again = [folder / "undisturbed" if part is home else part for part in night]
            commands.call(*again)
            commands.call_disturbed(*night, home=home)
            code, _ = forked(lambda: compare_homes(home, folder / "undisturbed"), commands.log)
            if code:
                raise Different(f"a killed night is another: {commands.log.read_text()[-600:]}")
            shutil.rmtree(folder / "undisturbed")
        else:
            commands.call(*night)
        # Compare it with a run from scratch.
        scratch = folder / "scratch"
        code, _ = forked(functools.partial(from_scratch, data.folder, home, scratch, settings), commands.log)
        if code:
            raise Different(f"night {number + 1} is not as from scratch: {commands.log.read_text()[-600:]}")
        shutil.rmtree(scratch)
        counts["nights"] += 1
        if rng.random() < 0.3:
            counts["rollbacks"] += commands.call("rollback", "--home", home, may_fail=True) == 0
    rows = json.loads((home / "current.json").read_text())["history"]
    return counts | {"killed": commands.killed, "deployed": sum(row["decision"].startswith("deployed") for row in rows)}


def settings_of(rng: random.Random, models: dict[str, str]) -> list[str]:
    """Return settings that make a night of seconds, some of them drawn."""
    lexical, encoder = encoders_of(models)
    encoders = rng.choice([[lexical], [encoder], [lexical, encoder]])
    return [
        f"encoders=[{', '.join(encoders)}]",
        f"train.model={models['reranker']}",
        *("train.max_tokens=32", "train.dtype=float32", "engine=torch", "ray=false", "device=cpu"),
        *("train.max_pairs=4", "train.lessons=2", "evaluate.depth=5", "train.learning_rate=0.003"),
        f"select.negatives={rng.choice([1, 2, 3])}",
        f"guards.margin={rng.choice(['null', 'null', '0.3'])}",
        f"reduce.variance={rng.choice(['0.95', '0.95', 'null'])}",
        f"nightly.refit_share={rng.choice(['0.05', '0.3', '0.9'])}",
        f"nightly.refit_variance={rng.choice(['0.1', '0.8'])}",
        f"nightly.train_share={rng.choice(['0', '0.5', '1'])}",
        f"nightly.promote_margin={rng.choice(['0', '0', '0.5'])}",
        f"nightly.keep={rng.choice(['2', '7'])}",
    ]


def encoders_of(models: dict[str, str]) -> tuple[str, str]:
    """Return a lexical encoder and a model, as settings."""
    return "{name: words, lexical: {width: 8}}", f"{{name: tiny, model: {models['encoder']}, dtype: float32}}"


def from_scratch(data: Path, home: Path, out: Path, settings: list[str]) -> None:
    """Mine with an empty store, and the basis and fits of the version that holds; check the version beside."""
    # Give it the basis and the fits.
    opened = Home(home)
    version, newest = opened.current(), opened.history()[-1]
    folder, store = home / "versions" / newest.version, home / "work" / "store"
    facts = json.loads((folder / "version.json").read_text())["facts"]
    basis = folder / "basis.safetensors"
    empty = out.with_name("empty-store")
    shutil.rmtree(empty, ignore_errors=True)
    (empty / "lexical").mkdir(parents=True)
    for fit in facts["fits"].values():
        shutil.copy(store / "lexical" / fit["fit"], empty / "lexical")
    pinned = [f"embed.store={empty}", f"reduce.basis={basis if basis.exists() else 'null'}"]
    config = load_config(overrides=[*settings, *pinned])
    with open_project(data, out, config) as project:
        project.fits = {name: fit["fit"] for name, fit in facts["fits"].items()}
        mine_step(project)
    # Compare.
    rows, wanted = (pq.read_table(each / "negatives.parquet").to_pylist() for each in (folder, out))
    if rows != wanted or not rows:
        raise Different(f"{sum(a != b for a, b in zip(rows, wanted, strict=False))} of {len(rows)} rows differ")
    pointer = json.loads((home / "current.json").read_text())
    if version.identity in pointer["rejected"]:
        raise Different("what was rolled back from is deployed")
    margin = config.nightly.promote_margin
    if newest.decision.startswith("deployed: ") and (newest.mrr_trained or 0) < (newest.mrr or 0) - margin:
        raise Different(f"deployed, but worse: {newest}")
    Ranker.load(home, device="cpu").rank("the cloud", ["mysql in the cloud", "postgres"])


def compare_homes(home: Path, other: Path) -> None:
    """Compare the versions that hold in two homes, row, files and ranker."""
    found = []
    for each in (home, other):
        opened = Home(each)
        row, version = opened.history()[-1].model_dump(exclude={"when"}), opened.current()
        ranker, folder = each / version.deployed, each / "versions" / row["version"]
        parts = {str(path.relative_to(ranker)): file_sha256(path) for path in sorted(ranker.rglob("*.safetensors"))}
        rows = pq.read_table(folder / "negatives.parquet").to_pylist()
        found.append({"row": row, "identity": version.identity, "parts": parts, "negatives": rows})
    if different := [key for key in found[0] if found[0][key] != found[1][key]]:
        first, second = (str(each[different[0]])[:200] for each in found)
        raise Different(f"{', '.join(different)}: {first} / {second}")


# Kills


def kills(command: str, seed: int, folder: Path, models: dict[str, str]) -> dict[str, int]:
    """Disturb a command once or twice, and compare what it leaves with what an undisturbed one left."""
    rng = random.Random(f"{command} {seed}")
    reference = folder.parent / f"reference-{command}"
    made = reference / "made.json"
    if not made.exists():  # the same collection and settings for all seeds
        shutil.rmtree(reference, ignore_errors=True)
        data = Data(reference / "data", random.Random(command), documents=1300, queries=32)
        calls, commands = arguments_of(command, data.folder, reference / "out", models), Commands(reference, [], rng)
        began = time.monotonic()
        commands.call(*calls)
        write_json(made, {"seconds": time.monotonic() - began, "files": result(command, reference / "out")})
    known, out = json.loads(made.read_text()), folder / "out"
    calls, commands = arguments_of(command, reference / "data", out, models), Commands(folder, [], rng)
    commands.call_disturbed(*calls, seconds=known["seconds"], home=out if command == "nightly" else None)
    found = result(command, out)
    if found != known["files"]:
        names = {name for name in found.keys() | known["files"].keys() if found.get(name) != known["files"].get(name)}
        raise Different(f"other bytes: {', '.join(sorted(names)[:5])}")
    return {"killed": commands.killed}


def arguments_of(command: str, data: Path, out: Path, models: dict[str, str]) -> list[object]:
    """Return the command line."""
    encoders = f"encoders=[{', '.join(encoders_of(models))}]"
    settings = [encoders, f"train.model={models['reranker']}", "train.max_tokens=32", "train.dtype=float32"]
    settings += ["engine=torch", "ray=false", "device=cpu", "train.max_pairs=8", "train.lessons=4", "evaluate.depth=5"]
    arms = "random-of-bm25-s-first-50,two-conditions"
    settings += [f"compare.arms=[{arms}]", "compare.seeds=1", "compare.learning_rates=[0.001]"] * (command == "compare")
    options = [part for setting in settings for part in ("--set", setting)]
    where: list[object] = ["--home" if command == "nightly" else "--out", out]
    if command == "rank":
        options = ["--model", models["reranker"], "--dtype", "float32", "--max-tokens", "32", *options]
        where = ["--out", out / "run.trec"]
    return [command, "--data", data, *where, *options]


def result(command: str, out: Path) -> dict[str, str]:
    """Return the sha256 of what a command leaves and that has no times in it, by path."""
    if command == "rank":
        return {"run.trec": file_sha256(out / "run.trec")}
    endings = (".safetensors", "negatives.parquet", "triplets.parquet", "documents.parquet")
    folders = [out / "versions", out / "rankers"] if command == "nightly" else [out]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    left_out = ("store", "work", "cache", "scored")
    kept = [path for path in paths if path.relative_to(out).parts[0] not in left_out and not path.name.startswith(".")]
    found = {
        str(path.relative_to(out)): file_sha256(path)
        for path in kept
        if path.name.endswith(endings) or "evaluation" in path.parts
    }
    if command == "compare":
        found["compare.md"] = file_sha256(out / "compare.md")
    if command == "nightly":  # a ranker's folder is named by its figures too, which have times
        return {name.split("/")[0] + "/" + "/".join(name.split("/")[2:]): sha256 for name, sha256 in found.items()}
    return {name: sha256 for name, sha256 in found.items() if not name.endswith("rows.json")}


# All of it


def main() -> int:
    """Do as many pieces as there is time for; return 1 if a result was different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the counts go, as JSON")
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--encoder", help="folder of a static encoder; default: a random one")
    parser.add_argument("--kernel", choices=KERNELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kernel is None:
        return in_turn(options)
    with workplace(options) as (folder, models):
        end, counts = time.monotonic() + 60 * options.minutes, read_counts(options)
        while time.monotonic() < end and (piece := next_piece(counts, options, options.kernel)) is not None:
            work(piece, folder, models, counts, options)
    return int(any(each["different"] for each in counts.values() if "different" in each))


def in_turn(options: argparse.Namespace) -> int:
    """Let each kernel have its turn, in a process that begins with it."""
    end, codes = time.monotonic() + 60 * options.minutes, [0]
    turn = 0
    while (left := end - time.monotonic()) > 0 and any(next_piece(read_counts(options), options, k) for k in KERNELS):
        kernel = KERNELS[turn % len(KERNELS)]
        command = [sys.executable, __file__, *sys.argv[1:], "--kernel", kernel, "--minutes", str(min(left / 60, 8))]
        threads = {"OPENBLAS_CORETYPE": kernel, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        codes.append(subprocess.run(command, env=os.environ | threads, check=False).returncode)
        turn += 1
    return max(codes)


@contextmanager
def workplace(options: argparse.Namespace) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a folder, and the models in it."""
    with tempfile.TemporaryDirectory(prefix="hnmine-histories-") as name:
        folder = Path(name)
        os.environ["HOME"] = str(folder)
        models = {"reranker": str(tiny_cross_encoder(folder / "reranker", spread=1))}
        models["encoder"] = options.encoder or str(tiny_static_encoder(folder / "encoder"))
        yield folder, models


def read_counts(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was counted so far."""
    return json.loads(options.out.read_text()) if options.out.exists() else {}


def next_piece(counts: dict[str, Any], options: argparse.Namespace, kernel: str) -> tuple[str, str, int] | None:
    """Return kind, entry and number of what this kernel does next: what is furthest behind."""
    done = {kind: counts.get(f"{kind}, {kernel}", {}).get("done", 0) for kind in ("history", *COMMANDS)}
    left = {"history": options.histories // len(KERNELS) - done["history"]}
    left |= {command: options.kills // len(KERNELS) // len(COMMANDS) - done[command] for command in COMMANDS}
    open_kinds = [kind for kind in left if left[kind] > 0]
    if not open_kinds:
        return None
    wanted = {"history": options.histories} | dict.fromkeys(COMMANDS, options.kills / len(COMMANDS))
    kind = min(open_kinds, key=lambda kind: done[kind] / wanted[kind])
    return kind, f"{kind}, {kernel}", done[kind] * len(KERNELS) + KERNELS.index(kernel)


def work(
    piece: tuple[str, str, int],
    folder: Path,
    models: dict[str, str],
    counts: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """Do one piece, and count it."""
    (kind, entry, seed), began = piece, time.monotonic()
    place = folder / "piece"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    known = counts.setdefault(entry, {"done": 0, "different": [], "seconds": 0})
    try:
        found = history(seed, place, models) if kind == "history" else kills(kind, seed, place, models)
    except Different as error:
        found = {}
        known["different"].append({"seed": seed, "why": str(error)[-1000:]})
    for name, count in found.items():
        known[name] = known.get(name, 0) + count
    known["done"] += 1
    known["seconds"] = round(known["seconds"] + time.monotonic() - began)
    counts["versions"] = versions()
    write_json(options.out, counts)
    print(entry, seed, found or known["different"][-1]["why"], f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
