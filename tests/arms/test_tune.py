"""What the presets train on, what is refused before anything is trained, and two trainings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.arms.arm import Ground, known_arms
from hnmine.arms.tune import tune
from hnmine.config.base import slug
from hnmine.errors import DataError, ModelError
from hnmine.ranking.first_stage import NO_ROW
from hnmine.runs.folder import Run
from hnmine.training.trainer import Bench
from tests.builders.collections import append_lines, write_collection
from tests.builders.models import load_cross_encoder, tiny_cross_encoder
from tests.builders.presets import MINED, NO_START, presets_of, run_with_negatives, splits_and_config
from tests.builders.settings import LEXICAL_ENCODER


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run folder with two mined negatives."""
    with run_with_negatives(tmp_path / "out") as opened:
        yield opened


def lists_of(
    data: Path, run: Run, preset: str, *overrides: str, start: Path = NO_START
) -> dict[tuple[str, str], tuple[str, ...]]:
    """The documents of each list after the positive, by query and positive."""
    splits, config = splits_and_config(data, *overrides)
    lists, _ = presets_of(splits, config, run).lists(preset, start)
    return {
        (query, documents[0]): documents[1:] for query, documents in zip(lists.queries, lists.documents, strict=True)
    }


def test_the_paper_takes_smaller_steps_unless_a_learning_rate_is_given(data: Path, run: Run) -> None:
    for given, rates in (((), [1e-4, 2e-5]), (("train.learning_rate=5e-5",), [5e-5, 5e-5])):
        presets = presets_of(*splits_and_config(data, *given), run)
        assert [presets.lists(name, NO_START)[1].learning_rate for name in ("anchored", "paper")] == pytest.approx(
            rates
        )


def text_of(data: Path, name: str) -> str:
    rows = map(json.loads, (data / "corpus.jsonl").read_text().splitlines())
    return next(f"{row['title']}\n{row['text']}" for row in rows if row["_id"] == name)


@pytest.mark.parametrize("source", ["first_stage", "random"])
@pytest.mark.parametrize("twin", [False, True], ids=["copies", "copies, and a query of equal text"])
def test_anchors_are_all_but_positives_their_copies_and_the_positives_of_the_same_question(
    data: Path, run: Run, source: str, twin: bool
) -> None:
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    append_lines(data / "corpus.jsonl", *(json.dumps(row | {"_id": f"{row['_id']}-copy"}) for row in rows[:9]))
    if twin:
        question = json.loads((data / "queries.jsonl").read_text().splitlines()[0])
        append_lines(data / "queries.jsonl", json.dumps(question | {"_id": "twin"}))
        append_lines(data / "qrels" / "test.tsv", "twin\tapple-story\t1")
    lists = lists_of(data, run, "anchored", f"train.anchors.source={source}", "train.anchors.per_pair=64")
    splits, config = splits_and_config(data)
    texts, queries = splits.collection.documents.texts, splits.collection.queries
    for query, positive in zip(splits.train.query_rows_P.tolist(), splits.train.doc_rows_P.tolist(), strict=True):
        never = {texts[positive]} | (
            {text_of(data, "apple-story")} if twin and queries.ids[query] == "apple-care" else set()
        )
        first = splits.first_stage(splits.train.query_rows_P)[query][0][: config.train.anchors.depth].tolist()
        pool = range(len(texts)) if source == "random" else [row for row in first if row != NO_ROW]
        expected = sorted(texts[row] for row in pool if texts[row] not in never)
        mined = [text_of(data, negative) for name, _, negative in MINED if name == queries.ids[query]]
        listed = lists[queries.texts[query], texts[positive]]
        assert list(listed[: len(mined)]) == mined
        assert sorted(listed) == expected
        assert len(expected) > 5


