"""What each arm is trained on, and the judges against a plain loop over the start's scores and the single spaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hnmine.arms.arm import Ground, known_arms
from hnmine.config.base import slug
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.config.training import TAUGHT
from hnmine.corpus.beir import read_beir
from hnmine.pipeline import splits_of
from hnmine.ranking.splits import Splits
from hnmine.runs.folder import open_run
from hnmine.training.trainer import Bench
from hnmine.types import Space
from tests.builders.collections import write_collection
from tests.builders.models import load_cross_encoder, tiny_cross_encoder, tiny_letter_encoder
from tests.builders.settings import LEXICAL_ENCODER, quick_config

TWO = "encoders=[{name: wide, lexical: {width: 12}}, {name: narrow, lexical: {width: 3}}]"


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[tuple[Ground, Bench, Splits, Config]]:
    """A ground with two encoders, none of which can be tuned."""
    data = write_collection(tmp_path / "data")
    config = quick_config(tiny_cross_encoder(tmp_path / "start"), "compare.negatives=4", TWO)
    with open_run(tmp_path / "out", config) as run:
        splits = splits_of(read_beir(data, config.sources), config, run)
        bench = Bench(splits, config.train, run)
        yield Ground(bench, bench.start()[0], splits, config, run), bench, splits, config


def test_every_arm_has_a_name_of_its_own_on_a_command_line_and_a_description():
    arms = known_arms(Config())
    assert len({slug(name) for name in arms}) == len(arms)
    assert all(arm.about for arm in arms.values())
    assert {"positives-only", "in-batch", "two-conditions", "percpos-0.95", "bm25", "random"} <= set(map(slug, arms))
    assert {"two conditions, minilm", "two conditions, lexical", "two conditions, agreed, then BM25"} <= set(arms)
    assert not [name for name in known_arms(load(overrides=[LEXICAL_ENCODER])) if "lexical" in name]


@pytest.mark.parametrize("loss", TAUGHT)
def test_arms_that_a_teacher_cannot_score_before_training_are_left_out(loss: str):
    arms = known_arms(load(overrides=[f"train.loss={loss}", "train.teacher={model: x}"]))
    assert "in-batch" in known_arms(Config())
    assert "random" in arms
    assert not [name for name, arm in arms.items() if arm.in_batch]


def test_what_each_arm_is_trained_on(standing: tuple[Ground, Bench, Splits, Config]):
    ground, _, splits, config = standing
    known = {name: arm for name, arm in known_arms(config).items() if arm.distillation is None}
    of = {name: ground.lists(arm, 3) for name, arm in known.items() if arm.judge != "relabel"}
    texts, positives = splits.collection.documents.texts, splits.collection.positives()
    judged = {splits.collection.queries.texts[query]: {texts[doc] for doc in docs} for query, docs in positives.items()}
    pairs = len(splits.train)
    for name, (lists, recipe, facts) in of.items():
        assert recipe.seed == 3
        assert facts["negatives"] == sum(len(documents) - 1 for documents in lists.documents), name
        for query, documents in zip(lists.queries, lists.documents, strict=True):
            assert documents[0] in judged[query]
            assert not judged[query] & set(documents[1:]), name
            assert len(set(documents)) == len(documents) <= 5
    sizes = {name: [len(documents) for documents in lists.documents] for name, (lists, _, _) in of.items()}
    assert sizes["positives only"] == [1] * pairs
    assert of["positives only"][1].loss == "bce"
    assert sizes["in-batch"] == [1] * pairs
    assert of["in-batch"][1].in_batch_negatives == 4
    assert sizes["random"] == [5] * pairs
    assert of["random"][2]["pairs_with_negatives"] == 1
    assert max(sizes["BM25 and in-batch"]) == 3
    assert of["BM25 and in-batch"][1].in_batch_negatives == 2
    assert of["two conditions"][2]["pairs_with_negatives"] == len(sizes["two conditions"]) / pairs
    assert sizes["two conditions, X_concat"] == sizes["two conditions, 99% of the variance"], "almost the same space"
    some = np.array([0, 3, 7])
    for name, arm in known.items():
        part, whole = ground.lists(arm, 3, some)[0], ground.lists(arm, 3)[0]
        wanted = {splits.collection.queries.texts[row] for row in splits.train.query_rows_P[some].tolist()}
        kept = [at for at, query in enumerate(whole.queries) if query in wanted]
        assert part.documents == tuple(whole.documents[at] for at in kept), name


def conditions(space: Space, query: int, positive: int, doc: int) -> bool:
    """Both conditions, as written."""
    q, p, d = (row.astype(np.float64) for row in (space.queries_QR[query], space.docs_NR[positive], space.docs_NR[doc]))
    return bool(1 - q @ d < 1 - q @ p and 1 - q @ d < 1 - p @ d)


def test_judges_against_a_plain_loop(standing: tuple[Ground, Bench, Splits, Config], monkeypatch: pytest.MonkeyPatch):
    ground, bench, splits, config = standing
    texts, queries = splits.collection.documents.texts, splits.collection.queries.texts
    start = load_cross_encoder(ground.start, 64)
    arms = known_arms(config)
    of = {name: ground.lists(arm, 0)[0] for name, arm in arms.items() if arm.judge}
    spaces, space = ground._single_spaces(), ground.space(arms["two conditions"], 0, ground.pairs)
    agreed = denoised = relabelled = mistaken = 0
    lists_of = {name: dict(zip(lists.queries, lists.documents, strict=False)) for name, lists in of.items()}
    for query, own, positive in zip(
        bench.pairs.query_rows_P.tolist(),
        ground.pairs.query_rows_P.tolist(),
        bench.pairs.doc_rows_P.tolist(),
        strict=True,
    ):
        score = dict(enumerate(start.scores([queries[query]] * len(texts), list(texts)).tolist()))
        free = [row for row in range(len(texts)) if row not in bench.positives[query]]
        near = sorted(free, key=lambda row: (-space.queries_QR[own].astype(float) @ space.docs_NR[row], row))
        mined = [row for row in near if conditions(space, own, positive, row)]
        below = [row for row in mined if score[row] <= score[positive]]
        both = [row for row in mined if all(conditions(one, own, positive, row) for one in spaces)]
        found = {name: lists_of[name].get(queries[query], ("",)) for name in of}
        if both:
            agreed += 1
            assert found["two conditions, agreed, then BM25"][1] == texts[both[0]]
        if below:
            denoised += 1
            assert found["two conditions, denoised, then BM25"][1] == texts[below[0]]
        above = [row for row in mined if score[row] > score[positive]]
        extra = [
            d
            for q, d in zip(
                of["two conditions, relabelled, then BM25"].queries,
                of["two conditions, relabelled, then BM25"].documents,
                strict=True,
            )
            if q == queries[query]
        ]
        assert len(extra) == (2 if above else 1)
        if above:
            relabelled += 1
            first, second = extra
            assert second[0] == texts[above[0]]
            assert second[1:] == first[1:]
            assert texts[above[0]] not in first
        wrong = [texts.index(text) for text in found["mistakes of the start"][1:]]
        assert [score[row] for row in wrong] == sorted((score[row] for row in wrong), reverse=True)
        assert all(score[row] <= score[positive] for row in wrong)
        mistaken += len(wrong)
    assert min(agreed, denoised, relabelled, mistaken) > 0
    monkeypatch.setattr(
        "hnmine.training.trainer.load", None
    )  # a comparison that goes on knows what the start has scored
    later = Ground(bench, ground.start, splits, config, bench._run)
    assert {name: later.lists(arm, 0)[0] for name, arm in arms.items() if arm.judge} == of


def test_what_is_relabelled_for_one_pair_is_a_negative_of_no_other_of_its_query(tmp_path: Path):
    data = write_collection(tmp_path / "data")
    rows = (data / "qrels" / "train.tsv").read_text().splitlines()
    asked = [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()]
    again = "".join(json.dumps(row | {"_id": f"again-{row['_id']}"}) + "\n" for row in asked)
    (data / "queries.jsonl").write_text((data / "queries.jsonl").read_text() + again)
    more = [f"again-{row.split()[0]}\t{row.split('-')[0]}-price\t1" for row in rows[1:]]
    (data / "qrels" / "train.tsv").write_text("\n".join([*rows, *more]) + "\n")
    config = quick_config(tiny_cross_encoder(tmp_path / "start"), "compare.negatives=8", TWO)
    with open_run(tmp_path / "out", config) as run:
        splits = splits_of(read_beir(data, config.sources), config, run)
        bench = Bench(splits, config.train, run)
        ground = Ground(bench, bench.start()[0], splits, config, run)
        lists, _, _ = ground.lists(known_arms(config)["two conditions, relabelled, then BM25"], 0)
    right: dict[str, set[str]] = {}
    wrong: dict[str, set[str]] = {}
    for query, documents in zip(lists.queries, lists.documents, strict=True):
        right.setdefault(query, set()).add(documents[0])
        wrong.setdefault(query, set()).update(documents[1:])
    assert any(len(texts) > 2 for texts in right.values()), "something is relabelled"
    assert all(wrong.values())
    assert not [query for query in right if right[query] & wrong[query]]


def test_an_encoder_is_tuned_on_the_pairs_that_an_arm_sees(tmp_path: Path):
    data, body = write_collection(tmp_path / "data"), tiny_letter_encoder(tmp_path / "body")
    encoder = f"encoders=[{{name: letters, model: {body}, dtype: float32, engine: torch}}]"
    config = quick_config(tiny_cross_encoder(tmp_path / "start"), encoder, "embed.ray=false")
    with open_run(tmp_path / "out", config) as run:
        splits = splits_of(read_beir(data, config.sources), config, run)
        bench = Bench(splits, config.train, run)
        ground, arm = Ground(bench, bench.start()[0], splits, config, run), known_arms(config)["STAR"]
        few = ground.lists(arm, 0, np.arange(4))[0]
        every = ground.lists(arm, 0)[0]
        assert (len(few), len(every)) == (4, len(bench.pairs))
        assert ground._tuned is not None
        assert len(ground._tuned[1]._given.pairs) == len(bench.pairs)
        folders = sorted(path.name for path in (run.out / "encoders").iterdir() if path.is_dir())
        assert folders == ["star-0", "star-0-4"]
        weights = [(run.out / "encoders" / name / "model.safetensors").read_bytes() for name in folders]
        assert weights[0] != weights[1]


def test_in_batch_negatives_of_the_settings_are_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_collection(tmp_path / "data")
    config = quick_config(tiny_cross_encoder(tmp_path / "start"), "train.in_batch_negatives=2")
    with open_run(tmp_path / "out", config) as run:
        splits = splits_of(read_beir(data, config.sources), config, run)
        bench = Bench(splits, config.train, run)
        ground = Ground(bench, bench.start()[0], splits, config, run)
        assert "train.in_batch_negatives=2 is left out" in capsys.readouterr().err
        assert ground.lists(known_arms(config)["random"], 0)[1].in_batch_negatives == 0


def test_expanded_queries_against_a_plain_loop(standing: tuple[Ground, Bench, Splits, Config]):
    ground, _, _, config = standing
    arms = known_arms(config)
    plain = ground.space(arms["two conditions"], 0, ground.pairs)
    expanded = ground.space(arms["two conditions, expanded queries"], 0, ground.pairs)
    assert expanded.docs_NR is plain.docs_NR
    for query, first in enumerate(ground.first_QK.tolist()):
        rows = [row for row in first[:3] if row >= 0]
        vector = plain.queries_QR[query] + sum(plain.docs_NR[row] for row in rows) / max(1, len(rows))
        np.testing.assert_allclose(expanded.queries_QR[query], vector / np.linalg.norm(vector), atol=1e-6)


def test_lessons_stand_beside_what_an_arm_is_trained_on_or_alone(standing: tuple[Ground, Bench, Splits, Config]):
    ground, bench, _, config = standing
    known, taught = known_arms(config), ground.lessons()
    assert taught is not None
    some = np.array([0, 3, 7])
    for name, arm in known.items():
        if arm.distillation is None:
            continue
        lists, recipe, facts = ground.lists(arm, 3, some, 0.01)
        assert recipe == replace(bench.recipe, seed=3)
        count = round(0.01 * len(taught.lists))
        own = len(lists) - count
        assert lists.is_lesson == (False,) * own + (True,) * count
        assert (lists.queries[own:], lists.documents[own:]) == (
            taught.lists.queries[:count],
            taught.lists.documents[:count],
        )
        assert (lists.teacher[:own], lists.teacher[own:]) == (((),) * own, taught.lists.teacher[:count])
        if arm.distillation == "alone":
            assert (own, facts["negatives"]) == (0, 0)
        else:
            alone, _, its = ground.lists(known[name.removeprefix("distillation, ")], 3, some)
            assert (lists.queries[:own], lists.documents[:own]) == (alone.queries, alone.documents)
            assert facts == its
