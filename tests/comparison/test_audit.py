"""Hidden positives by hand and against a plain loop, and what is said of the rules that choose them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hnmine import pipeline
from hnmine.arms.rules import RULES
from hnmine.comparison.audit import (
    TWO_CONDITIONS,
    Risk,
    Trials,
    hide_positives,
    interval,
    risk_of,
    risk_table,
    rule_risks,
    verdict,
)
from hnmine.config.load import load
from hnmine.mining.conditions import select
from hnmine.mining.guards import margin_guard
from hnmine.mining.search import Searcher
from hnmine.types import NO_ROW, Pairs, Space, Texts, distance, unit_rows
from tests.builders.devices import CPU
from tests.builders.field_cases import copied, write_plain
from tests.builders.judged import collection_of, never_negative_of
from tests.builders.layouts import Plain
from tests.builders.settings import LEXICAL_ENCODER
from tests.builders.texts import numbered_texts


def pairs_of(rows: list[tuple[int, int]]) -> Pairs:
    array = np.array(rows, dtype=np.int64)
    return Pairs(query_rows_P=array[:, 0].copy(), doc_rows_P=array[:, 1].copy())


def counts(trials: Trials, found: Risk) -> tuple[int, int, int, int]:
    """Pairs, pairs with a negative, negatives, hidden positives among them."""
    pairs, negatives = len(trials.pairs), found["negatives"]
    return pairs, round(found["yield"] * pairs), negatives, round(found["hidden"] * negatives)


def test_a_hidden_positive_that_is_nearest_is_counted_for_the_other_pair_only() -> None:
    # by angle from the query: document 0 at 10 degrees, 1 at 20, 2 at 60, 3 at 90; 0 and 1 are both right
    angles = np.radians([10, 20, 60, 90])
    docs = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    space = Space(docs_NR=docs, queries_QR=np.array([[1, 0]], np.float32))
    trials = trials_of(pairs_of([(0, 0), (0, 1)]), range(4))
    results = rule_risks(space, trials, seed=0)
    # PD = 0: the nearest other is 1, hidden. PD = 1: the nearest other is 0, hidden, and satisfies condition 1 ...
    assert counts(trials, results["nearest document"]) == (2, 2, 2, 2)
    assert counts(trials, results["condition 1"]) == (2, 1, 1, 1)
    # ... but it is as near to PD as to the query (10 degrees both), so condition 2 lets it not pass
    assert results["two conditions"]["negatives"] in (0, 1)  # decided by rounding of cos 10°, and only by that
    assert counts(trials, results["just below the positive"]) == (2, 2, 2, 1)


def trials_of(pairs: Pairs, groups: Iterable[int]) -> Trials:
    """Hide positives where nothing but the pairs was judged."""
    positives = {query: set(docs) for query, docs in pairs.positives_of().items()}
    return hide_positives(pairs, never_negative_of(groups, positives))


def awkward() -> tuple[Space, Pairs, Trials]:
    """Ten queries, of some only one positive; of some documents a copy, and some copies are judged too."""
    rng = np.random.default_rng(4)
    unit = unit_rows(rng.normal(size=(90, 5)).astype(np.float32))
    unit[70:80] = unit[rng.permutation(70)[:10]]
    space = Space(docs_NR=unit[:80], queries_QR=unit[80:])
    _, groups = np.unique(unit[:80], axis=0, return_inverse=True)
    near = np.argsort(-(unit[80:] @ unit[:80].T), axis=1)[:, :15]
    judged = pairs_of(
        [(query, int(doc)) for query in range(10) for doc in rng.permutation(near[query])[: 1 + query % 5]]
    )
    return space, judged, trials_of(judged, groups.reshape(-1).tolist())


def by_plain_loop(space: Space, judged: Pairs, groups: np.ndarray, margin: float, wanted: int) -> tuple[int, ...]:
    """Hide, mine and count, one document at a time."""
    offered = selected = chosen = hidden = 0
    for query, docs in judged.positives_of().items():
        right = {groups[doc]: doc for doc in sorted(docs, reverse=True)}
        for text, positive in right.items():
            if len(right) < 2:
                continue
            offered += 1
            radius = distance(space.queries_QR[[query]], space.docs_NR[[positive]])[0]
            passed = []
            for doc in range(80):
                d_q = distance(space.queries_QR[[query]], space.docs_NR[[doc]])[0]
                d_p = distance(space.docs_NR[[positive]], space.docs_NR[[doc]])[0]
                if groups[doc] != text and d_q < radius and d_q < d_p and radius - d_q <= margin:
                    passed.append((d_q, doc))
            texts = list(dict.fromkeys(groups[doc] for _, doc in sorted(passed)))[:wanted]
            selected += bool(texts)
            chosen += len(texts)
            hidden += len(set(texts) & set(right))
    return offered, selected, chosen, hidden


def test_the_rules_equal_a_plain_loop() -> None:
    space, judged, trials = awkward()
    finished: list[int] = []
    results = rule_risks(space, trials, seed=1, done=finished.append)
    expected = by_plain_loop(space, judged, trials.known.groups_N, 2.0, 1)
    assert counts(trials, results["two conditions"]) == expected
    assert 0 < expected[3] < expected[2] < expected[0] == sum(finished)
    assert set(results) == set(RULES)


def test_the_first_stage_is_choices_query_by_query() -> None:
    space, judged, trials = awkward()
    groups = trials.known.groups_N
    right = {query: {groups[doc] for doc in docs} for query, docs in judged.positives_of().items()}
    rng = np.random.default_rng(2)
    first = np.stack(
        [rng.permutation([*docs, *range(40)]) for docs in np.argsort(space.queries_QR @ space.docs_NR.T)[:, -9:]]
    )
    first[3], first[4, 1:] = NO_ROW, NO_ROW
    expected = [0, 0, 0, 0]
    for query, positive in zip(trials.pairs.query_rows_P.tolist(), trials.pairs.doc_rows_P.tolist(), strict=True):
        others = [groups[doc] for doc in first[query].tolist() if doc != NO_ROW and groups[doc] != groups[positive]]
        expected[0] += 1
        expected[1] += len(others) > 0
        expected[3] += len(others) > 0 and others[0] in right[query]
    expected[2] = expected[1]
    results = rule_risks(space, trials, {"BM25": RULES["BM25"]}, seed=1, first_QK=first)
    assert counts(trials, results["BM25"]) == tuple(expected)
    assert 0 < expected[3] < expected[1] < expected[0]


@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize("margin", [2.0, 0.1])
def test_what_is_mined_with_guards_equals_a_plain_loop(margin: float, wanted: int) -> None:
    space, judged, trials = awkward()
    found = select(
        space,
        trials.pairs,
        trials.known,
        Searcher(space.docs_NR, CPU),
        negatives=wanted,
        candidates=4,
        guards=[margin_guard(margin)],
    )
    mined = risk_of(trials, found.pair_M, found.doc_rows_M)
    assert counts(trials, mined) == by_plain_loop(space, judged, trials.known.groups_N, margin, wanted)
    assert 0 < mined["hidden"] < 1
    assert (mined["negatives"] > len(np.unique(found.pair_M))) == (wanted > 1)


def test_copies_of_one_text_are_one_positive() -> None:
    groups = [0, 0, 1, 2]
    assert len(trials_of(pairs_of([(0, 0), (0, 1)]), groups).pairs) == 0
    trials = trials_of(pairs_of([(3, 0), (1, 2), (0, 1), (0, 2), (0, 0)]), groups)
    assert trials.pairs.positives_of() == {0: [1, 2]}  # of copies, the one that was judged first
    copies = np.array([0, 0]), np.array([0, 1])
    assert trials.known.mask(*copies).tolist() == [True, True]
    assert trials.known.mask(np.array([0]), np.array([2])).tolist() == [False]
    assert counts(trials, risk_of(trials, np.array([1, 1]), np.array([0, 3]))) == (
        2,
        1,
        2,
        1,
    )  # 0 is a copy of 1, hidden


def test_of_a_sample_of_the_pairs_what_was_judged_of_the_others_is_hidden_too() -> None:
    sample = pairs_of([(0, 0), (1, 3)])
    assert len(trials_of(sample, range(5)).pairs) == 0
    trials = hide_positives(sample, never_negative_of(range(5), {5: {0, 1, 2}, 3: {3}}), np.array([5, 3]))
    assert trials.pairs.positives_of() == {0: [0]}
    both = np.zeros(3, dtype=np.int64), np.array([1, 2, 3])
    assert trials.right.mask(*both).tolist() == [True, True, False]
    assert trials.known.mask(*both).tolist() == [False, False, False]


def test_what_is_no_negative_without_being_right_is_neither_offered_nor_counted_as_hidden() -> None:
    documents = numbered_texts(6, "d")
    queries = Texts(ids=("q", "d3"), texts=("D2", "other"))
    judged = [(0, 0, 2), (0, 1, 2), (0, 4, 1), (1, 0, 2), (1, 5, 2)]
    collection = collection_of(documents, queries, {"train": judged}, min_score=2)
    trials = hide_positives(collection.pairs("train"), collection.never_negative)
    pair, doc = (places.ravel() for places in np.indices((4, 6)))
    known, right = (mask.reshape(4, 6) for mask in (trials.known.mask(pair, doc), trials.right.mask(pair, doc)))
    assert [np.flatnonzero(row).tolist() for row in known] == [[0, 2, 4], [1, 2, 4], [0, 3], [3, 5]]
    assert [np.flatnonzero(row).tolist() for row in right] == [[0, 1], [0, 1], [0, 5], [0, 5]]


def test_copies_are_said_and_recorded_also_where_nothing_can_be_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = copied()
    config = load(overrides=[LEXICAL_ENCODER, "ray=false", "device=cpu"])
    folder = write_plain(tmp_path / "data", plain)
    assert pipeline.audit(folder, tmp_path / "out", config)["rules"] == {}
    said = (
        "24 of 24 judged positives have a copy in the corpus, which is never a negative; 120 documents of all have one"
    )
    assert said in capsys.readouterr().err
    train = plain.judgements["train"]
    more = {(query, f"copy-{doc}"): 1 for query, doc in train} | {(query, "tram-book-0"): 1 for query, _ in train}
    write_plain(folder, replace(plain, judgements=plain.judgements | {"train": train | more}))
    record = pipeline.audit(folder, tmp_path / "out", config)
    assert record["copies"]["positives_with_copy"] == record["copies"]["positives"] == 2 * 24 + 1
    assert record["pairs"] == 2 * 24, "copies are one positive"


def test_the_interval_is_that_of_a_bootstrap_over_queries() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 1.5, size=400)  # queries differ: of some all are hidden, of most none
    chosen = rng.integers(0, 7, size=400)
    hidden = rng.binomial(chosen, rates)
    drawn = rng.integers(0, 400, size=(4000, 400))
    resampled = hidden[drawn].sum(axis=1) / chosen[drawn].sum(axis=1)
    np.testing.assert_allclose(interval(chosen, hidden), np.quantile(resampled, [0.025, 0.975]), atol=0.005)
    low, high = interval(chosen, hidden)
    rate = hidden.sum() / chosen.sum()
    naive = 1.96 * np.sqrt(rate * (1 - rate) / chosen.sum())
    assert high - low > 2.5 * naive  # than if the choices were independent: 2 · naive


def test_the_interval_of_independent_choices_is_wilsons() -> None:
    chosen, hidden = np.ones(50, dtype=np.int64), np.repeat([1, 0], [10, 40])
    assert interval(chosen, hidden) == pytest.approx(
        (0.1124, 0.3304), abs=0.002
    )  # of 10 in 50, from the literature's formula


@pytest.mark.parametrize(
    ("chosen", "hidden", "expected"),
    [
        ([1] * 10, [0] * 10, (0.0, 0.2775)),
        ([5] * 10, [0] * 10, (0.0, 0.2775)),  # five choices of one query may be one and the same
        ([5] * 10, [5] * 10, (0.7225, 1.0)),
        ([4], [1], (0.0146, 0.8821)),  # one query says next to nothing
        ([0, 0], [0, 0], (0.0, 1.0)),
        ([4, 4, 4], [2, 2, 1], (0.1933, 0.6805)),  # more alike than chance: no more than the twelve there are
    ],
)
def test_without_variance_a_query_counts_as_one(
    chosen: list[int], hidden: list[int], expected: tuple[float, float]
) -> None:
    assert interval(np.array(chosen), np.array(hidden)) == pytest.approx(expected, abs=1e-4)


def risk(hidden: float, low: float, high: float, negatives: int = 100) -> Risk:
    facts = {"yield": 1.0, "negatives": negatives, "documents": negatives // 2}
    return {"hidden": hidden, "interval": (low, high), **facts}


def test_the_verdict_follows_the_upper_end_of_the_interval() -> None:
    assert "safe here" in verdict({TWO_CONDITIONS: risk(0.01, 0.005, 0.018)})
    assert "anchors" in verdict({TWO_CONDITIONS: risk(0.08, 0.065, 0.099)})
    assert "anchors" in verdict({TWO_CONDITIONS: risk(0.02, 0.005, 0.07)}), "2 % is not safe if it may be 7 %"
    assert "dangerous" in verdict({TWO_CONDITIONS: risk(0.3, 0.27, 0.33)})
    assert "dangerous" in verdict({TWO_CONDITIONS: risk(0.5, 0.23, 0.77)})
    for few in (risk(0, 0, 0.28), risk(0.125, 0.02, 0.47), risk(0.08, 0.04, 0.15), risk(0, 0, 1, negatives=1)):
        assert "too few to tell" in verdict({TWO_CONDITIONS: few})
    assert verdict({TWO_CONDITIONS: risk(0.3, 0.272, 0.329)}).startswith(
        "Of the two conditions' first negatives, 30.0% (27.2% to 32.9%) are right answers"
    )
    assert "there is none" in verdict({TWO_CONDITIONS: risk(0, 0, 1, negatives=0)})


def test_the_verdict_speaks_of_what_is_configured_too() -> None:
    first, remedy, second = verdict(
        {TWO_CONDITIONS: risk(0.3, 0.27, 0.33), "mine": risk(0, 0, 0.004)}, "mine"
    ).splitlines()
    assert "dangerous" in first
    assert remedy.startswith("No rule that was measured is usable here")
    assert second == "As configured (mine), 0.0% (0.0% to 0.4%) are right answers that were hidden: safe here."


def test_the_table_shows_rate_interval_yield_and_sample() -> None:
    header, row = risk_table({TWO_CONDITIONS: risk(0.3, 0.272, 0.329, negatives=1000)}).splitlines()
    assert header.split("  ")[-1] == "distinct documents"
    assert header.split()[:8] == ["rule", "hidden", "positives", "95", "%", "interval", "yield", "negatives"]
    assert row.split() == ["two", "conditions", "30.0%", "27.2%", "-", "32.9%", "100.0%", "1,000", "500"]
    assert len(header) == len(row)


def test_a_dangerous_set_gets_a_remedy_that_exists() -> None:
    bad = {TWO_CONDITIONS: risk(0.3, 0.27, 0.33), "nearest document": risk(0.02, 0.01, 0.05)}
    good = {"PercPos 0.95": risk(0.02, 0.01, 0.05), "BM25": risk(0.01, 0, 0.02)}
    guarded = {"two conditions, margin 0.02, first_rank 5": risk(0.03, 0.01, 0.08)}
    remedies = {
        "--preset positives": bad,
        "--set select.rule=percpos-0.95": bad | good,
        "--set guards.first_rank=5 --set guards.margin=0.02": bad | good | guarded,
        "--set select.rule=bm25": bad | good | {"PercPos 0.95": risk(0.02, 0.01, 0.05) | {"yield": 0.1}},
    }
    for remedy, risks in remedies.items():
        *_, last = verdict(risks).splitlines()
        assert last.endswith(f"{remedy}.")
        settings = [word for word in remedy.split() if "=" in word]
        assert load(overrides=settings)


@pytest.mark.parametrize(
    ("mined", "said"),
    [
        ({"yield": 0.5, "negatives": 100, "most_that_are_right": 0.04}, "But all seems to be judged here: "),
        ({"yield": 0.004, "negatives": 4, "most_that_are_right": 1.0}, "next to nothing to find"),
        ({"yield": 0.5, "negatives": 100, "most_that_are_right": 1.0}, "No rule that was measured"),
        ({"yield": 0.5, "negatives": 100, "most_that_are_right": 0.4}, "at most 40.0% of those lie to their positive"),
    ],
)
def test_a_set_in_which_all_is_judged_is_not_called_dangerous(mined: dict[str, float], said: str) -> None:
    first, second, *_ = verdict({TWO_CONDITIONS: risk(0.785, 0.75, 0.82)}, mined=mined).splitlines()
    assert "dangerous where several documents are right for a query and few are judged" in first
    assert said in second


def test_a_help_page_of_which_all_is_judged_is_told_from_one_of_which_little_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(letters[rng.integers(26, size=7)]) for _ in range(820)]

    def written(topic: int) -> str:
        own_words = [words[8 * topic + at] for at in rng.integers(8, size=4)]
        return " ".join([*own_words, *(words[at] for at in rng.integers(720, 820, size=3))])

    documents = [(f"d{topic}-{at}", written(topic)) for topic in range(90) for at in range(5)]
    queries = {f"q{topic}-{at}": written(topic) for topic in range(90) for at in range(2)}
    every = {(query, f"d{query[1:].split('-')[0]}-{at}"): 1 for query in queries for at in range(5)}
    few = {pair: 1 for pair in every if rng.random() < 0.4}
    said, config = {}, load(overrides=["encoders=[{name: lexical, lexical: {width: 64}}]", "ray=false", "device=cpu"])
    for name, judged in (("all", every), ("few", few)):
        texts = {doc: ("", text) for doc, text in documents}
        folder = write_plain(tmp_path / name, Plain(texts, queries, {"train": judged}))
        said[name] = pipeline.audit(folder, tmp_path / f"out {name}", config)
    for name, record in said.items():
        assert "dangerous where" in record["verdict"], "hidden positives are taken in both"
        wrong = ("But all seems to be judged here" in record["verdict"]) or ("next to nothing" in record["verdict"])
        assert wrong == (name == "all")
