"""Nights through the command line: equal to a run from scratch, deployed if not worse, one at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import CrossEncoder

import hnmine
from hnmine.nights.home import Home, Row
from hnmine.nights.incremental import Night
from hnmine.nights.lease import hold
from hnmine.nights.night import _load, _save, nightly, not_worse, rollback
from hnmine.pipeline import read_collection, splits_of
from hnmine.ranking.significance import Paired
from hnmine.runs.directory import Directory
from hnmine.runs.folder import open_run
from tests.builders.collections import write_collection
from tests.builders.commands import run_hnmine
from tests.builders.models import tiny_cross_encoder


@dataclass(frozen=True)
class Nights:
    """A collection, a home, and the settings of its nights."""

    data: Path
    home: Path | str
    settings: list[str]

    @property
    def options(self) -> list[str]:
        return [part for override in self.settings for part in ("--set", override)]

    def night(self, *more: str) -> Row:
        return nightly(self.data, self.home, hnmine.load_config(overrides=[*self.settings, *more]))

    def rows(self) -> list[dict]:
        """The negatives of the version that holds."""
        number, _ = Home.at(self.home).current()
        return pq.read_table(self.home / "versions" / number / "negatives.parquet").to_pylist()

    def rows_from_scratch(self, out: Path) -> list[dict]:
        number, _ = Home.at(self.home).current()
        basis = f"reduce.basis={self.home / 'versions' / number / 'basis.safetensors'}"
        more = [basis, f"embed.store={self.home / 'work' / 'store'}"]
        hnmine.mine(self.data, out, hnmine.load_config(overrides=[*self.settings, *more]))
        return pq.read_table(out / "negatives.parquet").to_pylist()

    def change_documents(self, change) -> None:
        file = self.data / "corpus.jsonl"
        rows = change([json.loads(line) for line in file.read_text().splitlines()])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    encoder = tiny_cross_encoder(tmp_path / "encoder", head=False)
    start = tiny_cross_encoder(tmp_path / "start", spread=1)
    settings = [
        f"encoders=[{{name: tiny, model: {encoder}, dtype: float32}}]",
        "embed.ray=false",
        f"train.model={start}",
        "train.max_tokens=64",
        "train.dtype=float32",
        "train.engine=torch",
        "train.learning_rate=0.003",
        "train.distill.lessons=16",
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


def test_every_night_equals_a_run_from_scratch_and_decides_by_what_changed(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = nights.night()
    assert "epoch 1 begins: the first night" in capsys.readouterr().err
    assert (first.decision, first.epoch, first.searched) == ("deployed, the first", 1, first.pairs)
    number, version = Home.at(nights.home).current()
    assert number == "0001"
    CrossEncoder(str(nights.home / "rerankers" / version.reranker)).predict([("a", "b")])

    nights.change_documents(edited)
    second = nights.night("nightly.train_share=1")
    assert "the last basis captures" in capsys.readouterr().err
    assert nights.rows() == nights.rows_from_scratch(tmp_path / "scratch")
    assert (second.added, second.changed, second.removed, second.epoch) == (2, 1, 1, 1)
    assert second.negatives_changed > 0
    assert second.searched < second.pairs
    assert second.decision.startswith("not trained")
    assert second.mrr is not None

    quiet = nights.night("nightly.train_share=1")
    assert (quiet.added, quiet.changed, quiet.removed, quiet.searched, quiet.negatives_changed) == (0, 0, 0, 0, 0)

    nights.change_documents(lambda rows: [*rows, newcomer(3), newcomer(4)])
    last = nights.night("nightly.refit_variance=1", "train.seed=1")
    assert "epoch 2 begins: less than 100.0%" in capsys.readouterr().err
    assert nights.rows() == nights.rows_from_scratch(tmp_path / "scratch")
    assert (last.epoch, last.searched) == (2, last.pairs)
    assert last.mrr is not None
    assert last.mrr_trained is not None
    better = last.mrr_trained >= last.mrr
    assert last.decision.startswith("deployed: MRR@10" if better else "not deployed: MRR@10")
    assert (Home.at(nights.home).current()[1].reranker != version.reranker) <= better
    assert [row.version for row in Home.at(nights.home).history()] == ["0001", "0002", "0003", "0004"]


@pytest.mark.slow
def test_a_night_ended_by_sigterm_is_gone_on_with_and_nothing_was_seen_of_it(nights: Nights) -> None:
    command = [sys.executable, "-m", "hnmine.cli", "nightly", "--data", nights.data, "--home", nights.home]
    with subprocess.Popen([*map(str, command), *nights.options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "pairs have other negatives" in line:
                process.send_signal(signal.SIGTERM)
                break
        process.wait(60)
    assert process.returncode == 143
    assert Home.at(nights.home).current() is None
    assert (Directory.at(nights.home) / "lock").files() == []
    nights.night()
    assert [row.version for row in Home.at(nights.home).history()] == ["0001"]


def test_a_home_in_an_object_store(nights: Nights, tmp_path: Path, s3) -> None:
    home, work = s3(f"bucket/{tmp_path.name}/home"), f"nightly.work={tmp_path / 'work'}"
    nights = Nights(nights.data, home, [*nights.settings, work])
    assert nights.night().decision == "deployed, the first"
    nights.change_documents(edited)
    second = nights.night("nightly.train_share=1")
    assert (second.added, second.changed, second.removed) == (2, 1, 1)
    assert second.searched < second.pairs
    assert second.mrr is not None
    assert [row.version for row in Home.at(home).history()] == ["0001", "0002"]
    assert (Directory.at(home) / "lock").files() == []


def test_a_lexical_encoder_keeps_its_fit_to_the_end_of_the_epoch(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_words(more: str = "") -> Nights:
        words = f"encoders=[{{name: words, lexical: {{width: 8{more}}}}}]"
        return Nights(nights.data, nights.home, [*nights.settings, words])

    untrained = "nightly.train_share=1"
    assert with_words().night(untrained).epoch == 1
    nights.change_documents(edited)
    second = with_words().night(untrained)
    assert (second.epoch, second.changed) == (1, 1)
    assert second.searched < second.pairs
    (fit,) = [path.name for path in (nights.home / "work" / "store" / "lexical").glob("*.safetensors")]
    assert nights.rows() == with_words(f", fit: {fit}").rows_from_scratch(tmp_path / "pinned")

    capsys.readouterr()
    nights.change_documents(lambda rows: [*rows, newcomer(3)])
    third = with_words().night(untrained, "nightly.refit_share=0.01")
    assert (third.epoch, third.searched) == (2, third.pairs)
    assert nights.rows() == with_words().rows_from_scratch(tmp_path / "anew")
    said = capsys.readouterr().err
    assert said.count("epoch 2 begins") == 1
    assert "documents came since the basis was fitted" in said
    assert with_words().night(untrained).epoch == 2


def test_without_pca_an_epoch_ends_too_where_an_encoder_is_fitted(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = "nightly.train_share=1", "reduce.variance=null", "nightly.refit_share=0.01"
    words = "encoders=[{name: words, lexical: {width: 8}}]"
    assert nights.night(*untrained, words).epoch == 1
    nights.change_documents(edited)
    assert nights.night(*untrained, words).epoch == 2
    assert "documents came since the basis was fitted" in capsys.readouterr().err
    assert nights.night(*untrained).epoch == 3, "other encoders"
    nights.change_documents(lambda rows: [*rows, newcomer(3), newcomer(4)])
    assert nights.night(*untrained).epoch == 3, "nothing is fitted"


def test_a_dense_first_stage_looks_in_the_space_of_the_night(nights: Nights, tmp_path: Path) -> None:
    more = "encoders=[{name: words, lexical: {width: 8}}]", "evaluate.first_stage=dense", "nightly.train_share=1"
    nights.night(*more)
    nights.change_documents(edited)
    second = nights.night(*more)
    assert (second.epoch, second.changed) == (1, 1)
    (fit,) = (nights.home / "work" / "store" / "lexical").glob("*.safetensors")
    pinned = f"encoders=[{{name: words, lexical: {{width: 8, fit: {fit.name}}}}}]"
    basis = f"reduce.basis={nights.home / 'versions' / second.version / 'basis.safetensors'}"
    store = f"embed.store={nights.home / 'work' / 'store'}"
    config = hnmine.load_config(overrides=[*nights.settings, *more, pinned, basis, store])
    with open_run(tmp_path / "out", config) as run:
        splits = splits_of(read_collection(nights.data, config, run), config, run)
        task = splits.task(splits.test, None, 0)
    scored = pq.read_table(nights.home / "work" / "evaluation" / "deployed.parquet")
    assert scored["query_id"].to_pylist() == list(task.queries.ids)
    assert scored["document_rows"].to_pylist() == task.doc_rows_QK.tolist()


def test_a_reranker_that_was_rolled_back_from_is_not_deployed_again(nights: Nights, tmp_path: Path) -> None:
    first = nights.night()
    other = f"train.model={tiny_cross_encoder(tmp_path / 'other', seed=1, spread=1)}", "nightly.promote_margin=1"
    assert nights.night(*other).decision.startswith("deployed: ")
    deployed = Home.at(nights.home).current()[1].reranker
    rollback(nights.home)
    assert Home.at(nights.home).current()[0] == first.version
    again = nights.night(*other)
    assert again.decision.startswith("not deployed: it was rolled back from, ")
    assert Home.at(nights.home).current()[1].reranker != deployed


def test_a_second_start_says_so_and_has_its_own_exit_code(nights: Nights) -> None:
    with hold(Directory.at(nights.home), 60):
        started = time.monotonic()
        second = run_hnmine("nightly", "--data", nights.data, "--home", nights.home, *nights.options)
        assert second.returncode == 3
        assert "error: another job holds" in second.stderr
        assert "Traceback" not in second.stderr
        assert time.monotonic() - started < 60
        assert run_hnmine("rollback", "--home", nights.home).returncode == 3
    assert Home.at(nights.home).history() == []


def test_an_object_store_needs_a_folder_to_work_in(nights: Nights, s3) -> None:
    done = run_hnmine("nightly", "--data", nights.data, "--home", s3("bucket/home"), *nights.options)
    assert done.returncode == 2
    assert "nightly.work=DIR" in done.stderr


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
    test = Paired(difference=difference, low=-1, high=high, p=0.5)
    assert not_worse(test, margin) == deployed


def test_what_a_night_leaves_is_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> np.ndarray:
        return np.frombuffer(rng.bytes(16 * count), dtype="S16")

    night = Night(
        documents=some(5),
        pairs_p=some(2),
        bound_p=np.array([0.5, np.inf]),
        nearer_p=np.array([b"", some(1)[0]], dtype="S16"),
        count_p=np.array([0, 3]),
        reserve=some(3),
    )
    for each in (night, Night.first()):
        _save(each, tmp_path / "night")
        again = _load(tmp_path / "night")
        for name in Night.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(again, name), getattr(each, name))
            assert getattr(again, name).dtype == getattr(each, name).dtype
