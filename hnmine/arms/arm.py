"""What an arm is, and every arm by name.

An arm is one way to choose what a re-ranker is trained on. `hnmine train` trains the arms that train.presets names, and
`hnmine compare` puts them side by side; `list_maker` turns an arm into training lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from hnmine.arms.rules import GUARDED, MIXTURES, RULES, Rule, about, first_stage, nearest, two_conditions
from hnmine.config.base import slug
from hnmine.config.encoders import EncoderConfig
from hnmine.config.root import Config
from hnmine.config.training import TAUGHT, Loss
from hnmine.errors import ConfigError

NEGATIVES = 4
"""Negatives that an arm chooses for a pair, so that all arms have as many."""

Judge = Literal["agreement", "denoise", "mistakes"]
"""Who judges what a rule has chosen: the single encoders, or the start as a cross-encoder (`choose`)."""
Method = Literal["STAR", "ADORE + STAR", "ANCE"]
"""How an encoder is trained in whose space an arm looks (`trained_encoders`)."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to choose what a re-ranker is trained on."""

    about: str
    """One line for listings."""
    mined: bool = False
    """Whether the negatives are those that `hnmine mine` left in the run."""
    anchored: bool = False
    """Whether easier ones stand beside the mined, drawn from the first stage: train.anchors a pair."""
    rule: Rule | None = None
    """Chooses negatives of each pair; None: no rule does."""
    judge: Judge | None = None
    """Chooses among the rule's: `mistakes` all negatives, the others the first, beside random ones of BM25's."""
    encoder: str | None = None
    """In whose own space the rule looks; None: in that of the ensemble."""
    variance: float | Literal["configured"] | None = "configured"
    """The share of the variance that the ensemble's space keeps; None: it is not reduced."""
    method: Method | None = None
    """How the encoder is trained first in whose space the rule looks; None: it is not."""
    in_batch: bool = False
    """Whether positives of the other pairs of a step are negatives too."""
    loss: Loss | None = None
    """None: the configured one."""
    lessons: Literal["beside", "alone", "if any"] | None = None
    """Lessons from first stage and encoders (`training.lessons`): beside the judged pairs, or instead of them. Where
    there are none, the arm has nothing to train on, unless it wants them only if there are any."""

    @property
    def only_named(self) -> bool:
        """Whether `hnmine compare` trains it only where it is asked for by name."""
        return self.mined or self.variance != "configured"

    @property
    def in_batch_negatives(self) -> int:
        """Negatives of a pair that are positives of the other pairs of its step."""
        if not self.in_batch:
            return 0
        return NEGATIVES if self.rule is None else NEGATIVES // 2


_ANCHORED = "The mined negatives and, beside each, easier ones of the first stage (train.anchors)"
_METHODS: dict[Method, str] = {
    "STAR": "The nearest to a bi-encoder trained with static hard and random negatives (arXiv 2104.08051).",
    "ADORE + STAR": "The nearest to STAR's, its query tower then trained against what it finds (arXiv 2104.08051).",
    "ANCE": "The nearest to a bi-encoder whose hard negatives are found anew every epoch (arXiv 2007.00808).",
}
_DENOISED = "The nearest by the two conditions that the start scores below the positive, then BM25's."
_AGREED = "The nearest by the two conditions that satisfies them in each single encoder's space, then BM25's."
_MISTAKES = "Of BM25's first 50 those that the start scores highest, but below the positive."
_LESSONS = "Lessons from first stage and encoders together"

AGREED = "two conditions, agreed, then BM25"
"""An arm that needs several encoders."""
ARMS = {
    "distilled": Arm(about=f"{_ANCHORED}, with lessons if there are any.", mined=True, anchored=True, lessons="if any"),
    "anchored": Arm(about=f"{_ANCHORED}.", mined=True, anchored=True),
    "paper": Arm(
        about="The mined negatives alone (select.negatives) and the margin loss, as in arXiv 2505.18366.",
        mined=True,
        loss="margin",
    ),
    "positives": Arm(about="Each positive by itself, no negative at all.", loss="bce"),
    "in-batch": Arm(about="Positives of the other pairs in the step.", in_batch=True),
    **{name: Arm(about=about(rule), rule=rule) for name, rule in (RULES | GUARDED | MIXTURES).items()},
    "the paper": Arm(
        about="As paper, but with as many negatives as any other way, whatever was mined.",
        rule=two_conditions,
        loss="margin",
    ),
    "BM25 and in-batch": Arm(about="Half of each.", rule=first_stage, in_batch=True),
    "two conditions, denoised, then BM25": Arm(about=_DENOISED, rule=two_conditions, judge="denoise"),
    AGREED: Arm(about=_AGREED, rule=two_conditions, judge="agreement"),
    "mistakes of the start": Arm(about=_MISTAKES, rule=first_stage, judge="mistakes"),
}
"""The arms of every configuration; the first three take what `hnmine mine` left in the run."""


