"""What is learnt beside judgements: a teacher's scores, and lessons against a plain loop over scores and vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hnmine.config.load import load as load_config
from hnmine.config.root import Config
from hnmine.config.training import TAUGHT as LOSSES_WITH_TEACHER
from hnmine.corpus.identity import identity
from hnmine.corpus.layouts import read_collection
from hnmine.embedding.ensemble import Ensemble
from hnmine.errors import DataError, ModelError
from hnmine.models.reranker import load_reranker
from hnmine.ranking.splits import Splits
from hnmine.runs.device import choose_dtype
from hnmine.runs.folder import Run, open_run
from hnmine.training.lessons import (
    BEST_DOCUMENTS,
    LESSON_DOCUMENTS,
    TEACHER_TOKENS,
    Lessons,
    Teacher,
    make_lessons,
)
from hnmine.training.lists import TrainingList
from hnmine.training.losses import TAUGHT, kl
from hnmine.training.trainer import Trainer
from tests.builders.collections import append_lines, write_collection
from tests.builders.devices import CPU
from tests.builders.models import load_cross_encoder, tiny_cross_encoder
from tests.builders.presets import ensemble_of, maker_of, splits_and_config, trainer_of, useless_first_stage
from tests.builders.rerankers import LAYOUTS
from tests.builders.settings import quick_overrides
from tests.builders.training import quick_recipe, yes_no_lists

TWO = "encoders=[{name: wide, lexical: {width: 12}}, {name: narrow, lexical: {width: 3}}]"
SETTINGS = (TWO, "train.max_pairs=8", "train.lessons=14", "evaluate.depth=9")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 queries: 12 of train, 4 of dev, and 4 that nobody judged; dev is reported too."""
    return write_collection(tmp_path / "data", ("train", "dev"))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(tmp_path / "out", Config()) as opened:
        yield opened


def right_first(data: Path, file: Path) -> str:
    """Write a run file, all of a topic for each query and the right one first; return the setting."""
    collection = read_collection(data, load_config().sources)
    names = collection.documents.ids
    lines = []
    for query, right in ((row, *docs) for row, docs in collection.positives().items()):
        topic = names[right].split("-")[0]
        ranked = [right, *(row for row, name in enumerate(names) if name.startswith(topic) and row != right)]
        lines += [
            f"{collection.queries.ids[query]} Q0 {names[row]} {rank} {9 - rank} x" for rank, row in enumerate(ranked)
        ]
    file.write_text("\n".join(lines) + "\n")
    return f"evaluate.first_stage={file}"


def queries_of(lessons: Lessons) -> list[str]:
    return [each.query for each in lessons.lists]


def taught(
    data: Path, run: Run, model: Path, *more: str, scale: float = 1.0
) -> tuple[Lessons, Trainer, Splits, Ensemble]:
    splits, config = splits_and_config(data, *quick_overrides(model, *SETTINGS, *more))
    trainer, ensemble = trainer_of(splits, config, run), ensemble_of(splits, config, run)
    settings = {"count": config.train.lessons, "scale": scale, "seed": config.seed}
    lessons = make_lessons(trainer.data, splits, ensemble, **settings, judged_only=False)
    return lessons, trainer, splits, ensemble


def test_lessons_are_on_queries_without_a_judgement_first_and_never_on_dev(data: Path, run: Run, tmp_path: Path):
    model = tiny_cross_encoder(tmp_path / "start")
    found, trainer, splits, _ = taught(data, run, model)
    texts = splits.collection.queries.texts
    trained = {texts[row] for row in trainer.data.pairs.query_rows_P}
    dev = {texts[row] for row in splits.dev.query_rows_P}
    others = set(texts) - trained - dev
    assert (len(trained), len(dev), len(others)) == (8, 4, 8)
    assert len(queries_of(found)) == len(set(queries_of(found))) == 14
    assert others < set(queries_of(found)) < others | trained
    fewer, *_ = taught(data, run, model, "train.lessons=5")
    assert set(queries_of(fewer)) < others
    assert len(queries_of(fewer)) == 5
    more, *_ = taught(data, run, model, "train.lessons=40")
    assert (len(more.lists), set(queries_of(more))) == (40, others | trained)
    assert queries_of(more)[:16] == queries_of(more)[16:32]
    assert more.lists[:16] != more.lists[16:32]
    best = [each.documents[:BEST_DOCUMENTS] for each in more.lists]
    assert best[:16] == best[16:32]


