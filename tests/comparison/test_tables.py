"""The tables of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

from hnmine.comparison.cells import FIRST_STAGE, NO_TRAINING, Cell
from hnmine.comparison.tables import Block, arms_table, comparison_text
from hnmine.ranking.measures import PerQuery
from tests.builders.ranking import ranking_of, task_of_rows


def arm(*means: float) -> list[tuple[Cell, PerQuery]]:
    """Return an arm with so many seeds, each with the same value for all of fifty queries."""
    values = [ranking_of("re-ranker", [mean] * 50).values for mean in means]
    cells = [
        Cell(
            arm="",
            seed=seed,
            learning_rate=1e-5,
            dev_by_rate={"1e-05": 0.5},
            dev_of_start=0.5,
            best_step=1,
            lists=50,
            negatives=50,
            pairs_with_negatives=0.5,
            blended={"MRR@10": mean},
        )
        for seed, mean in enumerate(means)
    ]
    return list(zip(cells, values, strict=True))


def block(label: str = "", hidden: Mapping[str, float] | None = None, **arms: list[tuple[Cell, PerQuery]]) -> Block:
    zero = ranking_of("zero", [0.0] * 50, [0.9] * 50)
    return Block(label=label, references={FIRST_STAGE: zero, NO_TRAINING: zero}, hidden=hidden or {}, arms=arms)


def test_the_table_has_means_over_seeds_and_tests_over_queries():
    lines = arms_table(block(hidden={"good": 0.25}, good=arm(0.5, 0.6), better=arm(0.7))).splitlines()
    assert lines[2].split() == ["no", "fine-tuning", "0.000", "0.000", "0.000", "0.000", "0.900"]
    assert lines[3].split()[:8] == ["better", "0.700", "0.700", "0.700", "0.700", "0.700", "0.000", "50%"]
    assert lines[4].split()[:9] == ["good", "0.550", "0.550", "0.550", "0.550", "0.550", "0.100", "50%", "25.0%"]
    assert "  1e-05  +0.700 (+0.700 to +0.700)" in lines[3]
    assert "  1e-05  +0.550 (+0.550 to +0.550)" in lines[4]
    assert float(lines[4].split()[-1]) < 0.001, "fifty queries of fifty are worse than with the first"


def test_several_blocks_have_a_table_of_all_before_their_own():
    blocks = [block("2 pairs", good=arm(0.5), other=arm(0.2)), block("4 pairs", good=arm(0.6))]
    text = comparison_text(blocks, task_of_rows([[1]] * 50, [{1}] * 50), "run.trec").splitlines()
    assert text[0] == "50 test queries, 1 seed(s)"
    assert "BM25, in a name, is the first stage, here run.trec" in text
    at = next(at for at, line in enumerate(text) if line.split() == ["MRR@10", "2", "pairs", "4", "pairs"])
    assert [line.split()[-2:] for line in text[at + 3 : at + 5]] == [["0.500", "0.600"], ["other", "0.200"]]
    assert at < text.index("2 pairs") < text.index("4 pairs")
    alone = comparison_text([block(good=arm(0.5))], task_of_rows([[1]] * 50, [{1}] * 50), "bm25")
    assert "BM25, in a name" not in alone
    assert alone.count("good") == 1
