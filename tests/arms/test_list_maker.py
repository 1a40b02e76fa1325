"""What each arm is trained on, against plain loops over the start's scores, the spaces and the first stage."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine import pipeline
from hnmine.arms.arm import NEGATIVES, known_arms
from hnmine.arms.list_maker import read_mined
from hnmine.corpus.identity import identity
from hnmine.errors import DataError
from hnmine.mining.mine import choose_basis
from hnmine.mining.pca import Fused, project_space
from hnmine.ranking.splits import FIRST_DOCUMENTS
from hnmine.runs.folder import Run, open_run
from hnmine.training.lists import TrainingData, step_lists
from hnmine.types import NO_ROW, Space
from tests.builders.collections import append_lines
from tests.builders.field_cases import SPELLINGS, tickets, write_plain
from tests.builders.layouts import Plain
from tests.builders.models import load_cross_encoder, tiny_cross_encoder, tiny_letter_encoder
from tests.builders.presets import MINED, ensemble_of, maker_of, splits_and_config, trainer_of
from tests.builders.settings import quick_overrides

TWO = "encoders=[{name: wide, lexical: {width: 12}}, {name: narrow, lexical: {width: 3}}]"


class Made:
    """A list maker with two encoders, of which none can be trained, and what it is made of."""

    def __init__(self, data: Path, run: Run, start: Path, *overrides: str) -> None:
        self.start, self.run = start, run
        self.splits, self.config = splits_and_config(data, *quick_overrides(start, TWO, *overrides))
        self.maker = maker_of(self.splits, self.config, run, start, with_mined=True)
        self.trainer = trainer_of(self.splits, self.config, run)
        self.arms = known_arms(self.config)


@pytest.fixture
def made(data: Path, run: Run, tmp_path: Path) -> Made:
    return Made(data, run, tiny_cross_encoder(tmp_path / "start"))


def test_what_each_arm_is_trained_on(made: Made) -> None:
    splits, maker = made.splits, made.maker
    arms = {name: arm for name, arm in made.arms.items() if arm.lessons is None}
    found = {name: maker.lists(arm, 3) for name, arm in arms.items()}
    texts, positives = splits.collection.documents.texts, splits.collection.positives()
    judged = {splits.collection.queries.texts[query]: {texts[doc] for doc in docs} for query, docs in positives.items()}
    pairs = len(splits.train)
    for name, (lists, recipe, facts) in found.items():
        assert recipe.seed == 3
        assert facts["negatives"] == sum(len(each.documents) - 1 for each in lists), name
        for each in lists:
            assert each.documents[0] in judged[each.query]
            assert not judged[each.query] & set(each.documents[1:]), name
            assert len(set(each.documents)) == len(each.documents) <= 1 + NEGATIVES
    sizes = {name: [len(each.documents) for each in lists] for name, (lists, _, _) in found.items()}
    assert sizes["positives"] == [1] * pairs
    assert found["positives"][1].loss == "bce"
    assert sizes["in-batch"] == [1] * pairs
    assert found["in-batch"][1].in_batch_negatives == 4
    assert sizes["random"] == [5] * pairs
    assert found["random"][2]["pairs_with_negatives"] == 1
    assert max(sizes["BM25 and in-batch"]) == 3
    assert found["BM25 and in-batch"][1].in_batch_negatives == 2
    assert found["two conditions"][2]["pairs_with_negatives"] == len(sizes["two conditions"]) / pairs
    assert sizes["two conditions, X_concat"] == sizes["two conditions, 99% of the variance"], "almost the same space"
    assert sizes["paper"] == [2] * len(MINED)


def test_of_some_pairs_an_arm_has_the_lists_that_these_have_among_all(made: Made) -> None:
    splits, some = made.splits, np.array([0, 3, 7])
    wanted = {splits.collection.queries.texts[row] for row in splits.train.query_rows_P[some].tolist()}
    for name, arm in made.arms.items():
        if arm.lessons is None:
            part, whole = made.maker.lists(arm, 3, some)[0], made.maker.lists(arm, 3)[0]
            assert part == tuple(each for each in whole if each.query in wanted), name


def test_with_in_batch_negatives_what_was_judged_is_known(data: Path, run: Run, tmp_path: Path) -> None:
    append_lines(data / "qrels" / "dev.tsv", "apple-care\tapple-story\t1")
    made = Made(data, run, tiny_cross_encoder(tmp_path / "start"))
    lists, recipe, _ = made.maker.lists(made.arms["BM25 and in-batch"], 0)
    assert (len(lists), recipe.in_batch_negatives) == (len(made.splits.train), 2)
    care = next(each for each in lists if each.query == text_of(data, "apple-care", "queries"))
    assert care.never_negative == {text_of(data, "apple-guide"), text_of(data, "apple-story")}
    paper, recipe, _ = made.maker.lists(made.arms["paper"], 0)
    assert (len(paper), recipe.loss, recipe.in_batch_negatives) == (len(MINED), "margin", 0)
    assert not any(each.never_negative for each in paper)


def conditions(space: Space, query: int, positive: int, doc: int) -> bool:
    """Both conditions, as written."""
    q, p, d = (row.astype(np.float64) for row in (space.queries_QR[query], space.docs_NR[positive], space.docs_NR[doc]))
    return bool(1 - q @ d < 1 - q @ p and 1 - q @ d < 1 - p @ d)


def test_judges_against_a_plain_loop(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    maker, data, arms = made.maker, made.trainer.data, made.arms
    texts, queries = data.documents.texts, data.queries.texts
    judged = {name: maker.lists(arm, 0)[0] for name, arm in arms.items() if arm.judge and arm.lessons is None}
    lists_of = {name: {each.query: each.documents for each in lists} for name, lists in judged.items()}
    start, space = load_cross_encoder(made.start, 64), maker.space(arms["two conditions"], 0, maker.pairs)
    agreed = denoised = mistaken = 0
    for query, position, positive in zip(
        data.pairs.query_rows_P.tolist(), maker.pairs.query_rows_P.tolist(), data.pairs.doc_rows_P.tolist(), strict=True
    ):
        score = dict(enumerate(start.scores([queries[query]] * len(texts), list(texts)).tolist()))
        free = [row for row in range(len(texts)) if row not in data.never_negative[query]]
        near = sorted(free, key=lambda row: (-space.queries_QR[position].astype(float) @ space.docs_NR[row], row))
        mined = [row for row in near if conditions(space, position, positive, row)]
        below = [row for row in mined if score[row] <= score[positive]]
        both = [row for row in mined if all(conditions(one, position, positive, row) for one in maker.single_spaces)]
        found = {name: lists_of[name].get(queries[query], ("",)) for name in judged}
        if both:
            agreed += 1
            assert found["two conditions, agreed, then BM25"][1] == texts[both[0]]
        if below:
            denoised += 1
            assert found["two conditions, denoised, then BM25"][1] == texts[below[0]]
        wrong = [texts.index(text) for text in found["mistakes of the start"][1:]]
        assert [score[row] for row in wrong] == sorted((score[row] for row in wrong), reverse=True)
        assert all(score[row] <= score[positive] for row in wrong)
        mistaken += len(wrong)
    assert min(agreed, denoised, mistaken) > 0
    monkeypatch.setattr("hnmine.arms.list_maker.load_reranker", None)  # a later run knows what the start has scored
    later = maker_of(made.splits, made.config, made.run, made.start)
    assert {name: later.lists(arms[name], 0)[0] for name in judged} == judged


def test_an_encoder_is_trained_on_the_pairs_that_an_arm_sees(data: Path, tmp_path: Path) -> None:
    body, start = tiny_letter_encoder(tmp_path / "body"), tiny_cross_encoder(tmp_path / "start")
    encoder = f"encoders=[{{name: letters, model: {body}, dtype: float32}}]"
    splits, config = splits_and_config(data, *quick_overrides(start, encoder, "ray=false"))
    with open_run(tmp_path / "out", config) as run:
        maker, arm = maker_of(splits, config, run, start), known_arms(config)["STAR"]
        few, every = maker.lists(arm, 0, np.arange(4))[0], maker.lists(arm, 0)[0]
        assert (len(few), len(every)) == (4, len(splits.train))
        folders = sorted(path.name for path in (run.out / "encoders").iterdir() if path.is_dir())
        assert folders == ["star-0", "star-0-4"]
        weights = [(run.out / "encoders" / name / "model.safetensors").read_bytes() for name in folders]
        assert weights[0] != weights[1]


def test_lessons_stand_beside_what_an_arm_is_trained_on_or_alone(made: Made) -> None:
    maker, lessons, some = made.maker, made.maker.lessons, np.array([0, 3, 7])
    assert lessons is not None
    beside = {"distilled": "anchored"} | {
        name: name.removeprefix("distillation, ") for name, arm in made.arms.items() if arm.lessons == "beside"
    }
    assert len(beside) == 4
    for name, without in beside.items():
        lists, recipe, facts = maker.lists(made.arms[name], 3, some)
        alone, recipe_alone, facts_alone = maker.lists(made.arms[without], 3, some)
        assert lists == alone + lessons.lists, name
        assert (recipe, facts) == (recipe_alone, facts_alone)
    lists, recipe, facts = maker.lists(made.arms["distillation alone"], 3)
    assert lists == lessons.lists
    assert all(each.is_lesson for each in lists)
    assert (recipe, facts["negatives"]) == (replace(made.trainer.recipe, seed=3), 0)


def test_without_lessons_only_the_default_trains_without_them(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(data, run, tiny_cross_encoder(tmp_path / "start"), "evaluate.depth=1")
    lists = {name: made.maker.lists(arm, 0)[0] for name, arm in made.arms.items() if arm.lessons}
    assert capsys.readouterr().err.count("warning: no lessons: ") == 1
    assert lists.pop("distilled") == made.maker.lists(made.arms["anchored"], 0)[0]
    assert not any(map(len, lists.values()))


@pytest.mark.parametrize("given", [[], ["train.learning_rate=5e-5"]])
def test_the_margin_loss_of_an_arm_takes_smaller_steps_unless_a_learning_rate_is_given(
    data: Path, run: Run, tmp_path: Path, given: list[str]
) -> None:
    made = Made(data, run, tiny_cross_encoder(tmp_path / "start"), *given)
    rate = made.trainer.recipe.learning_rate
    rates = {name: made.maker.lists(made.arms[name], 0)[1].learning_rate for name in ("anchored", "paper", "the paper")}
    margin = pytest.approx(rate if given else 0.2 * rate)
    assert rates == {"anchored": rate, "paper": margin, "the paper": margin}


def text_of(data: Path, name: str, kind: str = "corpus") -> str:
    rows = map(json.loads, (data / f"{kind}.jsonl").read_text().splitlines())
    row = next(row for row in rows if row["_id"] == name)
    return f"{row['title']}\n{row['text']}" if kind == "corpus" else row["text"]


def negatives_of(made: Made, arm: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The documents of each list after the positive, by query and positive."""
    lists, _, _ = made.maker.lists(made.arms[arm], 0)
    return {(each.query, each.documents[0]): each.documents[1:] for each in lists}


