"""What an arm is, and the ground that all arms stand on: the same pairs, the ensemble's space, a first stage.

An arm is one way to choose what the re-ranker is trained on. `comparison` trains all of them and `auto` the promising
ones; both ask here for an arm's lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hnmine.arms import choose as arms
from hnmine.arms.rules import GUARDED, MIXTURES, RULES, Rule, about
from hnmine.arms.star import TrainingSet
from hnmine.arms.tuned_encoders import Method, Tuned, start_of
from hnmine.config.base import slug
from hnmine.config.mining import ReduceConfig
from hnmine.config.root import Config
from hnmine.config.training import PRESETS, TAUGHT, Loss
from hnmine.mining.legacy_ensemble import Ensemble, encode
from hnmine.errors import ConfigError
from hnmine.mining.conditions import Known
from hnmine.mining.guards import Agreement, Denoise, Guard, RowScores, Suspects
from hnmine.mining.mine import groups_of_equal_text
from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.splits import Splits
from hnmine.runs.folder import Run
from hnmine.runs.progress import say
from hnmine.training.lessons import Lessons, lessons_if_any
from hnmine.training.lists import Lists, mistakes, training_lists
from hnmine.training.trainer import Bench
from hnmine.training.worker import Recipe
from hnmine.types import Int64, Pairs, Role, Space, Texts, distance, unit_rows

_PAPER = "The two conditions, as in arXiv 2505.18366,"
_TUNED: dict[Method, str] = {
    "STAR": "The nearest to a bi-encoder tuned with static hard and random negatives (arXiv 2104.08051).",
    "ADORE + STAR": "The nearest to STAR's, its query tower then tuned against what it finds (arXiv 2104.08051).",
    "ANCE": "The nearest to a bi-encoder whose hard negatives are found anew every epoch (arXiv 2007.00808).",
}


_JUDGES: dict[str, str] = {"denoise": "denoised", "relabel": "relabelled", "agreement": "agreed"}
Judge = Literal["agreement", "denoise", "relabel", "mistakes"]
_JUDGED = 16  # documents of a pair that a judge is shown, the best first
_FEEDBACK = 3  # documents that a query is expanded by
_MISTAKES = 50  # documents of a pair among which the start's mistakes are looked for


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to choose what is trained on."""

    about: str
    rule: Rule | None = None
    """Chooses negatives of each pair; None: there are none."""
    judge: Judge | None = None
    """Who removes some of these: the single encoders, or the start as a cross-encoder (`guards`); the latter may also
    take those that it removes for positives, or put first what it finds nearly as relevant as the positive."""
    rest: Rule | None = None
    """With a judge: chooses all but the first of those that stay; None: the judge does."""
    encoder: str | None = None
    """In whose own space the rule looks; None: in that of the ensemble."""
    reduce: ReduceConfig | None = None
    """How the ensemble's space is reduced; None: as configured."""
    expanded: bool = False
    """Whether the rule sees queries expanded by what the first stage finds for them."""
    tuned: Method | None = None
    """By which the encoder is tuned first in whose space the rule looks; None: it is not."""
    in_batch: bool = False
    """Whether as many positives of the other pairs of a step are negatives too."""
    loss: Loss | None = None
    """None: the configured one."""
    distillation: Literal["beside", "alone"] | None = None
    """Lessons from first stage and encoders (`distillation`): beside the judged pairs, or instead of them."""
    asked: bool = False
    """Whether it is trained only where it is asked for by name."""

    def of_batch(self, most: int) -> int:
        """Return how many of so many negatives are positives of the other pairs of a step."""
        return 0 if not self.in_batch else most if self.rule is None else most // 2


