"""Nights through the command line: equal to a run from scratch, deployed if not worse, one at a time."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import hnmine
from hnmine import cli
from hnmine.errors import ConfigError
from hnmine.models.folder import folder_sha256
from hnmine.nights.home import Home, Row, Version
from hnmine.nights.lease import hold
from hnmine.nights.night import nightly, not_worse
from hnmine.pipeline import mine_step
from hnmine.project import Project, open_project
from hnmine.ranker.place import ranker_folder
from hnmine.ranking.measures import Paired
from hnmine.runs import object_store
from hnmine.runs.directory import Directory
from hnmine.runs.files import write_json
from tests.builders.collections import write_collection
from tests.builders.commands import run_hnmine
from tests.builders.models import tiny_cross_encoder
from tests.builders.object_store import Front, front_of
from tests.builders.vectors import write_vectors

UNTRAINED = "nightly.train_share=1"
WORDS = "encoders=[{name: words, lexical: {width: 8}}]"


@dataclass(frozen=True)
class Nights:
    """A collection, a home, and the settings of its nights."""

    data: Path
    home: Path | str
    settings: list[str]

    @property
    def options(self) -> list[str]:
        return [part for override in self.settings for part in ("--set", override)]

    @property
    def current(self) -> Version:
        return Home(self.home).current()

    def night(self, *more: str) -> Row:
        return nightly(self.data, self.home, hnmine.load_config(overrides=[*self.settings, *more]))

    def rows(self) -> list[dict]:
        """The negatives of the version that holds."""
        return pq.read_table(self.home / "versions" / self.current.number / "negatives.parquet").to_pylist()

    def project_from_scratch(self, out: Path, *more: str) -> Callable[[], Project]:
        """A run folder of its own, with the basis, the lexical fits and the store of the version that holds."""
        version = self.current
        basis = self.home / "versions" / version.number / "basis.safetensors"
        pinned = [f"reduce.basis={basis if basis.exists() else 'null'}", f"embed.store={self.home / 'work' / 'store'}"]
        config = hnmine.load_config(overrides=[*self.settings, *more, *pinned])
        return open_project(self.data, out, config)

    def rows_from_scratch(self, out: Path, *more: str) -> list[dict]:
        with self.project_from_scratch(out, *more) as project:
            project.fits = {name: pinned.fit for name, pinned in self.current.facts.fits.items()}
            mine_step(project)
        return pq.read_table(out / "negatives.parquet").to_pylist()

    def change_lines(self, name: str, change: Callable[[list[dict]], list[dict]]) -> None:
        """Change the rows of a file of JSON lines."""
        rows = change([json.loads(line) for line in (self.data / name).read_text().splitlines()])
        (self.data / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def change_documents(self, change: Callable[[list[dict]], list[dict]]) -> None:
        self.change_lines("corpus.jsonl", change)


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    encoder = tiny_cross_encoder(tmp_path / "encoder", head=False)
    start = tiny_cross_encoder(tmp_path / "start", spread=1)
    settings = [
        f"encoders=[{{name: tiny, model: {encoder}, dtype: float32}}]",
        "ray=false",
        "engine=torch",
        f"train.model={start}",
        "train.max_tokens=64",
        "train.dtype=float32",
        "train.learning_rate=0.003",
        "train.lessons=4",
        "nightly.refit_share=0.9",
        "nightly.refit_variance=0.1",
    ]
    return Nights(write_collection(tmp_path / "data"), tmp_path / "home", settings)


def newcomer(number: int) -> dict:
    return {"_id": f"new-{number}", "title": "News", "text": f"apple in winter costs {number} to keep, price of bread"}


def edited(rows: list[dict]) -> list[dict]:
    """One goes, one is edited, two come, and the file is in another order."""
    kept = [row for row in rows if row["_id"] != "jacket-price"]
    kept[3] = kept[3] | {"text": "what it costs in winter"}
    return [newcomer(1), *kept[::-1], newcomer(2)]


def change_at_random(nights: Nights, rng: random.Random) -> None:
    """Some documents come, change, go and change places; a query comes, and another gets a second positive."""

    def other_documents(rows: list[dict]) -> list[dict]:
        rows = [row for row in rows if rng.random() > 0.05]
        for row in rng.sample(rows, k=2):
            row["text"] = f"{rng.choice(rows)['text']} {rng.randrange(10)}"
        rows += [newcomer(rng.randrange(1000)), rng.choice(rows) | {"_id": f"copy-{rng.randrange(10**9)}"}]
        rng.shuffle(rows)
        return list({row["_id"]: row for row in rows}.values())

    nights.change_documents(other_documents)
    name = f"asked-{rng.randrange(10**9)}"
    nights.change_lines("queries.jsonl", lambda rows: [*rows, {"_id": name, "text": f"what costs {rng.randrange(9)}"}])
    documents = [json.loads(line)["_id"] for line in (nights.data / "corpus.jsonl").read_text().splitlines()]
    with (nights.data / "qrels" / "train.tsv").open("a") as judgements:
        for query in (name, "apple-care"):
            judgements.write(f"{query}\t{rng.choice(documents)}\t1\n")


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (0, []),
        (1, [WORDS, "select.negatives=2"]),
        (2, [WORDS, "guards.margin=0.3", "guards.near_duplicate=0.9"]),
        (3, [WORDS, "reduce.variance=null"]),
        (4, ["search.index=ivf", "search.ivf_probes=2", "select.negatives=3"]),
        (5, [WORDS, "guards.agreement=1", "nightly.refit_share=0.05"]),
    ],
    ids=["plain", "lexical", "guards", "no PCA", "ivf", "epochs"],
)
def test_every_night_of_a_history_equals_a_run_from_scratch(
    nights: Nights, tmp_path: Path, seed: int, settings: list[str]
) -> None:
    rng, more = random.Random(seed), [*settings, "train.lessons=1", "train.max_pairs=2", UNTRAINED]
    epochs = []
    for night in range(4):
        if night:
            change_at_random(nights, rng)
        row = nights.night(*more)
        epochs.append(row.epoch)
        rows = nights.rows()
        assert rows
        assert rows == nights.rows_from_scratch(tmp_path / f"scratch-{night}", *more)
    assert epochs == ([1, 2, 3, 4] if "nightly.refit_share=0.05" in settings else [1, 1, 1, 1])


def test_a_night_leaves_a_page_with_the_history_in_the_home_and_its_work_folder(nights: Nights) -> None:
    nights.night()
    page = (nights.home / "report.html").read_text(encoding="utf-8")
    assert page == (nights.home / "work" / "report.html").read_text(encoding="utf-8")
    assert '<section id="nights">' in page
    assert Home(nights.home).history()[0].decision in page
    assert hnmine.report(nights.home / "work").read_text(encoding="utf-8") == page


def test_a_night_decides_by_what_changed(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    first = nights.night()
    assert "epoch 1 begins: the first night" in capsys.readouterr().err
    assert first.decision.endswith(", the first")
    assert (first.epoch, first.searched) == (1, first.pairs)
    version = nights.current
    assert version.number == "0001"
    ranked = [
        hnmine.Ranker.load(nights.home / name).rank("what costs a jacket", ["jacket", "apple"])
        for name in ("", "current", version.deployed)
    ]
    assert ranked[0] == ranked[1] == ranked[2]
    assert (nights.home / "current").resolve() == nights.home / version.deployed

    nights.change_documents(edited)
    second = nights.night(UNTRAINED)
    assert "the last basis captures" in capsys.readouterr().err
    assert (second.added, second.changed, second.removed, second.epoch) == (2, 1, 1, 1)
    assert second.negatives_changed > 0
    assert second.searched == second.pairs
    assert second.decision.startswith("not trained")
    assert second.mrr is not None

    quiet = nights.night(UNTRAINED)
    assert (quiet.added, quiet.changed, quiet.removed, quiet.negatives_changed) == (0, 0, 0, 0)
    assert quiet.searched == quiet.pairs

    nights.change_documents(lambda rows: [*rows, newcomer(3), newcomer(4)])
    last = nights.night("nightly.refit_variance=1", "train.epochs=2")
    assert "epoch 2 begins: less than 100.0%" in capsys.readouterr().err
    assert last.epoch == 2
    assert last.mrr is not None
    assert last.mrr_trained is not None
    better = last.mrr_trained >= last.mrr
    assert last.decision.startswith("deployed: ") <= better
    assert (nights.current.ranker != version.ranker) == last.decision.startswith("deployed: ")
    assert [row.version for row in Home(nights.home).history()] == ["0001", "0002", "0003", "0004"]


@pytest.mark.slow
def test_a_night_ended_by_sigterm_leaves_nothing_and_is_done_again_with_the_same_result(nights: Nights) -> None:
    command = [sys.executable, "-m", "hnmine.cli", "nightly", "--data", nights.data, "--home", nights.home]
    with subprocess.Popen([*map(str, command), *nights.options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "pairs have other negatives" in line:
                process.send_signal(signal.SIGTERM)
                break
        process.wait(60)
    assert process.returncode == 143
    assert Home(nights.home).history() == []
    assert (Directory.at(nights.home) / "lock").files() == []
    nights.night()
    assert [row.version for row in Home(nights.home).history()] == ["0001"]
    assert nights.rows() == nights.rows_from_scratch(nights.home.parent / "scratch")


def test_a_home_in_an_object_store(nights: Nights, tmp_path: Path, s3) -> None:
    home, work = s3(f"bucket/{tmp_path.name}/home"), f"nightly.work={tmp_path / 'work'}"
    nights = Nights(nights.data, home, [*nights.settings, work])
    assert nights.night().decision.endswith(", the first")
    nights.change_documents(edited)
    second = nights.night(UNTRAINED)
    assert (second.added, second.changed, second.removed) == (2, 1, 1)
    assert second.searched == second.pairs
    assert second.mrr is not None
    assert [row.version for row in Home(home).history()] == ["0001", "0002"]
    assert (Directory.at(home) / "lock").files() == []


def test_all_that_a_night_needs_is_in_a_home_in_an_object_store(
    nights: Nights, tmp_path: Path, s3, capsys: pytest.CaptureFixture[str]
) -> None:
    home, encoders = s3(f"bucket/{tmp_path.name}/home"), f"{nights.settings[0][:-1]}, {WORDS.partition('[')[2]}"
    nights = Nights(nights.data, home, [encoders, *nights.settings[1:]])
    first = nights.night(f"nightly.work={tmp_path / 'work'}")
    rankers = [hnmine.Ranker.load(address) for address in (home, home.replace("/home?", "/home/current?"))]
    assert rankers[0].spec == rankers[1].spec
    shutil.rmtree(tmp_path / "work")
    for number, settings in enumerate(([], [UNTRAINED])):
        if number:
            nights.change_documents(edited)
        capsys.readouterr()
        later = nights.night(f"nightly.work={tmp_path / f'fresh-{number}'}", *settings)
        said = capsys.readouterr().err
        assert (later.epoch, later.negatives_changed > 0) == (1, bool(number))
        assert "epoch" not in said
        encoded = "3" if number else "0"  # two came and one was edited
        for name in ("tiny", "words"):
            assert re.search(rf"{name}: \d+ vectors from the store, {encoded} encoded", said), said
    assert later.mrr is not None
    assert first.mrr_trained is not None


def test_a_lexical_encoder_keeps_its_fit_to_the_end_of_the_epoch(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    def fits() -> list[str]:
        return sorted(path.name for path in (nights.home / "work" / "store" / "lexical").glob("*.safetensors"))

    assert nights.night(UNTRAINED, WORDS).epoch == 1
    first = fits()
    assert len(first) == 1
    nights.change_documents(edited)
    second = nights.night(UNTRAINED, WORDS)
    assert (second.epoch, second.changed) == (1, 1)
    assert fits() == first

    capsys.readouterr()
    nights.change_documents(lambda rows: [*rows, newcomer(3)])
    third = nights.night(UNTRAINED, WORDS, "nightly.refit_share=0.01")
    assert third.epoch == 2
    assert len(fits()) == 2
    said = capsys.readouterr().err
    assert said.count("epoch 2 begins") == 1
    assert "documents came since the basis was fitted" in said
    assert nights.night(UNTRAINED, WORDS).epoch == 2
    assert nights.night(UNTRAINED, "encoders=[{name: words, lexical: {width: 7}}]").epoch == 3


def test_without_pca_an_epoch_ends_too_where_an_encoder_is_fitted(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = UNTRAINED, "reduce.variance=null", "nightly.refit_share=0.01"
    assert nights.night(*settings, WORDS).epoch == 1
    nights.change_documents(edited)
    assert nights.night(*settings, WORDS).epoch == 2
    assert "documents came since the basis was fitted" in capsys.readouterr().err
    assert nights.night(*settings).epoch == 3, "other encoders"
    nights.change_documents(lambda rows: [*rows, newcomer(3), newcomer(4)])
    assert nights.night(*settings).epoch == 3, "nothing is fitted"


def test_precomputed_vectors_of_known_texts_may_change_and_end_the_epoch(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)

    def write(columns: list[int]) -> None:
        for name, file in (("documents", "corpus.jsonl"), ("queries", "queries.jsonl")):
            ids = [json.loads(line)["_id"] for line in (nights.data / file).read_text().splitlines()]
            vectors = np.zeros((len(ids), 8), dtype=np.float32)
            vectors[:, columns] = rng.normal(size=(len(ids), len(columns)))
            write_vectors(tmp_path / f"{name}.parquet", dict(zip(ids, vectors.tolist(), strict=True)))

    given = UNTRAINED, f"encoders=[{{name: given, precomputed: {tmp_path}}}]", "train.lessons=1", "train.max_pairs=2"
    write([0, 1, 2, 3])
    assert nights.night(*given).epoch == 1
    assert nights.night(*given).epoch == 1
    assert "captures 100.0% of the variance of 30 documents" in capsys.readouterr().err
    write([4, 5, 6, 7])
    assert nights.night(*given).epoch == 2
    assert "epoch 2 begins: less than 10.0%" in capsys.readouterr().err


def test_a_dense_first_stage_looks_in_the_space_of_the_night(nights: Nights, tmp_path: Path) -> None:
    more = WORDS, "evaluate.first_stage=dense", UNTRAINED
    nights.night(*more)
    nights.change_documents(edited)
    second = nights.night(*more)
    assert (second.epoch, second.changed) == (1, 1)
    with nights.project_from_scratch(tmp_path / "out", *more) as project:
        project.fits = {name: pinned.fit for name, pinned in nights.current.facts.fits.items()}
        task = project.splits.task(project.splits.test, None, 0)
    scores = pq.read_table(nights.home / "work" / "evaluation" / "deployed.parquet")
    assert scores["query_id"].to_pylist() == list(task.queries.ids)
    ids = [[task.document_ids[row] for row in rows] for rows in task.doc_rows_QK.tolist()]
    assert scores["document_ids"].to_pylist() == ids


def test_the_next_night_on_a_home_of_an_earlier_release_continues_its_epoch(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its versions hold what served the incremental selection, and its facts the settings of that release."""
    nights.night(WORDS)
    version = nights.home / "versions" / "0001"
    (version / "night.safetensors").write_bytes(b"")
    content = json.loads((version / "version.json").read_text())
    content["files"].append("night.safetensors")
    facts = content["facts"]
    facts["reduce"] |= {"device": "auto"}
    facts["fits"]["words"]["settings"] |= {"max_terms": 50_000, "fit": None}
    facts["train"] = {"model": "all-MiniLM-L6-v2", "seed": 0, "patience": 3, "warm_up": {"layers": 0}}
    shutil.rmtree(nights.home / "rankers")
    reranker = tiny_cross_encoder(nights.home / "rerankers" / "of-old", spread=1)
    write_json(reranker / "files.json", folder_sha256(reranker) | {"hnmine.json": "0" * 64})
    facts["reads"] = {"kind": "cross-encoder", "max_tokens": 64}
    content |= {"ranker": "", "identity": "", "reranker": "of-old"}
    write_json(version / "version.json", content)
    pointer = json.loads((nights.home / "current.json").read_text())
    write_json(nights.home / "current.json", {key: value for key, value in pointer.items() if key != "ranker"})

    capsys.readouterr()
    nights.change_documents(edited)
    second = nights.night(WORDS)
    said = capsys.readouterr().err
    assert "epoch" not in said
    assert (second.epoch, second.added, second.changed, second.removed) == (1, 2, 1, 1)
    assert second.mrr is not None
    assert second.mrr_trained is not None, "other settings of training"
    assert "night.safetensors" not in nights.current.files
    is_deployed = second.decision.startswith("deployed: ")
    assert (nights.current.ranker != "", nights.current.reranker == "of-old") == (is_deployed, not is_deployed)
    third = nights.night(WORDS)
    assert third.mrr == pytest.approx(second.mrr_trained if is_deployed else second.mrr)


