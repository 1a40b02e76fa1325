"""What the configuration refuses by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine.config.load import load
from hnmine.config.root import Config, EmbedConfig
from hnmine.errors import ConfigError


def test_settings_of_models_are_refused_where_they_would_be_ignored() -> None:
    with pytest.raises(ConfigError, match="query_prompt would have no effect on a lexical encoder"):
        load(overrides=["encoders=[{name: words, lexical: {}, query_prompt: 'query: '}]"])


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("{name: a, lexical: {}, gpus: 0.5}", "gpus would have no effect on a lexical encoder"),
        ("{name: a, precomputed: p, tokens_per_batch: 100}", "tokens_per_batch would have no effect on a precomputed"),
        ("{name: a, lexical: {}, dense_head: 8}", "dense_head would have no effect"),
        ("{name: a, lexical: {}, long_documents: mean}", "long_documents would have no effect on a lexical encoder"),
        (
            "{name: a, precomputed: p, long_documents: max, max_passages: 4}",
            "long_documents, max_passages would have no",
        ),
        ("{name: a, model: m, max_passages: 4}", "max_passages would have no effect on long_documents: truncate"),
        (
            "{name: a, model: m, long_documents: mean, max_passages: 1}",
            "encoders.0.max_passages: Input should be great",
        ),
        ("{name: a, model: m, long_documents: maxp}", "encoders.0.long_documents: Input should be 'truncate', 'mean'"),
        ("{name: a, model: m, gpus: 2}", "encoders.0.gpus: Input should be less than or equal to 1"),
        ("{name: a, model: m, gpus: 0}", "encoders.0.gpus: Input should be greater than 0"),
        ("{name: a, model: m, tokens_per_batch: 1}", "encoders.0.tokens_per_batch: "),
        ("{name: a, model: m, architecture: new}", "encoders.0.architecture: Input should be 'gte'"),
        ("{name: a, model: m, query_adapter: ../x}", "encoders.0.query_adapter: "),
        ("{name: a, model: m, document_adapter: ''}", "encoders.0.document_adapter: "),
        ("{name: a, model: m, architecture: gte, trust_remote_code: true}", "remove it or trust_remote_code"),
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
        ("{loss: marginmse}", "marginmse learns from a teacher; name a cross-encoder as train.teacher.model"),
        ("{teacher: {model: m}}", "teacher would have no effect on loss: infonce; remove it or set loss: marginmse"),
        ("{loss: marginmse, teacher: {}}", "train.teacher.model: Field required"),
        ("{loss: marginmse, teacher: {model: m}, in_batch_negatives: 2}", "the teacher scores before it; remove one"),
        ("{in_batch_negatives: 16}", "in_batch_negatives is 16, but a step of pairs_per_batch: 16 has 15 others"),
        ("{in_batch_negatives: 1, pairs_per_batch: 1}", "a step of pairs_per_batch: 1 has 0 others; lower it or raise"),
        (
            "{auto: {learning_rates: [1.0e-5, 1.0000001e-5]}}",
            "must differ in their first six digits, got 1e-05, 1.0000",
        ),
        ("{in_batch_negatives: -1}", "train.in_batch_negatives: Input should be greater than or equal to 0"),
    ],
)
def test_settings_of_training_that_contradict_each_other_are_refused(train: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=[f"train={train}"])
    assert message in str(caught.value)


def test_a_teacher_is_heard_by_marginmse() -> None:
    train = load(overrides=["train={loss: marginmse, teacher: {model: a/b}, pairs_per_batch: 1}"]).train
    assert train.teacher is not None
    assert (train.teacher.model, train.teacher.max_tokens) == ("a/b", 256)
    assert load(overrides=["train.in_batch_negatives=15"]).train.in_batch_negatives == 15
