"""What the configuration refuses by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.config.steps import EmbedConfig
from hnmine.errors import ConfigError


def test_settings_of_models_are_refused_where_they_would_be_ignored() -> None:
    with pytest.raises(ConfigError, match="query_prompt would have no effect on a lexical encoder"):
        load(overrides=["encoders=[{name: words, lexical: {}, query_prompt: 'query: '}]"])


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("{name: a, lexical: {}, gpus: 0.5}", "gpus would have no effect on a lexical encoder"),
        ("{name: a, precomputed: p, max_tokens: 100}", "max_tokens would have no effect on a precomputed"),
        ("{name: a, lexical: {}, dense_head: 8}", "dense_head would have no effect"),
        ("{name: a, lexical: {}, long_documents: mean}", "long_documents would have no effect on a lexical encoder"),
        ("{name: a, precomputed: p, long_documents: mean, dense_head: 4}", "long_documents, dense_head would have no"),
        (
            "{name: a, model: m, long_documents: maxp}",
            "encoders.0.long_documents: Input should be 'truncate' or 'mean'",
        ),
        ("{name: a, model: m, gpus: 2}", "encoders.0.gpus: Input should be less than or equal to 1"),
        ("{name: a, model: m, gpus: 0}", "encoders.0.gpus: Input should be greater than 0"),
        ("{name: a, model: m, query_adapter: ../x}", "encoders.0.query_adapter: "),
        ("{name: a, model: m, document_adapter: ''}", "encoders.0.document_adapter: "),
    ],
)
def test_settings_of_an_encoder_that_cannot_be_meant_are_refused(encoder: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=[f"encoders=[{encoder}]"])
    assert message in str(caught.value)


def test_ivf_settings_without_the_index_are_an_error_and_defaults_are_not():
    with pytest.raises(ConfigError, match="ivf_probes would have no effect on index: flat"):
        load(overrides=["search.ivf_probes=64"])
    assert load(overrides=["search.index=ivf", "search.ivf_probes=64"]).search.ivf_probes == 64
    assert Config.model_validate(load().model_dump()) == load()


def test_denoising_needs_a_model_and_something_to_ask():
    denoise = load(overrides=["guards.denoise.model=a/b"]).guards.denoise
    assert (denoise.model, denoise.margin, denoise.most) == ("a/b", 0.0, None)
    assert load(overrides=["guards.denoise={model: a, margin: null, most: 0.1}"]).guards.denoise.margin is None
    with pytest.raises(ConfigError, match=r"guards\.denoise\.model: Field required"):
        load(overrides=["guards.denoise.margin=0.1"])
    with pytest.raises(ConfigError, match="margin and most are both null, so nothing would be removed; set one"):
        load(overrides=["guards.denoise={model: a, margin: null}"])


def test_a_store_is_a_folder_or_an_address_without_credentials():
    for store in ("s", "/a/b", "s3://bucket/p?region=eu-west-1", "gs://anonymous@bucket/p", "file:///tmp/s"):
        assert load(overrides=[f"embed.store={store}"]).embed.store == store
    assert EmbedConfig(store=Path("a/b")).store == "a/b"
    with pytest.raises(ConfigError, match="credentials belong in the environment") as caught:
        load(overrides=["embed.store=s3://key:secret@bucket/p"])
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="an address has two slashes, got 's3:/bucket/p'"):
        EmbedConfig(store=Path("s3://bucket/p"))
    with pytest.raises(ConfigError, match=r"embed\.store"):
        load(overrides=["embed.store=''"])


@pytest.mark.parametrize("weight", [0.0, 1e-4, 1e4, -1.0])
def test_a_weight_that_float32_could_not_carry_beside_others_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"weight: Input should be (greater|less) than or equal to"):
        load(overrides=[f"encoders=[{{name: a, model: x, weight: {weight}}}]"])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("{loss: marginmse}", "marginmse learns from a teacher; name a cross-encoder as train.teacher"),
        ("{teacher: m}", "teacher would have no effect on loss: infonce; remove it or set loss: marginmse"),
        ("{loss: kl, teacher: 7}", "train.teacher: expected a text, got 7"),
        ("{weights: bfloat16}", "weights: bfloat16 is for weights that are not trained: set train.lora too"),
        (
            "{weights: bfloat16, lora: {}, dtype: float32}",
            "bfloat16 computes in bfloat16; remove dtype: float32",
        ),
        ("{lora: {rank: 0}}", "train.lora.rank: Input should be greater than or equal to 1, got 0"),
        ("{lora: {keep: both}}", "train.lora.keep: Input should be 'merged' or 'adapter', got 'both'"),
    ],
)
def test_settings_of_training_that_contradict_each_other_are_refused(train: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=[f"train={train}"])
    assert message in str(caught.value)


def test_a_teacher_is_heard_by_marginmse() -> None:
    assert load(overrides=["train={loss: marginmse, teacher: a/b, pairs_per_batch: 1}"]).train.teacher == "a/b"


def test_learning_rates_of_a_comparison_name_files_so_they_must_differ() -> None:
    with pytest.raises(ConfigError, match=r"must differ in their first six digits, got 1e-05, 1\.0000"):
        load(overrides=["compare.learning_rates=[1.0e-5, 1.0000001e-5]"])


def test_several_workers_without_ray_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.workers: 2 need Ray; set ray to true or null, or train\.workers to 1"
    ):
        load(overrides=["ray=false", "train.workers=2"])
    assert load(overrides=["ray=false", "train.workers=1"]).train.workers == 1
