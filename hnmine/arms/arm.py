"""What an arm is, and every arm by name.

An arm is one way to choose what a re-ranker is trained on. `hnmine train` trains the arms that train.presets names, and
`hnmine compare` puts them side by side; `list_maker` turns an arm into training lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from hnmine.arms.rules import GUARDED, MIXTURES, RULES, Rule, about
from hnmine.config.base import slug
from hnmine.config.models import EncoderConfig
from hnmine.config.root import Config
from hnmine.config.training import TAUGHT, Loss
from hnmine.errors import ConfigError

NEGATIVES = 4
"""Negatives that an arm chooses for a pair, so that all arms have as many."""

Judge = Literal["agreement", "denoise", "mistakes"]
"""Who judges what a rule has chosen, the single encoders or the start as a cross-encoder; see `judges`."""
Method = Literal["STAR", "ADORE + STAR", "ANCE"]
"""How an encoder is trained in whose space an arm looks; see `trained_encoders`."""


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
    """Takes away some of what the rule has chosen."""
    rest: Rule | None = None
    """With a judge: chooses all negatives but the first, which is the judge's; None: the judge chooses all."""
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
    only_named: bool = False
    """Whether `hnmine compare` trains it only where it is asked for by name."""

    @property
    def in_batch_negatives(self) -> int:
        """Negatives of a pair that are positives of the other pairs of its step."""
        if not self.in_batch:
            return 0
        return NEGATIVES if self.rule is None else NEGATIVES // 2


def trainable_encoder(encoders: Sequence[EncoderConfig]) -> EncoderConfig | None:
    """Return the encoder that STAR, ADORE and ANCE begin with: the first model without adapters and chosen heads."""
    for encoder in encoders:
        if encoder.model and not (encoder.dense_head or encoder.query_adapter or encoder.document_adapter):
            return encoder
    return None


def known_arms(config: Config) -> dict[str, Arm]:
    """Return every arm by name, in the order of listings; some depend on the encoders and the loss."""
    arms = _arms_on_mined() | _arms_by_rules() | _judged_arms(len(config.encoders))
    if trainable_encoder(config.encoders) is not None:
        arms |= _arms_of_trained_encoders()
    if len(config.encoders) > 1:
        for encoder in config.encoders:
            name = f"two conditions, {encoder.name}"
            name = f"two conditions, encoder {encoder.name}" if name in arms else name
            line = f"The two conditions in the space of {encoder.name} alone."
            arms[name] = Arm(about=line, rule=RULES["two conditions"], encoder=encoder.name)
    arms |= _arms_with_lessons(arms) | _arms_of_the_ablation()
    if config.train.loss in TAUGHT:  # a teacher scores lists before training, and these grow in it
        arms = {name: arm for name, arm in arms.items() if not arm.in_batch}
    return arms


def _arms_on_mined() -> dict[str, Arm]:
    """Return the arms on what was mined into the run: the default, and what it is compared with."""
    anchored = Arm(
        about="The mined negatives and, beside each, easier ones of the first stage (train.anchors).",
        mined=True,
        anchored=True,
        only_named=True,
    )
    return {
        "distilled": replace(anchored, about=f"{anchored.about} With lessons, if there are any.", lessons="if any"),
        "anchored": anchored,
        "paper": Arm(
            about="The mined negatives alone and the margin loss, as in arXiv 2505.18366.",
            mined=True,
            loss="margin",
            only_named=True,
        ),
    }


def _arms_by_rules() -> dict[str, Arm]:
    """Return the arms that choose by a rule alone, in the ensemble's space."""
    margin = "The two conditions, as in arXiv 2505.18366, and the margin loss."
    return {
        "positives": Arm(about="Each positive by itself, no negative at all.", loss="bce"),
        "in-batch": Arm(about="Positives of the other pairs in the step.", in_batch=True),
        **{name: Arm(about=about(rule), rule=rule) for name, rule in (RULES | GUARDED | MIXTURES).items()},
        "the paper": Arm(about=margin, rule=RULES["two conditions"], loss="margin"),
        "BM25 and in-batch": Arm(about="Half of each.", rule=RULES["BM25"], in_batch=True),
    }