@pytest.mark.parametrize("twin", [False, True], ids=["copies", "copies, and a query of equal text"])
def test_anchors_are_all_but_positives_their_copies_and_the_positives_of_the_same_question(
    data: Path, run: Run, tmp_path: Path, twin: bool
) -> None:
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    append_lines(data / "corpus.jsonl", *(json.dumps(row | {"_id": f"{row['_id']}-copy"}) for row in rows[:9]))
    if twin:
        question = json.loads((data / "queries.jsonl").read_text().splitlines()[0])
        append_lines(data / "queries.jsonl", json.dumps(question | {"_id": "twin"}))
        append_lines(data / "qrels" / "test.tsv", "twin\tapple-story\t1")
    made = Made(data, run, tiny_cross_encoder(tmp_path / "start"), "train.anchors=64")
    lists, splits = negatives_of(made, "anchored"), made.splits
    texts, queries = splits.collection.documents.texts, splits.collection.queries
    for query, positive in zip(splits.train.query_rows_P.tolist(), splits.train.doc_rows_P.tolist(), strict=True):
        is_twin = twin and queries.ids[query] == "apple-care"
        never = {texts[positive]} | ({text_of(data, "apple-story")} if is_twin else set())
        first = splits.first_stage(np.array([query]))[0][0, :FIRST_DOCUMENTS].tolist()
        expected = sorted(texts[row] for row in first if row != NO_ROW and texts[row] not in never)
        mined = [text_of(data, negative) for name, _, negative in MINED if name == queries.ids[query]]
        listed = lists[queries.texts[query], texts[positive]]
        assert list(listed[: len(mined)]) == mined
        assert sorted(listed) == expected
        assert len(expected) > 5


