"""Every arm by name: which there are, how they are named, and what is refused."""

from __future__ import annotations

import pytest

from hnmine.arms.arm import NEGATIVES, compared_arms, known_arms, named_arms, preset_arms, trainable_encoder
from hnmine.config.base import slug
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.config.training import TAUGHT
from hnmine.errors import ConfigError
from tests.builders.settings import LEXICAL_ENCODER

PRESETS = {"distilled", "anchored", "paper", "positives"}


def test_every_arm_has_a_name_of_its_own_on_a_command_line_and_a_description() -> None:
    arms = known_arms(Config())
    assert len({slug(name) for name in arms}) == len(arms)
    assert all(arm.about for arm in arms.values())
    assert PRESETS | {"in-batch", "two-conditions", "percpos-0.95", "bm25", "random"} <= set(map(slug, arms))
    assert {"two conditions, minilm", "two conditions, lexical", "two conditions, agreed, then BM25"} <= set(arms)
    assert not [name for name in known_arms(load(overrides=[LEXICAL_ENCODER])) if "lexical" in name]


@pytest.mark.parametrize("loss", TAUGHT)
def test_arms_that_a_teacher_cannot_score_before_training_are_left_out(loss: str) -> None:
    arms = known_arms(load(overrides=[f"train.loss={loss}", "train.teacher=x"]))
    assert "in-batch" in known_arms(Config())
    assert "random" in arms
    assert not [name for name, arm in arms.items() if arm.in_batch]


def test_presets_are_arms_by_the_names_they_are_written_with() -> None:
    config = load(overrides=["train.presets=[distilled, Two Conditions]"])
    arms = preset_arms(config)
    assert list(arms) == ["distilled", "two-conditions"]
    assert arms["two-conditions"] == known_arms(config)["two conditions"]
    with pytest.raises(ConfigError, match=r"train\.presets: distiled is not known; did you mean distilled\?"):
        preset_arms(load(overrides=["train.presets=distiled"]))


def test_arms_are_compared_by_name_or_all_but_those_that_want_to_be_named() -> None:
    config = load(overrides=["compare.arms=[bm25, Two Conditions, paper]"])
    assert list(compared_arms(config)) == ["BM25", "two conditions", "paper"]
    unnamed = compared_arms(Config())
    assert {name for name, arm in known_arms(Config()).items() if arm.only_named} == known_arms(
        Config()
    ).keys() - unnamed
    assert not {"distilled", "anchored", "paper", "two conditions, X_concat"} & unnamed.keys()
    assert "positives" in unnamed
    known = (
        r"bm52 is not known; did you mean bm25\?; known are: distilled, anchored, paper, positives, in-batch, .*two-"
    )
    with pytest.raises(ConfigError, match=rf"compare\.arms: {known}"):
        compared_arms(load(overrides=["compare.arms=[bm52]"]))


def test_a_batch_that_is_too_small_for_an_arm_is_refused() -> None:
    few = load(overrides=[f"train.pairs_per_batch={NEGATIVES}"])
    assert named_arms(few, ["bm25-and-in-batch"], "compare.arms")
    with pytest.raises(ConfigError, match=r"in-batch takes 4 negatives from the other pairs .* leaves 3"):
        named_arms(few, ["in-batch"], "compare.arms")
    assert compared_arms(Config()).keys() - compared_arms(few).keys() == {"in-batch"}, "nobody named it"


def test_the_encoder_that_others_begin_with_is_the_first_model_that_is_loaded_as_it_lies() -> None:
    headed, adapted = "{name: h, model: h, dense_head: 64}", "{name: a, model: x, query_adapter: q}"
    encoders = load(overrides=[f"encoders=[{adapted}, {headed}, {{name: z, model: z}}]"]).encoders
    assert trainable_encoder(encoders) == encoders[2]
    assert trainable_encoder(load(overrides=[LEXICAL_ENCODER]).encoders) is None