def test_mistakes_are_the_first_documents_that_the_start_scores_highest_but_below_the_positive(
    data: Path, run: Run, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    append_lines(data / "corpus.jsonl", *(json.dumps(row | {"_id": f"{row['_id']}-copy"}) for row in rows[:9]))
    start = tiny_cross_encoder(tmp_path / "model")
    asked = "train.anchors.source=mistakes", "train.anchors.per_pair=4", "train.max_tokens=64", "train.dtype=float32"
    lists = lists_of(data, run, "anchored", *asked, start=start)
    splits, config = splits_and_config(data)
    texts, queries = splits.collection.documents.texts, splits.collection.queries
    first, found, model = splits.first_stage(splits.train.query_rows_P), 0, load_cross_encoder(start, 64)
    for query, positive in zip(splits.train.query_rows_P.tolist(), splits.train.doc_rows_P.tolist(), strict=True):
        mined = [text_of(data, negative) for name, _, negative in MINED if name == queries.ids[query]]
        upper = {texts[row] for row in first[query][0][: config.train.anchors.depth].tolist() if row != NO_ROW}
        others = sorted(upper - {texts[positive], *mined})
        asked_of = [queries.texts[query]] * (1 + len(others))
        own, *scores = model.scores(asked_of, [texts[positive], *others]).tolist()
        below = sorted((score, text) for score, text in zip(scores, others, strict=True) if score <= own)
        expected = [*mined, *(text for _, text in below[:-5:-1])]
        assert list(lists.get((queries.texts[query], texts[positive]), ())) == expected
        found += len(below)
    assert found > 10


def test_a_preset_may_be_any_way_to_choose_negatives(data: Path, run: Run, tmp_path: Path) -> None:
    names = "percpos-0.95", "the-paper", "distillation-mistakes-of-the-start"
    asked = f"train.presets=[{', '.join(names)}]", LEXICAL_ENCODER, "train.max_tokens=64", "train.dtype=float32"
    splits, config = splits_and_config(data, *asked)
    presets, start = presets_of(splits, config, run), tiny_cross_encoder(tmp_path / "model")
    arms = known_arms(config)
    for name in names:
        arm = next(arm for full, arm in arms.items() if slug(full) == name)
        lists, recipe, told = presets.chosen(name, start)
        bench = Bench(splits, config.train, run)
        ground = Ground(bench, start, splits, config, run)
        assert lists == ground.lists(arm, config.train.seed)[0]
        rate = 0.2 if name == "the-paper" else 1.0
        assert recipe == replace(
            bench.recipe, loss=arm.loss or "infonce", learning_rate=pytest.approx(rate * bench.recipe.learning_rate)
        )
        taught = ground.lessons() if arm.distillation else None
        assert told == ({"distilled": taught.facts()} if taught else {})
    assert taught
    few = splits_and_config(data, "train.presets=two-conditions", LEXICAL_ENCODER, "train.max_pairs=1", "train.seed=1")
    with pytest.raises(DataError, match=r"preset two-conditions: no train pair has a negative by it, or there is no l"):
        presets_of(*few, run).chosen("two-conditions", start)


@pytest.mark.parametrize(
    "judged", ["apple-care\tapple-price\t1", "apple-care\tcopy\t1"], ids=["itself", "a document of its text"]
)
def test_what_was_judged_positive_since_it_was_mined_is_trained_on_no_more(data: Path, run: Run, judged: str) -> None:
    price = next(row for row in (data / "corpus.jsonl").read_text().splitlines() if "apple-price" in row)
    append_lines(data / "corpus.jsonl", price.replace("apple-price", "copy"))
    both = lists_of(data, run, "paper")
    assert list(both.values()) == [(text_of(data, negative),) for _, _, negative in MINED]
    append_lines(data / "qrels" / "dev.tsv", judged)
    assert list(lists_of(data, run, "paper").values()) == [(text_of(data, "bread-price"),)]


def test_positives_are_every_pair_without_a_negative_of_any_kind(data: Path, run: Run) -> None:
    splits, config = splits_and_config(data, "train.in_batch_negatives=3", "train.loss=margin")
    lists, recipe = presets_of(splits, config, run).lists("positives", NO_START)
    texts = splits.collection.documents.texts
    assert lists.documents == tuple((texts[row],) for row in splits.train.doc_rows_P.tolist())
    assert (recipe.loss, recipe.in_batch_negatives) == ("bce", 0)


def test_with_in_batch_negatives_every_pair_is_trained_on_and_what_was_judged_is_known(data: Path, run: Run) -> None:
    append_lines(data / "qrels" / "dev.tsv", "apple-care\tapple-story\t1")
    splits, config = splits_and_config(data, "train.in_batch_negatives=3", "train.anchors.per_pair=0")
    tuning = presets_of(splits, config, run)
    lists, recipe = tuning.lists("anchored", NO_START)
    assert recipe.in_batch_negatives == 3
    assert len(lists) == len(splits.train)
    assert sum(len(documents) > 1 for documents in lists.documents) == len(MINED)
    of_care = next(at for at, texts in enumerate(lists.documents) if text_of(data, "apple-price") in texts[1:])
    assert lists.judged[of_care] == {text_of(data, "apple-guide"), text_of(data, "apple-story")}
    paper, recipe = tuning.lists("paper", NO_START)
    assert (len(paper), paper.judged, recipe.loss, recipe.in_batch_negatives) == (len(MINED), (), "margin", 0)


def teaching(model: Path) -> list[str]:
    return ["train.loss=marginmse", f"train.teacher.model={model}", "train.teacher.dtype=float32"]


def test_a_teacher_without_a_head_is_refused_before_anything_is_trained(data: Path, run: Run, tmp_path: Path) -> None:
    splits, config = splits_and_config(data, *teaching(tiny_cross_encoder(tmp_path / "body", head=False)))
    with pytest.raises(ModelError, match=r"train\.teacher\.model: .*body has no ranking head, so its scores would be"):
        tune(splits, config, run)


def test_a_teacher_scores_every_list_once_and_not_again_where_its_pupil_is_reused(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, other = tiny_cross_encoder(tmp_path / "teacher", seed=1), tiny_cross_encoder(tmp_path / "other", seed=2)
    start = tiny_cross_encoder(tmp_path / "start")
    more = [
        f"train.model={start}",
        "train.max_tokens=32",
        "train.dtype=float32",
        "train.engine=torch",
        "train.presets=[anchored, positives]",
    ]
    splits, config = splits_and_config(data, *teaching(teacher), *more)
    found, files = tune(splits, config, run)
    said = capsys.readouterr().err
    assert sorted(found["presets"]) == ["anchored", "positives"]
    assert found["presets"]["positives"]["recipe"]["loss"] == "bce"
    assert found["presets"]["anchored"]["recipe"]["teacher"]["model"] == str(teacher)
    assert "rerankers/positives/model.safetensors" in files
    bench = Bench(splits, config.train, run)
    lists, _ = presets_of(splits, config, run).lists("anchored", start)
    assert f"anchored: taught: {sum(map(len, lists.documents))} documents" in said
    assert said.count("the teacher is") == 1, "positives have none"
    assert bench._teacher is not None
    taught = bench._teacher.teach("anchored", lists, 2.0)
    for query, documents, scores in zip(lists.queries, lists.documents, taught.teacher, strict=True):
        alone = load_cross_encoder(teacher, 256).scores([query] * len(documents), documents)
        np.testing.assert_allclose(np.array(scores) * 2, alone, atol=1e-5)
    capsys.readouterr()
    assert tune(splits, config, run) == (found, files)
    assert "the teacher is" not in capsys.readouterr().err

    def trained_again(name: str, *_: object, **__: object) -> None:
        raise RuntimeError(f"{name} is trained again")

    monkeypatch.setattr("hnmine.training.trainer.train", trained_again)
    splits, config = splits_and_config(data, *teaching(other), *more)
    with pytest.raises(RuntimeError, match="anchored is trained again"):
        tune(splits, config, run)


def test_negatives_of_a_mining_that_was_stopped_before_its_end_are_refused(data: Path, run: Run) -> None:
    run.commit("mining", inputs={}, files=run.sha256_of("negatives.parquet"))
    run.require_mined()
    path = run.out / "negatives.parquet"
    run.write_table(path.name, pq.read_table(path).slice(1))
    splits, config = splits_and_config(data)
    with pytest.raises(DataError, match=r"negatives\.parquet is not as .*manifest\.json says.*; run it again"):
        tune(splits, config, run)


def test_a_mined_pair_whose_query_nobody_judges_any_more_is_trained_on_no_more(data: Path, run: Run) -> None:
    path = data / "qrels" / "train.tsv"
    path.write_text("".join(row for row in path.read_text().splitlines(keepends=True) if "apple-care" not in row))
    assert list(lists_of(data, run, "paper").values()) == [(text_of(data, "bread-price"),)]


@pytest.mark.parametrize("spoil", ["truncated", "other columns", "no ranks"])
def test_negatives_that_cannot_be_read_are_an_error_that_says_to_mine_again(data: Path, run: Run, spoil: str) -> None:
    path = run.out / "negatives.parquet"
    if spoil == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        ids = {name: ["a", "b"] for name in ("query_id", "positive_id", "negative_id")}
        run.write_table(path.name, pa.table(ids if spoil == "other columns" else ids | {"rank": [1, None]}))
    splits, config = splits_and_config(data)
    with pytest.raises(DataError, match=r"negatives\.parquet cannot be read \(.+\); run `hnmine mine` again"):
        tune(splits, config, run)


def test_a_folder_where_the_link_belongs_is_refused_before_anything_is_trained(data: Path, run: Run) -> None:
    (run.out / "reranker").mkdir()
    splits, config = splits_and_config(data)
    with pytest.raises(DataError, match=r"reranker is no link to the best of .*rerankers; move it away or choose"):
        tune(splits, config, run)


def test_where_no_step_beats_the_start_a_smaller_one_is_suggested(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = [f"train.model={tiny_cross_encoder(tmp_path / 'start')}", "train.max_tokens=64", "train.presets=anchored"]
    splits, config = splits_and_config(data, *how, "train.learning_rate=1e-12")
    found, _ = tune(splits, config, run)
    assert found["presets"]["anchored"]["best_step"] == 0
    said = "warning: anchored: no step beats the start on dev, which stays as it is; try train.learning_rate=2e-13"
    assert capsys.readouterr().err.count(said) == 1