def known_arms(config: Config) -> dict[str, Arm]:
    """Return every arm by name, in the order of the table; with several encoders the two conditions in each as well."""
    found = {
        "positives only": Arm(about="Each positive by itself, no negative at all.", loss="bce"),
        "in-batch": Arm(about="Positives of the other pairs in the step.", in_batch=True),
    }
    found |= {name: Arm(about=about(rule), rule=rule) for name, rule in (RULES | GUARDED | MIXTURES).items()}
    found["the paper"] = Arm(about=f"{_PAPER} and the margin loss.", rule=RULES["two conditions"], loss="margin")
    found["BM25 and in-batch"] = Arm(about="Half of each.", rule=RULES["BM25"], in_batch=True)
    both, rest = RULES["two conditions"], RULES["random of BM25's first 50"]
    judges: dict[Judge, str] = {
        "denoise": "that the start scores below the positive, then BM25's",
        "relabel": "that the start scores below the positive, then BM25's; others are positives too",
    }
    if len(config.encoders) > 1:
        judges["agreement"] = "that satisfies them in each single encoder's space, then BM25's"
    for judge, what in judges.items():
        name = f"two conditions, {_JUDGES[judge]}, then BM25"
        found[name] = Arm(about=f"The nearest by the two conditions {what}.", rule=both, judge=judge, rest=rest)
    found["mistakes of the start"] = Arm(
        about="Of BM25's first 50 those that the start scores highest, but below the positive.",
        rule=RULES["BM25"],
        judge="mistakes",
    )
    if start_of(config) is not None:
        found |= {name: Arm(about=what, rule=RULES["nearest document"], tuned=name) for name, what in _TUNED.items()}
    if len(config.encoders) > 1:
        for encoder in config.encoders:
            what = f"The two conditions in the space of {encoder.name} alone."
            name = f"two conditions, {encoder.name}"
            name = f"two conditions, encoder {encoder.name}" if name in found else name
            found[name] = Arm(about=what, rule=both, encoder=encoder.name)
    taught = "Lessons from first stage and encoders together"
    found["distillation alone"] = Arm(about=f"{taught}, and no judged pair.", distillation="alone")
    for then in ("random of BM25's first 50", "two conditions, then BM25", "mistakes of the start"):
        arm = found[then]
        found[f"distillation, {then}"] = replace(arm, about=f"{taught}, and: {arm.about}", distillation="beside")
    for variance in (None, 0.99, 0.95, 0.9, 0.8, 0.7):
        what = "X_concat" if variance is None else f"{variance:.0%} of the variance"
        reduce = config.reduce.model_copy(update={"variance": variance, "basis": None})
        about_it = f"The two conditions in {what} (the ablation of Table 6)."
        found[f"two conditions, {what}"] = Arm(about=about_it, rule=both, reduce=reduce, asked=True)
    found["two conditions, expanded queries"] = Arm(
        about="The two conditions for queries expanded by the first 3 of BM25 (Rocchio, in the space; Table 5).",
        rule=both,
        expanded=True,
        asked=True,
    )
    if config.train.loss in TAUGHT:  # its teacher scores lists before training, and these grow in it
        found = {name: arm for name, arm in found.items() if not arm.in_batch}
    return found


def preset_arms(config: Config) -> dict[str, Arm]:
    """Return the arms that `train.presets` names, by the name it has there.

    Raises:
        ConfigError: one is neither a preset nor an arm.
    """
    asked = [name for name in dict.fromkeys(config.train.presets) if name not in PRESETS]
    return dict(zip(asked, named_arms(config, asked, "train.presets", PRESETS).values(), strict=True)) if asked else {}


def named_arms(
    config: Config, names: Sequence[str], setting: str, others: Sequence[str] = ()
) -> dict[str, Arm]:
    """Return the arms of these names, written as on a command line or in full.

    Raises:
        ConfigError: one is not known; `setting` is where it was named, `others` may be meant there too.
    """
    known = known_arms(config)
    name_of = {other: other for other in others} | {slug(name): name for name in known}
    if unknown := [name for name in names if slug(name) not in name_of]:
        near = [name for word in unknown for name in get_close_matches(slug(word), name_of, n=1)]
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"{setting}: {', '.join(unknown)} is not known{meant}; known are: {', '.join(name_of)}")
    found = {name_of[slug(name)]: known[name_of[slug(name)]] for name in names}
    refuse_small_batches(config, found)
    return found


def refuse_small_batches(config: Config, chosen: Mapping[str, Arm]) -> None:
    """Raise ConfigError if a step has fewer pairs than an arm takes negatives from."""
    others = config.train.pairs_per_batch - 1
    for name, arm in chosen.items():
        if (wanted := arm.of_batch(config.compare.negatives)) > others:
            raise ConfigError(
                f"{name} takes {wanted} negatives from the other pairs of a step, of which train.pairs_per_batch="
                f"{others + 1} leaves {others}; raise it, lower compare.negatives={config.compare.negatives}, or name "
                "other arms"
            )