@pytest.mark.parametrize(
    "judged", ["apple-care\tapple-price\t1", "apple-care\tcopy\t1"], ids=["itself", "a document of its text"]
)
def test_what_was_judged_positive_since_it_was_mined_is_trained_on_no_more(
    data: Path, run: Run, tmp_path: Path, judged: str
) -> None:
    price = next(row for row in (data / "corpus.jsonl").read_text().splitlines() if "apple-price" in row)
    append_lines(data / "corpus.jsonl", price.replace("apple-price", "copy"))
    start = tiny_cross_encoder(tmp_path / "start")
    both = negatives_of(Made(data, run, start), "paper")
    assert list(both.values()) == [(text_of(data, negative),) for _, _, negative in MINED]
    append_lines(data / "qrels" / "dev.tsv", judged)
    assert list(negatives_of(Made(data, run, start), "paper").values()) == [(text_of(data, "bread-price"),)]


def test_a_mined_pair_whose_query_nobody_judges_any_more_is_trained_on_no_more(
    data: Path, run: Run, tmp_path: Path
) -> None:
    path = data / "qrels" / "train.tsv"
    path.write_text("".join(row for row in path.read_text().splitlines(keepends=True) if "apple-care" not in row))
    made = Made(data, run, tiny_cross_encoder(tmp_path / "start"))
    assert list(negatives_of(made, "paper").values()) == [(text_of(data, "bread-price"),)]


