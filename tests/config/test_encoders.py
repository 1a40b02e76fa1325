import re
from pathlib import Path

import pytest
import yaml

from hnmine.config.encoders import LICENCES, MODELS, PRESETS, EncoderConfig
from hnmine.config.load import describe, load
from hnmine.config.root import Config
from hnmine.errors import ConfigError

ENCODERS = [encoder for encoders in PRESETS.values() for encoder in encoders]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_config_that_yaml_keeps(name: str, tmp_path: Path) -> None:
    encoders = PRESETS[name]
    assert encoders
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"encoders": [encoder.model_dump(mode="json") for encoder in encoders]}))
    assert load(path) == Config(encoders=encoders)


@pytest.mark.parametrize("name", PRESETS)
def test_names_in_a_preset_differ(name: str) -> None:
    names = [encoder.name for encoder in PRESETS[name]]
    assert len(set(names)) == len(names)


def test_one_name_means_one_encoder() -> None:
    by_name: dict[str, EncoderConfig] = {}
    for encoder in ENCODERS:
        assert by_name.setdefault(encoder.name, encoder) == encoder


def test_no_commit_serves_two_models() -> None:
    pins = {encoder.model for encoder in ENCODERS if encoder.model and "@" in encoder.model}
    assert len(pins) == len({pin.partition("@")[2] for pin in pins})


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"minilm+lexical"}))
def test_hub_models_are_pinned_and_say_their_prompts(name: str) -> None:
    for encoder in PRESETS[name]:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", encoder.model or "")
        assert encoder.query_prompt is not None
        assert encoder.document_prompt is not None


def test_the_paper_has_six_encoders() -> None:
    lengths = {encoder.name: encoder.max_tokens for encoder in PRESETS["paper"]}
    assert lengths == {"stella": 512, "jina-v3": None, "mxbai": 512, "bge-large": 512, "labse": 256, "mpnet": 384}
    stella, jina = PRESETS["paper"][:2]
    assert stella.dense_head == 8192
    assert (jina.query_adapter, jina.document_adapter) == ("retrieval_query", "retrieval_passage")


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_e5_has_both_prompts(size: str) -> None:
    (encoder,) = PRESETS[f"multilingual-{size}"]
    assert (encoder.query_prompt, encoder.document_prompt) == ("query: ", "passage: ")


@pytest.mark.parametrize("size", ["base", "large"])
def test_solon_writes_a_space_before_the_colon(size: str) -> None:
    (encoder,) = PRESETS[f"fr-{size}"]
    assert (encoder.query_prompt, encoder.document_prompt) == ("query : ", "")


def test_the_default_is_not_copied() -> None:
    assert PRESETS["minilm+lexical"] is Config.model_fields["encoders"].default


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"^--set: encoders: unknown preset 'papers'; known presets: paper, en-small, .*minilm"
    ):
        load(overrides=["encoders=papers"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_named_in_the_configuration(name: str) -> None:
    assert load(overrides=[f"encoders={name}"]).encoders == PRESETS[name]


def test_the_description_of_the_configuration_names_them_all() -> None:
    (line,) = (line for line in describe().splitlines() if line.startswith("encoders:"))
    assert all(name in line for name in PRESETS)


def test_every_model_of_a_preset_has_its_facts_and_no_other_has() -> None:
    assert set(MODELS) == {(encoder.model or "").partition("@")[0] for encoder in ENCODERS if encoder.model}


def test_what_is_not_for_everybody_is_known_from_the_facts() -> None:
    assert LICENCES == {"jinaai/jina-embeddings-v3-hf": "CC BY-NC 4.0: for non-commercial use only"}