def _judged_arms(encoders: int) -> dict[str, Arm]:
    """Return the arms in which somebody judges what a rule has chosen; agreement needs several encoders."""
    judges: dict[str, tuple[Judge, str]] = {"denoised": ("denoise", "that the start scores below the positive")}
    if encoders > 1:
        judges["agreed"] = "agreement", "that satisfies them in each single encoder's space"
    arms = {
        f"two conditions, {word}, then BM25": Arm(
            about=f"The nearest by the two conditions {line}, then BM25's.",
            rule=RULES["two conditions"],
            judge=judge,
            rest=RULES["random of BM25's first 50"],
        )
        for word, (judge, line) in judges.items()
    }
    mistakes = "Of BM25's first 50 those that the start scores highest, but below the positive."
    return arms | {"mistakes of the start": Arm(about=mistakes, rule=RULES["BM25"], judge="mistakes")}


def _arms_of_trained_encoders() -> dict[str, Arm]:
    """Return the arms that look for the nearest documents in the space of an encoder that is trained first."""
    lines: dict[Method, str] = {
        "STAR": "The nearest to a bi-encoder trained with static hard and random negatives (arXiv 2104.08051).",
        "ADORE + STAR": "The nearest to STAR's, its query tower then trained against what it finds (arXiv 2104.08051).",
        "ANCE": "The nearest to a bi-encoder whose hard negatives are found anew every epoch (arXiv 2007.00808).",
    }
    rule = RULES["nearest document"]
    return {method: Arm(about=line, rule=rule, method=method) for method, line in lines.items()}


def _arms_with_lessons(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return the arms with lessons, alone and beside what some of these arms train on."""
    line = "Lessons from first stage and encoders together"
    found = {"distillation alone": Arm(about=f"{line}, and no judged pair.", lessons="alone")}
    for name in ("random of BM25's first 50", "two conditions, then BM25", "mistakes of the start"):
        arm = replace(arms[name], about=f"{line}, and: {arms[name].about}", lessons="beside")
        found[f"distillation, {name}"] = arm
    return found


def _arms_of_the_ablation() -> dict[str, Arm]:
    """Return the two conditions in spaces of several widths (arXiv 2505.18366, Table 6)."""
    found = {}
    for variance in (None, 0.99, 0.95, 0.9, 0.8, 0.7):
        space = "X_concat" if variance is None else f"{variance:.0%} of the variance"
        line = f"The two conditions in {space} (the ablation of Table 6)."
        found[f"two conditions, {space}"] = Arm(
            about=line, rule=RULES["two conditions"], variance=variance, only_named=True
        )
    return found


def preset_arms(config: Config) -> dict[str, Arm]:
    """Return the arms that train.presets names, by these names.

    Raises:
        ConfigError: one is not known, or a step has too few pairs for it.
    """
    return {slug(name): arm for name, arm in named_arms(config, config.train.presets, "train.presets").items()}


def compared_arms(config: Config) -> dict[str, Arm]:
    """Return the arms that `hnmine compare` trains: those that compare.arms names, or all that a step has pairs for.

    Raises:
        ConfigError: one is not known, or a step has too few pairs for one that was named.
    """
    if config.compare.arms is not None:
        return named_arms(config, config.compare.arms, "compare.arms")
    others = config.train.pairs_per_batch - 1
    arms = {name: arm for name, arm in known_arms(config).items() if not arm.only_named}
    return {name: arm for name, arm in arms.items() if arm.in_batch_negatives <= others}


def named_arms(config: Config, names: Sequence[str], setting: str) -> dict[str, Arm]:
    """Return the arms of these names, written as on a command line or in full, by their full names.

    Raises:
        ConfigError: one is not known, or a step has too few pairs for it; `setting` is where it was named.
    """
    known = known_arms(config)
    full_name = {slug(name): name for name in known}
    # Refuse what is not known.
    if unknown := [name for name in names if slug(name) not in full_name]:
        near = [name for word in unknown for name in get_close_matches(slug(word), full_name, n=1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"{setting}: {', '.join(unknown)} is not known{hint}; known are: {', '.join(full_name)}")
    # Refuse what the steps are too small for.
    arms = {full_name[slug(name)]: known[full_name[slug(name)]] for name in names}
    others = config.train.pairs_per_batch - 1
    for name, arm in arms.items():
        if (wanted := arm.in_batch_negatives) > others:
            raise ConfigError(
                f"{name} takes {wanted} negatives from the other pairs of a step, of which train.pairs_per_batch="
                f"{others + 1} leaves {others}; raise it, or name other arms"
            )
    return arms