def assert_equal(one: Space, other: Space) -> None:
    np.testing.assert_array_equal(one.docs_NR, other.docs_NR)
    np.testing.assert_array_equal(one.queries_QR, other.queries_QR)


def test_each_arm_looks_in_its_own_space_and_a_space_is_made_once(data: Path, run: Run, tmp_path: Path) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    made = Made(data, run, start, "reduce.variance=0.8")
    maker, config, ensemble = made.maker, made.config, ensemble_of(made.splits, made.config, run)
    fused = Fused(encoders=ensemble.vectors(made.trainer.data.queries.take(maker.query_rows)), weights=ensemble.weights)
    basis = choose_basis(fused, config.reduce, device="cpu", seed=0)
    assert basis is not None

    def space(arm: str) -> Space:
        return maker.space(made.arms[arm], 0, maker.pairs)

    assert_equal(space("two conditions"), project_space(fused, basis))
    assert_equal(space("two conditions, X_concat"), project_space(fused, None))
    assert_equal(space("two conditions, 80% of the variance"), project_space(fused, basis))
    assert space("two conditions, narrow").width == 3
    assert space("BM25") is space("two conditions")
    basis.save(tmp_path / "basis.safetensors")
    given = Made(data, run, start, "reduce.variance=0.5", f"reduce.basis={tmp_path / 'basis.safetensors'}")
    assert_equal(given.maker.space(given.arms["two conditions"], 0, maker.pairs), project_space(fused, basis))


@pytest.fixture
def training_data(data: Path) -> TrainingData:
    splits, config = splits_and_config(data)
    return TrainingData.of(splits, config.train, config.seed)


def test_negatives_are_rows_by_query_and_positive(run: Run, training_data: TrainingData) -> None:
    queries, documents = training_data.queries.row_of, training_data.documents.row_of
    assert read_mined(run, training_data) == {
        (queries[query], documents[positive]): [documents[negative]] for query, positive, negative in MINED
    }


@pytest.mark.parametrize("harm", ["truncated", "other columns", "no ranks"])
def test_negatives_that_cannot_be_read_are_an_error_that_says_to_mine_again(
    run: Run, training_data: TrainingData, harm: str
) -> None:
    path = run.out / "negatives.parquet"
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        ids = {name: ["a", "b"] for name in ("query_id", "positive_id", "negative_id")}
        run.write_table(path.name, pa.table(ids if harm == "other columns" else ids | {"rank": [1, None]}))
    with pytest.raises(DataError, match=r"negatives\.parquet cannot be read \(.+\); run `hnmine mine` again"):
        read_mined(run, training_data)


def test_negatives_of_other_data_are_refused(run: Run, training_data: TrainingData) -> None:
    rows = {name: ["elsewhere"] for name in ("query_id", "positive_id", "negative_id")}
    run.write_table("negatives.parquet", pa.table(rows | {"rank": [1]}))
    with pytest.raises(DataError, match=r"names 'elsewhere', which --data does not have; mine again from this data"):
        read_mined(run, training_data)