def test_a_reranker_that_was_rolled_back_from_is_not_deployed_again(nights: Nights, tmp_path: Path) -> None:
    first = nights.night("ranker.choose=re-ranker")
    model = f"train.model={tiny_cross_encoder(tmp_path / 'other', seed=1, spread=1)}"
    other = model, "nightly.promote_margin=1", "ranker.choose=re-ranker"
    assert nights.night(*other).decision.startswith("deployed: re-ranker, ")
    deployed = nights.current.ranker
    Home(nights.home).rollback()
    assert nights.current.number == first.version
    again = nights.night(*other)
    assert again.decision.startswith("not deployed: re-ranker, it was rolled back from, ")
    assert nights.current.ranker != deployed


def test_a_night_that_chooses_what_is_deployed_changes_nothing_and_offers_no_rollback(nights: Nights) -> None:
    first = "ranker.choose=first-stage", "train.max_pairs=2"
    nights.night(*first)
    deployed = nights.current.ranker
    options = [part for each in (*nights.settings, *first, "train.lessons=3") for part in ("--set", each)]
    done = run_hnmine("nightly", "--data", nights.data, "--home", nights.home, *options)
    assert done.returncode == 0, done.stderr
    row = Home(nights.home).history()[-1]
    assert row.decision == "unchanged: first-stage, dev chooses what is deployed"
    assert row.mrr_trained == row.mrr
    assert nights.current.ranker == deployed
    assert (Directory.at(nights.home) / "rankers").folders() == [deployed]
    assert "rollback" not in done.stdout
    done = run_hnmine("rollback", "--home", nights.home)
    assert (done.returncode, "keeps no version before 0002 with another ranker" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_reranker_that_was_rolled_back_from_does_not_come_back_after_a_night_that_was_killed(
    nights: Nights, tmp_path: Path
) -> None:
    reranker = "ranker.choose=re-ranker", "nightly.promote_margin=1"
    nights.night(*reranker)
    other = f"train.model={tiny_cross_encoder(tmp_path / 'other', seed=1, spread=1)}", "train.epochs=4", *reranker
    assert nights.night(*other).decision.startswith("deployed: re-ranker, ")
    assert Home(nights.home).rollback().version == "0001"

    fresh = *other, f"nightly.work={tmp_path / 'fresh'}"  # which has no training to reuse
    command = [sys.executable, "-m", "hnmine.cli", "nightly", "--data", nights.data, "--home", nights.home]
    options = [part for override in (*nights.settings, *fresh) for part in ("--set", override)]
    with subprocess.Popen([*map(str, command), *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 2:" in line:
                process.kill()
                break
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    shutil.rmtree(nights.home / "lock")  # a minute later it would have expired
    again = nights.night(*fresh)
    assert again.decision.startswith("not deployed: re-ranker, it was rolled back from, ")
    with ranker_folder(nights.home) as deployed:
        assert deployed == nights.home / nights.current.deployed


def test_a_ranker_that_this_release_cannot_load_is_replaced_and_the_night_goes_on(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nights.night("ranker.choose=first-stage")
    monkeypatch.setattr("hnmine.ranker.bm25.words_version", lambda: "another")
    capsys.readouterr()
    second = nights.night("ranker.choose=first-stage", UNTRAINED)
    assert "what is deployed cannot rank here any more" in capsys.readouterr().err
    assert second.decision == "deployed: first-stage, the one before cannot be loaded"
    assert nights.night(UNTRAINED, "ranker.choose=first-stage").decision.startswith("not trained: ")


def test_a_second_start_says_so_and_has_its_own_exit_code(nights: Nights) -> None:
    with hold(Directory.at(nights.home), 60):
        started = time.monotonic()
        second = run_hnmine("nightly", "--data", nights.data, "--home", nights.home, *nights.options)
        assert second.returncode == 3
        assert "error: another job holds" in second.stderr
        assert "Traceback" not in second.stderr
        assert time.monotonic() - started < 60
        rolled_back = run_hnmine("rollback", "--home", nights.home)
        assert rolled_back.returncode == 2
        assert "has no version yet" in rolled_back.stderr
    assert Home(nights.home).history() == []


def test_an_object_store_needs_a_folder_to_work_in(nights: Nights, s3) -> None:
    done = run_hnmine("nightly", "--data", nights.data, "--home", s3("bucket/home"), *nights.options)
    assert done.returncode == 2
    assert "nightly.work=DIR" in done.stderr


@pytest.fixture
def front(s3) -> Iterator[Front]:
    with front_of(int(s3("bucket").partition("127.0.0.1:")[2].partition("&")[0])) as started:
        yield started


@pytest.mark.slow
def test_a_night_over_an_object_store_that_fails_all_the_time_is_as_one_over_a_folder(
    nights: Nights, tmp_path: Path, front: Front, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(object_store, "LONGEST_PAUSE_SECONDS", 0.5)
    over = threading.Event()

    def fail() -> None:
        for mode in itertools.cycle(["away", "pass", "unavailable", "pass", "reset", "pass"]):
            front.become(mode)
            if over.wait(1.0 if mode == "pass" else 5.0):
                return

    remote = Nights(nights.data, front.address(f"bucket/{tmp_path.name}/home"), nights.settings)
    thread = threading.Thread(target=fail)
    thread.start()
    try:
        row = remote.night(f"nightly.work={tmp_path / 'work'}")
    finally:
        over.set()
        thread.join()
        front.become("pass")
    assert "does not answer" in capsys.readouterr().err
    wanted = nights.night()
    assert row.model_dump(exclude={"when"}) == wanted.model_dump(exclude={"when"})
    raw = (Home(remote.home).directory / "versions" / "0001").read("negatives.parquet")
    assert pq.read_table(raw).to_pylist() == nights.rows()


def test_what_may_pass_by_itself_has_an_exit_code_and_a_mistake_another(
    nights: Nights, tmp_path: Path, front: Front, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote, options = front.address(f"bucket/{tmp_path.name}/home"), [*nights.options, "--set", UNTRAINED]
    options += ["--set", f"nightly.work={tmp_path / 'work'}"]

    def end(home: Path | str) -> tuple[int, str]:
        code = cli.main(["nightly", "--data", str(nights.data), "--home", str(home), *options])
        return code, capsys.readouterr().err

    # The store is away.
    monkeypatch.setattr(object_store, "PATIENCE_SECONDS", 1.0)
    front.become("away")
    code, said = end(remote)
    assert (code, "error: home s3://bucket/" in said, "has not answered for" in said) == (75, True, True)
    front.become("pass")

    # The lock is lost: the version is written, and the pointer does not move.
    write = Home.write

    def lose_the_lock(home: Home, *arguments) -> None:
        write(home, *arguments)
        for name in (home.directory / "lock").files():
            (home.directory / "lock").remove(name)

    with monkeypatch.context() as patch:
        patch.setattr(Home, "write", lose_the_lock)
        code, said = end(nights.home)
    assert (code, "has taken" in said, Home(nights.home).history()) == (75, True, [])

    # Nothing says who asks.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, said = end(remote.replace("bucket/", "bucket/other/"))
    assert (code, "this machine has no credentials" in said) == (2, True)


@pytest.mark.parametrize(
    ("difference", "high", "margin", "deployed"),
    [
        (0.0, 0.0, 0.0, True),
        (0.01, 0.02, 0.0, True),
        (-0.01, 0.01, 0.0, False),
        (-0.01, 0.01, 0.02, True),
        (-0.01, -0.001, 0.02, False),  # lower for sure
        (-0.03, 0.01, 0.02, False),
    ],
)
def test_what_is_not_worse(difference: float, high: float, margin: float, deployed: bool) -> None:
    test = Paired(difference=difference, low=-1, high=high, p=0.5, differing=40)
    assert not_worse(test, margin) == deployed


def test_an_adapter_is_refused_before_anything_is_encoded(nights: Nights) -> None:
    with pytest.raises(ConfigError, match=r"a night deploys whole models, .*: set train\.lora\.keep=merged"):
        nights.night("train.lora={keep: adapter}")
