"""From an arm to training lists: the one place where it is decided what a re-ranker is trained on."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.arms.arm import NEGATIVES, Arm, trainable_encoder
from hnmine.arms.choose import choose_negatives
from hnmine.arms.judges import agreed, denoised, mistakes
from hnmine.arms.mined import Mined
from hnmine.arms.rules import Rule
from hnmine.arms.spaces import Spaces
from hnmine.arms.star import TrainingSet
from hnmine.arms.trained_encoders import TrainedEncoders, encode_by
from hnmine.config.root import Config
from hnmine.embedding.ensemble import Ensemble
from hnmine.embedding.score_store import ScoreStore
from hnmine.errors import DataError
from hnmine.mining.conditions import Known
from hnmine.mining.mine import groups_of_equal_text
from hnmine.models.reranker import load_reranker
from hnmine.ranking.splits import FIRST_DOCUMENTS, Splits
from hnmine.runs.device import choose_device
from hnmine.runs.progress import say, track
from hnmine.training.lessons import Lessons, make_lessons
from hnmine.training.lists import Lists, first_stage_negatives, training_lists
from hnmine.training.recipe import Recipe
from hnmine.training.trainer import Trainer
from hnmine.types import NO_ROW, Float64, Int64, Pairs, Score, Space

JUDGED_DOCUMENTS = 16
"""Documents that a rule shows a judge, the best first."""
MARGIN_RATE = 0.2
"""Of the default learning rate, for the margin loss: larger steps made re-rankers worse (`benchmarks/LOG.md`)."""
_NOTHING = Lists(queries=(), documents=())


class ListMaker:
    """Turns arms into lists of one trainer's data. What rules and judges need is made when the first asks for it."""

    def __init__(
        self, trainer: Trainer, start: Path, splits: Splits, ensemble: Ensemble, config: Config, mined: Mined
    ) -> None:
        """Take what the arms choose from.

        Args:
            trainer: lists are made of its data.
            start: the re-ranker that all arms begin with, and the judge of some.
            splits: those that the trainer's data come from.
            ensemble: the encoders.
            config: the sections `encoders`, `embed`, `reduce`, `train` and `evaluate` are read.
            mined: the negatives of the run (`read_mined`); empty if no arm needs them.
        """
        self._trainer, self._start, self._splits = trainer, start, splits
        self._ensemble, self._config, self._mined = ensemble, config, mined
        data = trainer.data
        self.query_rows, self.pairs = data.pairs.renumbered()
        """Rows of the queries of the train pairs, and the pairs on positions in these, which are the spaces' rows."""
        first = splits.first_stage(data.pairs.query_rows_P)
        self.first_QK: Int64 = np.stack([first[row][0] for row in self.query_rows.tolist()])
        """The first stage's documents of these queries."""
        self.groups_N = groups_of_equal_text(data.documents)
        self.never_negative = {at: data.never_negative[row] for at, row in enumerate(self.query_rows.tolist())}
        """By position of the query, the document rows that are no negatives."""
        self._encoders: tuple[int, TrainedEncoders] | None = None  # and of how many pairs they are

    def lists(self, arm: Arm, seed: int, positions: Int64 | None = None) -> tuple[Lists, Recipe, dict[str, Any]]:
        """Return what the arm trains on, and how; and the number of its negatives, and the share of pairs with any.

        Args:
            arm: one with mined negatives needs those of the run.
            seed: of all draws.
            positions: of the pairs that are used; None: all.
        """
        lists, recipe, facts = self._judged_lists(arm, seed, positions)
        if arm.lessons is None or not len(lists):
            return lists, recipe, facts
        if self.lessons is None:
            return (lists if arm.lessons == "if any" else _NOTHING), recipe, facts
        judged = _NOTHING if arm.lessons == "alone" else lists
        return judged.with_lessons(self.lessons.lists), recipe, facts

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

    def _judged_lists(self, arm: Arm, seed: int, positions: Int64 | None) -> tuple[Lists, Recipe, dict[str, Any]]:
        """Return the lists of the judged pairs; see `lists`."""
        data = self._trainer.data
        chosen = np.arange(len(data.pairs)) if positions is None else positions
        pairs, in_batch = data.pairs.take(chosen), arm.in_batch_negatives
        # Choose the negatives.
        if arm.mined:
            negatives = [self._mined_negatives(arm, seed)[position] for position in chosen.tolist()]
        else:
            known = Known([data.never_negative[query] for query in pairs.query_rows_P.tolist()], self.groups_N)
            negatives = self.negatives(arm, NEGATIVES - in_batch, seed, self.pairs.take(chosen), known)
        # Put the lists together.
        lists = training_lists(
            data.documents,
            data.queries,
            pairs,
            negatives,
            bare=not arm.mined and (arm.rule is None or in_batch > 0),
            positives=data.never_negative if in_batch else None,
        )
        # Change the recipe where the arm wants it.
        recipe = self._trainer.recipe
        by_default = self._trainer.settings.learning_rate is None
        recipe = replace(
            recipe,
            seed=seed,
            in_batch_negatives=in_batch,
            loss=arm.loss or recipe.loss,
            learning_rate=recipe.learning_rate * (MARGIN_RATE if arm.loss == "margin" and by_default else 1),
        )
        share = sum(1 for rows in negatives if rows) / len(negatives)
        return lists, recipe, {"negatives": sum(map(len, negatives)), "pairs_with_negatives": share}

    def _mined_negatives(self, arm: Arm, seed: int) -> list[list[int]]:
        """Return of every train pair the negatives of the run, and behind them the anchors, if the arm has any."""
        data = self._trainer.data
        keys = zip(data.pairs.query_rows_P.tolist(), data.pairs.doc_rows_P.tolist(), strict=True)
        mined = [self._mined.get(key, []) for key in keys]
        count = self._trainer.settings.anchors
        if not arm.anchored or not count:
            return mined
        documents = dict(zip(self.query_rows.tolist(), self.first_QK[:, :FIRST_DOCUMENTS], strict=True))
        anchors = first_stage_negatives(data.pairs, data.never_negative, documents, count, seed)
        return [[*dict.fromkeys([*hard, *easy])] for hard, easy in zip(mined, anchors, strict=True)]

    def negatives(self, arm: Arm, count: int, seed: int, pairs: Pairs, known: Known) -> list[list[int]]:
        """Return up to `count` document rows for each pair, by the arm's rule and judge.

        Args:
            arm: one without mined negatives.
            count: negatives wanted of a pair.
            seed: of the rules that draw.
            pairs: on positions of queries, as `self.pairs`.
            known: what is excluded, by position in `pairs`; their own positives among it.
        """
        if arm.rule is None:
            return [[] for _ in range(len(pairs))]

        def by_rule(rule: Rule, most: int) -> list[list[int]]:
            space, first_QK = self.space(arm, seed, pairs), self.first_QK
            found = choose_negatives(space, pairs, known, {"": rule}, count=most, seed=seed, first_QK=first_QK)
            return [[row for row in rows if row != NO_ROW] for rows in found[""].tolist()]

        # Choose by the rule alone, or let the start choose its mistakes.
        if arm.judge is None:
            return by_rule(arm.rule, count)
        asked = replace(pairs, query_rows_P=self.query_rows[pairs.query_rows_P])  # rows by which texts are found
        if arm.judge == "mistakes":
            return mistakes(asked, by_rule(arm.rule, FIRST_DOCUMENTS), self._start_scores, count)
        # Let the judge choose the first, and another rule the rest.
        near = by_rule(arm.rule, JUDGED_DOCUMENTS)
        if arm.judge == "agreement":
            kept = agreed(pairs, near, self.spaces.single)
        else:
            kept = denoised(asked, near, self._start_scores)
        assert arm.rest is not None
        rest = by_rule(arm.rest, count + 1)
        return [[*dict.fromkeys([*rows[:1], *others])][:count] for rows, others in zip(kept, rest, strict=True)]

    def space(self, arm: Arm, seed: int, pairs: Pairs) -> Space:
        """Return the space in which the arm's rule looks; an encoder that is trained for it is trained on `pairs`."""
        if arm.method is None:
            return self.spaces.of_arm(arm)
        return self._trained_on(pairs).space(arm.method, seed)

    @cached_property
    def spaces(self) -> Spaces:
        """The spaces of the encoders as they are."""
        config, queries = self._config, self._trainer.data.queries.take(self.query_rows)
        return Spaces(self._ensemble, queries, config.reduce, device=config.device, seed=config.seed)

    def _trained_on(self, pairs: Pairs) -> TrainedEncoders:
        """Return the encoders that are trained on these pairs: the last ones, if they were as many."""
        data, config, trainer = self._trainer.data, self._config, self._trainer
        if self._encoders is None or self._encoders[0] != len(pairs):
            start = trainable_encoder(config.encoders)
            assert start is not None
            encoders = TrainedEncoders(
                start,
                TrainingSet(
                    documents=data.documents,
                    queries=data.queries.take(self.query_rows),
                    pairs=pairs,
                    known=self.never_negative,
                ),
                trainer.recipe,
                trainer.run,
                encode=encode_by(config, config.embed.store or trainer.run.out / "store"),
                search_device=choose_device(config.device, needs="faiss-gpu"),
                suffix="" if len(pairs) == len(self.pairs) else f"-{len(pairs)}",
            )
            self._encoders = len(pairs), encoders
        return self._encoders[1]

    @cached_property
    def _store_of_start(self) -> ScoreStore:
        recipe, start = self._trainer.recipe, self._start
        settings: dict[str, Any] = {name: getattr(recipe, name) for name in ("max_tokens", "dtype", "engine")}

        def load() -> Score:
            return load_reranker(recipe.kind, start, device=recipe.device, **settings).scores

        return ScoreStore(self._trainer.run.out / "scored", start, [recipe.kind, settings], load)

    def _start_scores(self, query_rows_F: Int64, doc_rows_F: Int64) -> Float64:
        """Return how relevant the start finds documents, by rows; what it has scored is kept in the run."""
        data, name = self._trainer.data, self._start.name
        with track("train", f"judged by {name}", len(query_rows_F), "documents") as progress:
            return self._store_of_start.scores_of_rows(
                data.queries, query_rows_F, data.documents, doc_rows_F, progress.advance
            )