def test_negatives_of_a_mining_that_was_stopped_before_its_end_are_refused(
    run: Run, training_data: TrainingData
) -> None:
    run.commit("mining", inputs={}, files=run.sha256_of("negatives.parquet"))
    assert read_mined(run, training_data)
    path = run.out / "negatives.parquet"
    run.write_table(path.name, pq.read_table(path).slice(1))
    with pytest.raises(DataError, match=r"negatives\.parquet is not as .*manifest\.json says.*; run it again"):
        read_mined(run, training_data)


# What no arm may choose


def awkward_plain(seed: int) -> Plain:
    """Documents with copies in other spellings, queries that are documents or ask twice, grades in several splits."""
    draw = random.Random(seed)
    documents, queries, _ = tickets()
    names = draw.sample(list(documents), 24)
    corpus = {name: documents[name] for name in names}
    for at, name in enumerate(draw.sample(names, 8)):
        corpus[f"copy-{name}"] = ("", draw.choice(SPELLINGS)("\n".join(documents[name])))
        corpus[f"twin-{at}"] = corpus[f"copy-{name}"]
    asked = {name: queries[name] for name in draw.sample(list(queries), 12)}
    asked |= {name: "\n".join(corpus[name]) for name in draw.sample(names, 6)}  # of the document's id and text
    asked |= {f"other-{name}": draw.choice(SPELLINGS)("\n".join(corpus[name])) for name in draw.sample(names, 4)}
    asked |= {f"again-{name}": draw.choice(SPELLINGS)(asked[name]) for name in draw.sample(list(asked), 5)}
    judgements: dict[str, dict[tuple[str, str], int]] = {name: {} for name in ("train", "dev", "test", "challenge")}
    for query in asked:
        for doc in draw.sample(list(corpus), 4):
            judgements[draw.choice(["train", "train", *judgements])][query, doc] = draw.choice([0, 1, 2, 3])
    return Plain(corpus, asked, judgements)


def wrongly_chosen(plain: Plain, least: int, query: str, negatives: Iterable[str]) -> list[str]:
    """Return the texts that a grade of at least `least`, the query's text or its id forbid, read one by one."""
    texts = {name: f"{title}\n{text}" for name, (title, text) in plain.documents.items()}
    same = identity(query)
    asked = {name for name, text in plain.queries.items() if identity(text) == same}
    grades: dict[str, int] = {}
    for rows in plain.judgements.values():
        for (name, doc), grade in rows.items():
            if name in asked:
                grades[doc] = max(grade, grades.get(doc, 0))
    forbidden = {identity(texts[doc]) for doc, grade in grades.items() if grade >= least} | {same}
    return [text for text in negatives if identity(text) in forbidden]


@pytest.mark.parametrize(("seed", "lower_grades"), [(0, "ignore"), (1, "negatives")])
def test_no_arm_chooses_what_is_never_a_negative(tmp_path: Path, seed: int, lower_grades: str) -> None:
    plain = awkward_plain(seed)
    folder = write_plain(tmp_path / "data", plain)
    body, start = tiny_letter_encoder(tmp_path / "body"), tiny_cross_encoder(tmp_path / "start")
    encoders = f"encoders=[{{name: letters, model: {body}, dtype: float32}}, {{name: narrow, lexical: {{width: 3}}}}]"
    grades = ("sources.min_score=2", f"sources.lower_grades={lower_grades}")
    settings = quick_overrides(start, encoders, "ray=false", "select.negatives=3", *grades)
    splits, config = splits_and_config(folder, *settings)
    least = 1 if lower_grades == "ignore" else 2
    pipeline.mine(folder, tmp_path / "out", config)
    with open_run(tmp_path / "out", config) as run:
        maker = maker_of(splits, config, run, start, with_mined=True)
        chosen = 0
        for name, arm in known_arms(config).items():
            lists, recipe, _ = maker.lists(arm, seed)
            steps = (
                [lists]
                if arm.lessons
                else [
                    step_lists(lists, batch, recipe.in_batch_negatives, [seed, *batch])
                    for batch in np.array_split(np.arange(len(lists)), 3)
                ]
            )
            for each in (each for step in steps for each in step):
                if each.is_lesson:
                    assert identity(each.query) not in map(identity, each.documents), name
                else:
                    assert not wrongly_chosen(plain, least, each.query, each.documents[1:]), name
                    chosen += len(each.documents) - 1
        assert chosen > 500
