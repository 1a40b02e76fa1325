"""From an arm to training lists: the one place where it is decided what a re-ranker is trained on."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnmine.arms.arm import NEGATIVES, Arm
from hnmine.arms.choose import agreed, choose_negatives, denoised
from hnmine.arms.encoder_training import TrainingSet
from hnmine.arms.rules import Rule, of_first_stage
from hnmine.arms.trained_encoders import TrainedEncoders
from hnmine.embedding.ensemble import Ensemble
from hnmine.embedding.score_store import ScoreStore
from hnmine.errors import DataError
from hnmine.mining.conditions import Known
from hnmine.mining.guards import RowScores
from hnmine.mining.mine import choose_basis
from hnmine.mining.pca import Fused, project_space, single_spaces
from hnmine.models.reranker import load_reranker
from hnmine.ranking.splits import FIRST_DOCUMENTS, Splits
from hnmine.runs.folder import Run
from hnmine.runs.progress import say, track
from hnmine.training.gradient import Recipe
from hnmine.training.lessons import Lessons, make_lessons
from hnmine.training.lists import Lists, TrainingData, first_stage_negatives, training_lists
from hnmine.training.trainer import Trainer
from hnmine.types import NO_ROW, Float64, Int64, Pairs, Score, Space

JUDGED_DOCUMENTS = 16
"""Documents that a rule shows a judge, the best first."""
MARGIN_RATE = 0.2
"""Of the default learning rate, for the margin loss: larger steps made re-rankers worse (`benchmarks/LOG.md`)."""
Mined = dict[tuple[int, int], list[int]]
"""Negatives' document rows by (query row, positive's document row), nearest first."""


def read_mined(run: Run, data: TrainingData) -> Mined:
    """Read the negatives that `hnmine mine` left in a run, without those that may be none by what is judged now.

    Raises:
        DataError: there are none, or they cannot be read, or are of other data.
    """
    # Read the ids, nearest first.
    run.require_mined()
    path = run.out / "negatives.parquet"
    try:
        rows = pq.read_table(path).select(["query_id", "positive_id", "negative_id", "rank"]).to_pylist()
        rows.sort(key=lambda row: row["rank"])
    except (OSError, ValueError, TypeError, KeyError) as error:  # Arrow's errors are children of these
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); run `hnmine mine` again") from None
    # Turn them into rows.
    documents, queries = data.documents.row_of, data.queries.row_of
    mined: Mined = {}
    try:
        for row in rows:
            key = queries[row["query_id"]], documents[row["positive_id"]]
            mined.setdefault(key, []).append(documents[row["negative_id"]])
    except KeyError as error:
        raise DataError(f"{path} names {error}, which --data does not have; mine again from this data") from None
    never = data.never_negative
    return {key: [row for row in rows if row not in never.get(key[0], ())] for key, rows in mined.items()}


class ListMaker:
    """Turns arms into lists of one trainer's data. What rules and judges need is made when the first asks for it."""

    def __init__(self, trainer: Trainer, start: Path, splits: Splits, ensemble: Ensemble, mined: Mined) -> None:
        """Take what the arms choose from.

        `start` is the re-ranker that all arms begin with, and the judge of some; `splits` those that the trainer's data
        come from; `mined` the negatives of the run (`read_mined`), empty if no arm needs them.
        """
        self._trainer, self._start, self._splits = trainer, start, splits
        self._ensemble, self._config, self._mined = ensemble, trainer.config, mined
        data = trainer.data
        self.query_rows, self.pairs = data.pairs.renumbered()
        """Rows of the queries of the train pairs, and the pairs on positions in these, which are the spaces' rows."""
        self.first_QK, _ = splits.first_stage(self.query_rows)
        """The first stage's documents of these queries."""
        self.groups_N = data.never_negative.groups_N
        self.never_negative_by_position = {
            at: data.never_negative[row] for at, row in enumerate(self.query_rows.tolist())
        }
        """By position of the query, the document rows that are no negatives."""
        self._reduced = cache(self._reduce)

    def lists(self, arm: Arm, seed: int, positions: Int64 | None = None) -> tuple[Lists, Recipe, dict[str, Any]]:
        """Return what the arm trains on, and how; and how many negatives, how many documents these are, pairs with any.

        `positions` are those of the pairs that are used; None: all. The seed is that of all draws.
        """
        data, recipe, in_batch = self._trainer.data, self._trainer.recipe, arm.in_batch_negatives
        chosen = np.arange(len(data.pairs)) if positions is None else positions
        pairs = data.pairs.take(chosen)
        # Choose the negatives.
        if arm.mined:
            mined = self._mined_negatives(arm, seed)
            negatives = [mined[position] for position in chosen.tolist()]
        else:
            known = Known(
                [data.never_negative.without_copies(row) for row in pairs.query_rows_P.tolist()], self.groups_N
            )
            negatives = self.negatives(arm, NEGATIVES - in_batch, seed, self.pairs.take(chosen), known)
        # Put the lists together, and the lessons beside them.
        lists = training_lists(
            data.documents,
            data.queries,
            pairs,
            negatives,
            bare=not arm.mined and (arm.rule is None or in_batch > 0),
            never_negative=data.never_negative if in_batch else None,
        )
        if arm.lessons is not None and lists and self.lessons is not None:
            lists = (() if arm.lessons == "alone" else lists) + self.lessons.lists
        elif arm.lessons in ("alone", "beside"):
            lists = ()
        # Change the recipe where the arm wants it.
        smaller = arm.loss == "margin" and self._config.train.learning_rate is None
        recipe = replace(
            recipe,
            seed=seed,
            in_batch_negatives=in_batch,
            loss=arm.loss or recipe.loss,
            learning_rate=recipe.learning_rate * (MARGIN_RATE if smaller else 1),
        )
        share = sum(map(bool, negatives)) / len(negatives)
        distinct = len({doc for docs in negatives for doc in docs})
        facts = {"negatives": sum(map(len, negatives)), "documents": distinct, "pairs_with_negatives": share}
        return lists, recipe, facts

    @cached_property
    def lessons(self) -> Lessons | None:
        """The lessons; None where nobody can teach any, which is said."""
        config = self._config
        try:
            return make_lessons(
                self._trainer.data,
                self._splits,
                self._ensemble,
                count=config.train.lessons,
                scale=self._trainer.recipe.scale,
                seed=config.seed,
                judged_only=config.evaluate.first_stage != "bm25" or any(each.precomputed for each in config.encoders),
            )
        except DataError as error:
            say("train", str(error), level="warning")
            return None

    def _mined_negatives(self, arm: Arm, seed: int) -> list[list[int]]:
        """Return of every train pair the negatives of the run, and behind them the anchors, if the arm has any."""
        data, count = self._trainer.data, self._config.train.anchors
        keys = zip(data.pairs.query_rows_P.tolist(), data.pairs.doc_rows_P.tolist(), strict=True)
        mined = [self._mined.get(key, []) for key in keys]
        if not arm.anchored or not count:
            return mined
        documents = dict(zip(self.query_rows.tolist(), self.first_QK[:, :FIRST_DOCUMENTS], strict=True))
        anchors = first_stage_negatives(data.pairs, data.never_negative, documents, count, seed)
        return [[*dict.fromkeys([*hard, *easy])] for hard, easy in zip(mined, anchors, strict=True)]

    def negatives(self, arm: Arm, count: int, seed: int, pairs: Pairs, known: Known) -> list[list[int]]:
        """Return up to `count` document rows for each pair, by the rule and judge of an arm without mined negatives.

        The pairs are on positions of queries, as `self.pairs`; `known` is what is excluded, by position in `pairs`,
        their own positives among it.
        """
        if arm.rule is None:
            return [[] for _ in range(len(pairs))]
        space = self.space(arm, seed, pairs)

        def by_rule(rule: Rule, most: int) -> list[list[int]]:
            found = choose_negatives(space, pairs, known, {"": rule}, count=most, seed=seed, first_QK=self.first_QK)
            return [[row for row in rows if row != NO_ROW] for rows in found[""].tolist()]

        # Choose by the rule alone, or let the start choose its mistakes.
        if arm.judge is None:
            return by_rule(arm.rule, count)
        if arm.judge == "mistakes":
            first = by_rule(arm.rule, FIRST_DOCUMENTS)
            return [rows[:count] for rows in denoised(pairs, first, self._start_scores, highest_first=True)]
        # Let the judge choose the first, and BM25 the rest.
        near = by_rule(arm.rule, JUDGED_DOCUMENTS)
        if arm.judge == "agreement":
            kept = agreed(pairs, near, self.single_spaces)
        else:
            kept = denoised(pairs, near, self._start_scores)
        rest = by_rule(of_first_stage, count + 1)
        return [[*dict.fromkeys([*rows[:1], *others])][:count] for rows, others in zip(kept, rest, strict=True)]

    def space(self, arm: Arm, seed: int, pairs: Pairs) -> Space:
        """Return the space in which the arm's rule looks; an encoder that is trained for it is trained on `pairs`."""
        if arm.encoder is not None:
            return self.single_spaces[self._ensemble.names.index(arm.encoder)]
        if arm.method is None:
            return self._reduced(arm.variance)
        data, trainer = self._trainer.data, self._trainer
        queries = data.queries.take(self.query_rows)
        given = TrainingSet(
            documents=data.documents, queries=queries, pairs=pairs, known=self.never_negative_by_position
        )
        suffix = "" if len(pairs) == len(self.pairs) else f"-{len(pairs)}"
        return TrainedEncoders(given, trainer.recipe, self._config, trainer.run, suffix).space(arm.method, seed)

    @cached_property
    def _fused(self) -> Fused:
        queries = self._trainer.data.queries.take(self.query_rows)
        return Fused(encoders=self._ensemble.vectors(queries), weights=self._ensemble.weights)

    @cached_property
    def single_spaces(self) -> list[Space]:
        """Each encoder's own space of the documents and the train queries."""
        return single_spaces(self._fused)

    def _reduce(self, variance: float | str | None) -> Space:
        """Return the ensemble's space with this share of the variance, or as configured; None: not reduced."""
        config = self._config
        reduce = config.reduce
        if variance != "configured":
            reduce = reduce.model_copy(update={"variance": variance, "basis": None})
        return project_space(self._fused, choose_basis(self._fused, reduce, device=config.device, seed=config.seed))

    @cached_property
    def _start_scores(self) -> RowScores:
        """Maps positions of train queries and document rows to what the start scores them; the run keeps its scores."""
        data, recipe, start = self._trainer.data, self._trainer.recipe, self._start
        settings: dict[str, Any] = {name: getattr(recipe, name) for name in ("max_tokens", "dtype", "engine")}

        def load() -> Score:
            return load_reranker(recipe.kind, start, device=recipe.device, **settings).raw_scores

        store = ScoreStore(self._trainer.run.out / "scored", start, [recipe.kind, settings], load)

        def scores(positions_F: Int64, doc_rows_F: Int64) -> Float64:
            query_rows_F = self.query_rows[positions_F]
            with track("train", f"judged by {start.name}", len(positions_F), "documents") as progress:
                return store.scores_of_rows(data.queries, query_rows_F, data.documents, doc_rows_F, progress.advance)

        return scores