def trainable_encoder(encoders: Sequence[EncoderConfig]) -> EncoderConfig | None:
    """Return the encoder that STAR, ADORE and ANCE begin with: the first model without adapters and chosen heads."""
    for encoder in encoders:
        if encoder.model and not (encoder.dense_head or encoder.query_adapter or encoder.document_adapter):
            return encoder
    return None


def known_arms(config: Config) -> dict[str, Arm]:
    """Return every arm by name, in the order of listings; some depend on the encoders and the loss."""
    arms = dict(ARMS)
    # Look in the spaces of encoders that are trained first, and of single encoders.
    if trainable_encoder(config.encoders) is not None:
        arms |= {name: Arm(about=line, rule=nearest, method=name) for name, line in _METHODS.items()}
    if len(config.encoders) == 1:
        del arms[AGREED]
    else:
        for encoder in config.encoders:
            name = f"two conditions, {encoder.name}"
            name = f"two conditions, encoder {encoder.name}" if name in arms else name
            line = f"The two conditions in the space of {encoder.name} alone."
            arms[name] = Arm(about=line, rule=two_conditions, encoder=encoder.name)
    # Add lessons, alone and beside some of these.
    arms["distillation alone"] = Arm(about=f"{_LESSONS}, and no judged pair.", lessons="alone")
    for name in ("random of BM25's first 50", "two conditions, then BM25", "mistakes of the start"):
        arm = replace(arms[name], about=f"{_LESSONS}, and: {arms[name].about}", lessons="beside")
        arms[f"distillation, {name}"] = arm
    # Look in spaces of several widths (arXiv 2505.18366, Table 6).
    for variance in (None, 0.99, 0.95, 0.9, 0.8, 0.7):
        space = "X_concat" if variance is None else f"{variance:.0%} of the variance"
        line = f"The two conditions in {space} (the ablation of Table 6)."
        arms[f"two conditions, {space}"] = Arm(about=line, rule=two_conditions, variance=variance)
    if config.train.loss in TAUGHT:  # a teacher scores lists before training, and these grow in it
        arms = {name: arm for name, arm in arms.items() if not arm.in_batch}
    return arms


def preset_arms(config: Config) -> dict[str, Arm]:
    """Return the arms that train.presets names, by these names; errors as of `named_arms`."""
    return {slug(name): arm for name, arm in named_arms(config, config.train.presets, "train.presets").items()}


def compared_arms(config: Config) -> dict[str, Arm]:
    """Return the arms that `hnmine compare` trains: those that compare.arms names, or all that a step has pairs for."""
    if config.compare.arms is not None:
        return named_arms(config, config.compare.arms, "compare.arms")
    return {
        name: arm
        for name, arm in known_arms(config).items()
        if not arm.only_named and arm.in_batch_negatives < config.train.pairs_per_batch
    }


def named_arms(config: Config, names: Sequence[str], setting: str) -> dict[str, Arm]:
    """Return the arms of these names, written as on a command line or in full, by their full names.

    Raises:
        ConfigError: one is not known, or a step has too few pairs for it; `setting` is where it was named.
    """
    known = known_arms(config)
    full_name = {slug(name): name for name in known}
    if unknown := [name for name in names if slug(name) not in full_name]:
        near = [name for word in unknown for name in get_close_matches(slug(word), full_name, n=1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"{setting}: {', '.join(unknown)} is not known{hint}; known are: {', '.join(full_name)}")
    arms = {full_name[slug(name)]: known[full_name[slug(name)]] for name in names}
    others = config.train.pairs_per_batch - 1
    for name, arm in arms.items():
        if (wanted := arm.in_batch_negatives) > others:
            raise ConfigError(
                f"{name} takes {wanted} negatives from the other pairs of a step, of which train.pairs_per_batch="
                f"{others + 1} leaves {others}; raise it, or name other arms"
            )
    return arms