def test_other_spellings_of_held_queries_and_queries_that_find_nothing_are_no_lessons(
    data: Path, run: Run, tmp_path: Path
):
    rows = [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()]
    more = [{"_id": f"{row['_id']}-again", "text": f" {row['text'].upper()}? "} for row in rows]
    more += [{"_id": f"none-{number}", "text": f"nothing{number} zzz"} for number in range(50)]
    with (data / "queries.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in more)
    found, _, splits, _ = taught(data, run, tiny_cross_encoder(tmp_path / "start"), "train.lessons=16")
    texts = splits.collection.queries.texts
    dev = {texts[row] for row in splits.dev.query_rows_P}
    asked = {query.strip(" ?").lower() for query in queries_of(found)}
    assert len(asked) == len(queries_of(found)) == 16
    assert not asked & dev
    assert not [query for query in asked if "zzz" in query]


def test_queries_that_another_split_judges_are_held_out_too(data: Path, run: Run, tmp_path: Path) -> None:
    every = read_collection(data, load_config().sources)
    held = [name for name in every.queries.ids if every.queries.row_of[name] >= len(every.judged)][:2]
    trained = every.queries.ids[every.pairs("train").query_rows_P[0]]
    (data / "qrels" / "challenge.tsv").write_text("".join(f"{name}\tapple-guide\t1\n" for name in [*held, trained]))
    found, trainer, *_ = taught(data, run, tiny_cross_encoder(tmp_path / "start"), "train.lessons=40")
    texts = dict(zip(trainer.data.queries.ids, trainer.data.queries.texts, strict=True))
    assert not {texts[name] for name in held} & set(queries_of(found))
    assert len(set(queries_of(found))) == 20 - 4 - 2, "all but those of dev and the two"


def test_no_lesson_holds_the_query_itself(data: Path, run: Run, tmp_path: Path) -> None:
    every = read_collection(data, load_config().sources)
    asked = [f"  {text.upper()}" for text in every.documents.texts[:10]]
    rows = [{"_id": f"itself-{at}", "text": text} for at, text in enumerate(asked)]
    append_lines(data / "queries.jsonl", *map(json.dumps, rows))
    found, *_ = taught(data, run, tiny_cross_encoder(tmp_path / "start"), "train.lessons=40")
    themselves = [each for each in found.lists if each.query in {text.strip() for text in asked}]
    assert len(themselves) > 5
    assert not any(identity(each.query) in map(identity, each.documents) for each in found.lists)


def test_without_a_query_to_learn_from_it_is_said(tmp_path: Path, run: Run):
    data = write_collection(tmp_path / "data")
    qrels = data / "qrels"
    (qrels / "test.tsv").write_text((qrels / "train.tsv").read_text())
    (data / "queries.jsonl").write_text("".join((data / "queries.jsonl").read_text().splitlines(keepends=True)[:16]))
    with pytest.raises(DataError, match=r"no lessons: beside dev and test there is no query for which .*search log"):
        taught(data, run, tiny_cross_encoder(tmp_path / "start"))


def test_a_lesson_is_what_a_plain_loop_makes_of_scores_and_vectors(data: Path, run: Run, tmp_path: Path):
    found, _, splits, ensemble = taught(data, run, tiny_cross_encoder(tmp_path / "start"), scale=2.0)
    documents, queries = splits.collection.documents, splits.collection.queries
    vectors = ensemble.vectors(queries)
    assert list(found.weights) == ["first stage", "wide", "narrow"]
    assert found.weights["first stage"] > 0
    doc_rows_QK, scores_QK = splits.first_stage(np.arange(len(queries)))
    for lesson in found.lists:
        texts, row = lesson.documents, queries.texts.index(lesson.query)
        docs = [doc for doc in doc_rows_QK[row].tolist()[:9] if doc >= 0]
        values = [scores_QK[row, : len(docs)].astype(float)]
        for encoder in vectors:
            q, d = encoder.take("query", np.array([row]))[0], encoder.take("document", np.array(docs))
            values.append(d @ q / np.linalg.norm(q) / np.linalg.norm(d, axis=1))
        teacher = sum(
            weight * ((each - each.mean()) / each.std() if np.ptp(each) > 1e-6 * abs(each).max() else 0 * each)
            for weight, each in zip(found.weights.values(), values, strict=True)
        )
        said = {documents.texts[doc]: float(score) / 2 for doc, score in zip(docs, teacher, strict=True)}
        assert len(texts) == len(set(texts)) == min(LESSON_DOCUMENTS, len(docs))
        np.testing.assert_allclose(lesson.teacher, [said[text] for text in texts], atol=2e-3)
        best = sorted(said.values(), reverse=True)
        np.testing.assert_allclose(lesson.teacher[:2], best[:2], atol=2e-3)
    assert all(lesson.is_lesson for lesson in found.lists)


def test_the_student_comes_nearer_to_its_teacher(data: Path, run: Run, tmp_path: Path):
    start = tiny_cross_encoder(tmp_path / "start", spread=1, seed=1)
    how = (right_first(data, tmp_path / "run.trec"), "train.lessons=144", "train.pairs_per_batch=3")
    found, trainer, _, _ = taught(data, run, start, *how)
    training = trainer.fit("student", start, found.lists, replace(trainer.recipe, learning_rate=0.006))
    assert training.best_step > 0, "it learnt nothing, and the rest of this test would say nothing"

    def divergence(model: Path) -> float:
        reranker = load_reranker("cross-encoder", model, max_tokens=64, device="cpu", dtype="float32", engine="torch")
        values = []
        for each in found.lists:
            scores = torch.from_numpy(reranker.raw_scores([each.query] * len(each.documents), each.documents))[None]
            teacher = torch.tensor([each.teacher])
            values.append(kl(scores, torch.ones_like(scores, dtype=torch.bool), teacher).item())
        return float(np.mean(values))

    assert divergence(trainer.folder("student")) < 0.98 * divergence(start)
    recipe = quick_recipe()
    for other in (
        tuple(replace(each, teacher=each.teacher[::-1]) for each in found.lists),
        tuple(replace(each, is_lesson=False) for each in found.lists),
    ):
        assert trainer.identity(start, other, recipe) != trainer.identity(start, found.lists, recipe)


def test_with_a_run_file_or_vectors_made_elsewhere_only_train_queries_are_asked_about(
    data: Path, run: Run, tmp_path: Path
):
    settings = quick_overrides(tiny_cross_encoder(tmp_path / "start"), *SETTINGS)
    splits, config = splits_and_config(data, *settings, right_first(data, tmp_path / "run.trec"))
    lessons = maker_of(splits, config, run).lessons
    assert lessons is not None
    texts = splits.collection.queries.texts
    assert set(queries_of(lessons)) == {texts[row] for row in splits.train.query_rows_P}
    assert lessons.weights["first stage"] > 0
    assert lessons.teacher_dev == 1


def test_a_teacher_that_knows_nothing_is_refused(data: Path, run: Run, tmp_path: Path):
    first_stage = useless_first_stage(data, tmp_path / "run.trec")
    with pytest.raises(DataError, match=r"no lessons: .* so they have nothing to teach"):
        taught(data, run, tiny_cross_encoder(tmp_path / "start"), first_stage)


def teacher_of(model: Path, scores: Path) -> Teacher:
    return Teacher(str(model), CPU, "torch", scores)


def test_it_scores_the_lists_that_have_no_teacher_and_leaves_lessons_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_cross_encoder(tmp_path / "teacher", seed=1)
    judged = (TrainingList(query="a b", documents=("a", "b b")), TrainingList(query="c", documents=("c", "d", "e f")))
    lesson = TrainingList(query="x", documents=("y", "z"), teacher=(0.25, 0.5), is_lesson=True)
    found = teacher_of(model, tmp_path / "scored").teach("student", (judged[0], lesson, judged[1]), 2.0)
    assert found[1] == lesson
    scores = load_cross_encoder(model, max_tokens=TEACHER_TOKENS)
    for given, each in zip(judged, found[::2], strict=True):
        assert each == replace(given, teacher=each.teacher)
        alone = scores.scores([each.query] * len(each.documents), each.documents)
        np.testing.assert_allclose(np.array(each.teacher) * 2, alone, atol=2e-2)  # the number type is the fastest
    assert "the teacher is" in capsys.readouterr().err
    again = teacher_of(model, tmp_path / "scored").teach("other", judged, 2.0)
    assert again == found[::2]
    assert "the teacher is" not in capsys.readouterr().err, "what it has scored is kept"


def test_one_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"train\.teacher: .*body has no ranking head, so its scores would be"):
        teacher_of(tiny_cross_encoder(tmp_path / "body", head=False), tmp_path / "scored")


def test_the_names_of_what_learns_from_a_teacher_are_those_of_its_losses() -> None:
    assert set(LOSSES_WITH_TEACHER) == set(TAUGHT)


@pytest.mark.parametrize(
    "name", ["modules: mean, dense", "Qwen3 of yes and no, with a chat template", "LoRA of a Bert re-ranker"]
)
def test_a_teacher_of_any_layout_says_its_scores_before_the_activation(name: str, tmp_path: Path) -> None:
    folder = LAYOUTS[name].build(tmp_path / "teacher")
    lists = yes_no_lists(3)
    taught_lists = Teacher(str(folder), CPU, "torch", tmp_path / "scored").teach("student", lists, 2.0)
    reranker = load_reranker(
        "cross-encoder", folder, max_tokens=256, device="cpu", dtype=choose_dtype("auto", "cpu"), engine="torch"
    )
    for given, each in zip(lists, taught_lists, strict=True):
        scores = reranker.raw_scores([given.query] * len(given.documents), given.documents)
        np.testing.assert_allclose(each.teacher, scores / 2, atol=0.02)  # in bfloat16, in other batches