class Ground:
    """The pairs of a bench, their spaces and their first stage; the lists that each arm makes of them."""

    def __init__(
        self,
        bench: Bench,
        start: Path,
        splits: Splits,
        config: Config,
        run: Run,
    ) -> None:
        """Encode what the store does not have of the documents and the train queries."""
        self._bench, self._splits, self._config, self._run = bench, splits, config, run
        self.start = start
        """The re-ranker that all arms begin with, and the judge of some."""
        self._lessons: Lessons | None = None
        self._asked = False
        pairs = bench.pairs
        rows, at = np.unique(pairs.query_rows_P, return_inverse=True)
        self._rows: Int64 = rows
        self.pairs = Pairs(query_rows_P=at.astype(np.int64), doc_rows_P=pairs.doc_rows_P)
        """The bench's, with rows of the space's queries."""
        texts: dict[Role, Texts] = {"document": bench.documents, "query": bench.queries.take(rows.tolist())}
        self._encoders = [encoder.name for encoder in config.encoders]
        self._ensemble: Ensemble = encode(texts, config, run)
        self._singles: list[Space] | None = None
        first = splits.first_stage(pairs.query_rows_P)
        self.first_QK: Int64 = np.stack([first[row][0] for row in rows.tolist()])
        self.groups_N = groups_of_equal_text(bench.documents)
        self.judged = {at: bench.positives[row] for at, row in enumerate(rows.tolist())}
        """What is never a negative of a query of the space."""
        self._tuned: tuple[int, Tuned] | None = None

    def lessons(self) -> Lessons | None:
        """Return the lessons, made once; None where there are none."""
        if not self._asked:
            self._asked = True
            self._lessons = lessons_if_any(self._bench, self._splits, self._config, self._run)
        return self._lessons

    def space(self, arm: Arm, seed: int, pairs: Pairs) -> Space:
        """Return the space in which the arm's rule looks; if its encoder is tuned, it is on these pairs."""
        if arm.tuned is not None:
            return self._tuned_on(pairs).space(arm.tuned, seed)
        if arm.encoder is not None:
            return self._single_spaces()[self._encoders.index(arm.encoder)]
        space = self._ensemble.space if arm.reduce is None else self._ensemble.reduced(arm.reduce)
        return self._expanded(space) if arm.expanded else space

    def _expanded(self, space: Space) -> Space:
        """Add to each query the mean of what the first stage finds first for it (Rocchio's feedback without judges)."""
        first_QF = self.first_QK[:, :_FEEDBACK]
        found_QF = first_QF != NO_ROW
        mean_QR = (space.docs_NR[first_QF] * found_QF[:, :, None]).sum(1) / np.maximum(found_QF.sum(1), 1)[:, None]
        return replace(space, queries_QR=unit_rows(space.queries_QR + mean_QR.astype(np.float32)))

    def _single_spaces(self) -> list[Space]:
        self._singles = self._singles or self._ensemble.single_spaces()
        return self._singles

    def _tuned_on(self, pairs: Pairs) -> Tuned:
        """Return the encoders tuned on these pairs: all, or of those that are fewer the only ones of this number."""
        if self._tuned is None or self._tuned[0] != len(pairs):
            queries = self._bench.queries.take(self._rows.tolist())
            given = TrainingSet(documents=self._bench.documents, queries=queries, pairs=pairs, known=self.judged)
            own = "" if len(pairs) == len(self.pairs) else f"-{len(pairs)}"
            self._tuned = len(pairs), Tuned(given, self._config, self._run, own)
        return self._tuned[1]

    def lists(
        self, arm: Arm, seed: int, at: Int64 | None = None, share: float = 1.0
    ) -> tuple[Lists, Recipe, dict[str, Any]]:
        """Return what the arm trains on, how, and how many negatives it has chosen of what share of the pairs.

        Of the pairs only those at the positions `at`; None: all. Of the lessons, where the arm has any, this share.
        """
        lists, recipe, facts = self._of_pairs(arm, seed, np.arange(len(self._bench.pairs)) if at is None else at)
        if arm.distillation is None:
            return lists, recipe, facts
        taught, nothing = self.lessons(), Lists(queries=(), documents=())
        if taught is None or not len(lists):
            return nothing, recipe, facts
        own = nothing if arm.distillation == "alone" else lists
        return own.with_lessons(taught.lists, share), recipe, facts

    def _of_pairs(self, arm: Arm, seed: int, at: Int64) -> tuple[Lists, Recipe, dict[str, Any]]:
        bench, most = self._bench, self._config.compare.negatives
        in_batch = arm.of_batch(most)
        judged = [self._bench.positives[query] for query in bench.pairs.query_rows_P[at].tolist()]
        known = Known.of(judged, self.groups_N)
        chosen, relabelled = self.negatives(arm, most - in_batch, seed, self.pairs.take(at), known)
        pairs, negatives = bench.pairs.take(at), [*chosen]
        if any(relabelled):
            pairs, negatives = _with_relabelled(pairs, chosen, relabelled)
        lists = training_lists(
            bench.documents,
            bench.queries,
            pairs,
            negatives,
            [[] for _ in negatives],
            bare=arm.rule is None or in_batch > 0,
            positives=bench.positives if in_batch else None,
        )
        recipe = replace(bench.recipe, seed=seed, in_batch_negatives=in_batch, loss=arm.loss or bench.recipe.loss)
        facts = {
            "negatives": sum(map(len, negatives)),
            "pairs_with_negatives": sum(1 for rows in chosen if rows) / len(chosen),
        }
        return lists, recipe, facts

    def negatives(
        self, arm: Arm, count: int, seed: int, pairs: Pairs, known: Known, *, each_alone: bool = False
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Choose up to `count` document rows of each pair, and those that are relabelled as its positives.

        Args:
            arm: whose rule and judge choose.
            count: negatives wanted of a pair.
            seed: of the rules that draw.
            pairs: with rows of the space's queries, as `self.pairs`.
            known: what is excluded, by position in `pairs`; their own positives among it.
            each_alone: whether a pair knows nothing of what is relabelled for others of its question, as in an audit.
        """
        nothing: list[list[int]] = [[] for _ in range(len(pairs))]
        if arm.rule is None:
            return nothing, nothing

        def choose(rule: Rule, most: int) -> list[list[int]]:
            space, first_QK = self.space(arm, seed, pairs), self.first_QK
            found = arms.choose(space, pairs, known, {"": rule}, count=most, seed=seed, first_QK=first_QK)
            return [[row for row in rows if row != NO_ROW] for rows in found[""].tolist()]

        if arm.judge is None:
            return choose(arm.rule, count), nothing
        if arm.judge == "mistakes":
            return mistakes(self._asked_of(pairs), choose(arm.rule, _MISTAKES), self._start_scores, count), nothing
        stays, falls = self._judged(arm, seed, pairs, choose(arm.rule, _JUDGED))
        right = [rows[:1] if arm.judge == "relabel" else [] for rows in falls]
        texts = self._bench.queries.texts
        rows_P = self._asked_of(pairs).query_rows_P.tolist()
        questions: list[str | int] = [*range(len(pairs))] if each_alone else [texts[row] for row in rows_P]
        of_question: dict[str | int, set[int]] = {}
        for question, rows in zip(questions, right, strict=True):
            of_question.setdefault(question, set()).update(rows)  # what is right for a pair of it is wrong for none
        assert arm.rest is not None
        others = choose(arm.rest, count + 1 + max(map(len, of_question.values()), default=0))
        chosen = []
        for question, mined, rest in zip(questions, stays, others, strict=True):
            first = [row for row in mined if row not in of_question[question]][:1]
            rest = [row for row in rest if row not in first and row not in of_question[question]]
            chosen.append([*first, *rest][:count])
        return chosen, right

    def _judged(
        self, arm: Arm, seed: int, pairs: Pairs, near: list[list[int]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Return of the documents `near` to each pair those that the arm's judge keeps, and the others."""
        flat = [(pair, row) for pair, rows in enumerate(near) for row in rows]
        pair_F, doc_F = np.array(flat, dtype=np.int64).reshape(-1, 2).T
        judge: Guard
        if arm.judge == "agreement":
            judge, own = Agreement(spaces=self._single_spaces(), least=len(self._encoders)), pairs
        else:
            judge, own = Denoise(scores=self._start_scores, margin=0.0, most=None), self._asked_of(pairs)
        space, local_F, positive_F = self.space(arm, seed, pairs), pairs.query_rows_P[pair_F], pairs.doc_rows_P[pair_F]
        queries, docs, positives = space.queries_QR[local_F], space.docs_NR[doc_F], space.docs_NR[positive_F]
        suspects = Suspects(
            query_rows_F=own.query_rows_P[pair_F],
            positive_rows_F=positive_F,
            doc_rows_F=doc_F,
            d_query_F=distance(queries, docs),
            d_positive_F=distance(positives, docs),
            radius_F=distance(queries, positives),
            rank_F=np.ones(len(doc_F), dtype=np.int64),  # no judge asks for it
        )
        stays: list[list[int]] = [[] for _ in near]
        falls: list[list[int]] = [[] for _ in near]
        for (pair, row), keeps in zip(flat, judge.keep(suspects).tolist(), strict=True):
            (stays if keeps else falls)[pair].append(row)
        return stays, falls

    def _asked_of(self, pairs: Pairs) -> Pairs:
        """Return the pairs with rows of all queries, by which a cross-encoder knows them."""
        return replace(pairs, query_rows_P=self._rows[pairs.query_rows_P])

    @cached_property
    def _start_scores(self) -> RowScores:
        return self._bench.scores_of(self.start)


def _with_relabelled(
    pairs: Pairs, negatives: list[list[int]], relabelled: list[list[int]]
) -> tuple[Pairs, list[list[int]]]:
    """Add a pair for every document that is a positive now, with the negatives of its pair."""
    more = [(at, row) for at, rows in enumerate(relabelled) for row in rows]
    at_R, doc_R = np.array(more, dtype=np.int64).T
    both = Pairs(
        query_rows_P=np.concatenate([pairs.query_rows_P, pairs.query_rows_P[at_R]]),
        doc_rows_P=np.concatenate([pairs.doc_rows_P, doc_R]),
    )
    return both, [*negatives, *(negatives[at] for at, _ in more)]
