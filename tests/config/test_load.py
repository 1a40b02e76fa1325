"""The configuration: what is not understood is an error that says what would be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from hnmine.config.base import section_of
from hnmine.config.encoders import EncoderConfig, LexicalConfig
from hnmine.config.load import describe, load
from hnmine.config.root import Config
from hnmine.errors import ConfigError


def from_yaml(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides)


def test_nothing_given_is_the_defaults(tmp_path):
    assert load() == Config()
    assert from_yaml(tmp_path, "") == Config()
    assert from_yaml(tmp_path, "# only a comment\n") == Config()


def test_the_file_is_read_and_the_later_override_wins(tmp_path):
    config = from_yaml(tmp_path, "reduce: {variance: 0.9}\nembed: {store: s}", "seed=3", "seed=4")
    assert (config.reduce.variance, config.seed, config.embed.store) == (0.9, 4, "s")
    assert from_yaml(tmp_path, "reduce: {variance: 0.9}", "reduce.variance=0.5").reduce.variance == 0.5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.learning_rate=2e-5", 2e-5),
        ("train.learning_rate=0.01", 0.01),
        ("train.model=5e12345", "5e12345"),  # a name, not a number
        ("reduce.variance=null", None),
        ("ray=false", False),
        ("train.presets=[paper, anchored]", ("paper", "anchored")),
        ("train.presets=paper", ("paper",)),
        ("train.presets=[Two Conditions, paper]", ("two-conditions", "paper")),
        ("train.anchors=7", 7),
        ("sources.template={title}: {text}", "{title}: {text}"),
        ("train.model=a=b", "a=b"),
        (" train.epochs = 3", 3),
    ],
)
def test_an_override_is_read_as_yaml(override, expected):
    if "template" in override:  # a brace opens a mapping in YAML: quotes make it text
        override = "sources.template='{title}: {text}'"
    value = load(overrides=[override])
    for part in override.partition("=")[0].strip().split("."):
        value = getattr(value, part)
    assert value == expected


def test_encoders_are_set_as_a_whole():
    config = load(overrides=["encoders=[{name: a, model: m, weight: 2}, {name: b, lexical: {width: 9}}]"])
    assert config.encoders == (
        EncoderConfig(name="a", model="m", weight=2.0),
        EncoderConfig(name="b", lexical=LexicalConfig(width=9)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reduc: {}", "reduc: unknown key; did you mean 'reduce'?"),
        ("reduce: {varianc: 1}", "reduce.varianc: unknown key; did you mean 'variance'?"),
        ("guards: {denoise: {model: m, mosst: 1}}", "guards.denoise.mosst: unknown key; did you mean 'most'?"),
        ("select: {xyz: 1}", "select.xyz: unknown key; known keys: rule, negatives"),
        ("encoders: [{name: a, model: m, wieght: 1}]", "encoders.0.wieght: unknown key; did you mean 'weight'?"),
        ("encoders: [{name: a, lexical: {widht: 1}}]", "encoders.0.lexical.widht: unknown key; did you mean 'width'?"),
        ("encoders: [{name: a}]", "needs exactly one of model, precomputed, lexical; got none"),
        ("encoders: [{name: a, model: m, lexical: {}}]", "needs exactly one of model, precomputed, lexical; got ['mo"),
        ("encoders: [{model: m}]", "encoders.0.name: Field required"),
        ("encoders: [{name: a/b, model: m}]", "encoders.0.name:"),
        ("encoders: [{name: a, model: m}, {name: a, model: n}]", "names must differ, got ['a', 'a']"),
        ("encoders: []", "encoders: expected a list with at least 1 item, got []"),
        ("encoders: {name: a, model: m}", "encoders: Input should be a valid list"),
        ("reduce: {variance: 1.5}", "reduce.variance: Input should be less than or equal to 1, got 1.5"),
        ("reduce: {variance: 0}", "reduce.variance: Input should be greater than 0, got 0"),
        ("train: {learning_rate: .nan}", "train.learning_rate: "),
        ("embed: {actors: many}", "embed.actors: Input should be a valid integer"),
        ("device: tpu", "device: Input should be 'auto', 'cpu' or 'gpu', got 'tpu'"),
        ("embed: 5", "embed: "),
        ("sources: {template: '{} {text}'}", "template: expected {title}, {text} or other fields by name, got {}"),
        ("sources: {template: '{title!r} {text}'}", "template: expected {title}, {text} or other fields by name"),
        ("sources: {template: '{text'}", "template cannot be read"),
        ("sources: {template: 'title'}", "template must name a field"),
        ("{5: 6}", "5: "),
        ("reduce: {1: 2}", "reduce.1: "),
        ("- a\n- b", "must hold `step: {key: value}`, got a list"),
        ("just text", "must hold `step: {key: value}`, got a str"),
        ("a: [1", "is not YAML"),
        ("a: 2024-13-45", "is not YAML"),
        ("a: \x01", "is not YAML"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_file_key_and_remedy(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        from_yaml(tmp_path, text)
    assert message in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        from_yaml(tmp_path, "reduce: {varianc: 1, fit_rows: -1}\nembed: {actors: 0}")
    assert [part in str(caught.value) for part in ("varianc", "reduce.fit_rows", "embed.actors")] == [True] * 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reduce.variance", "--set wants step.key=value, got 'reduce.variance'"),
        ("=1", "--set wants step.key=value"),
        ("reduce.=1", "--set wants step.key=value"),
        ("reduce.variance=[1", "--set reduce.variance: '[1' is not a YAML value"),
        ("sources.train_split=2024-13-45", "is not a YAML value"),
        ("sources.template={title}: {text}", """in the shell --set 'sources.template="{title}: {text}"'"""),
        ("sources.template={text}", """template: expected a text, got {'text': None}; what YAML would not take for"""),
        ("train.model=1234567", """--set 'train.model="…"'"""),
        ("reduce.varianc=1", "did you mean 'variance'?"),
        ("max_pairs=60", "max_pairs: unknown key; did you mean 'train.max_pairs'?"),
        ("dtype=float32", "did you mean 'train.dtype'?"),
        ("encoders.0.weight=2", "encoders: "),
        ("reduce.variance.x=2", "reduce.variance: "),
    ],
)
def test_a_bad_override_is_an_error_that_names_it(override, message):
    with pytest.raises(ConfigError) as caught:
        load(overrides=[override])
    assert message in str(caught.value)


def test_a_bad_item_of_a_list_is_told_once():
    with pytest.raises(ConfigError) as caught:
        load(overrides=["train.presets=[1]"])
    assert str(caught.value).splitlines() == [
        "--set: train.presets.0: expected a text, got 1; what YAML would not take for a text needs quotes, in the "
        "shell --set 'train.presets.0=\"…\"'",
        "  (`hnmine config` lists every key)",
    ]


def test_an_override_into_a_list_of_the_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'encoders' holds a list; set it as a whole"):
        from_yaml(tmp_path, "encoders: [{name: a, model: m}]", "encoders.0.weight=2")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml does not exist"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe\xfa")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "latin.yaml")


def test_there_are_few_enough_settings_to_read_them_all():
    assert len(describe().splitlines()) <= 104


def sections(section: type[BaseModel] = Config) -> list[type[BaseModel]]:
    """All sections of the configuration, those within others too."""
    inner = (section_of(field.annotation) for field in section.model_fields.values())
    return [section, *(below for each in inner if each for below in sections(each))]


def test_what_is_described_can_be_loaded_and_is_the_defaults(tmp_path):
    text = describe()
    assert from_yaml(tmp_path, text) == Config()
    tree = yaml.safe_load(text)
    for step, field in Config.model_fields.items():
        assert step in tree
        section = section_of(field.annotation)
        for key in section.model_fields if section and step != "encoders" else ():
            assert key in tree[step]


def test_every_key_is_described_with_its_meaning_and_every_number_with_its_range():
    lines = [line.strip(" #") for line in describe().splitlines()]
    values = 0
    for section in sections():
        for key, field in section.model_fields.items():
            kinds = {field.annotation, *get_args(field.annotation)}
            if section_of(field.annotation):
                continue
            values += 1
            line = next(line for line in lines if line.startswith(f"{key}: ") and str(field.description) in line)
            assert len(field.description) > 8, key
            assert bool(kinds & {int, float}) == bool(re.search(r" \((from|above) [^()]+\)$", line)), line
    assert values > 60
    assert "width: 256  # dimensions kept by the truncated SVD (from 1 to 4,096)" in lines
    assert any(line.endswith("share of the variance to keep; null: no PCA (above 0 to 1)") for line in lines)
    assert any(line.endswith("no dev (above 0 below 1)") for line in lines)


def test_the_resolved_configuration_survives_json_and_yaml(tmp_path):
    config = load(overrides=["encoders=[{name: a, precomputed: p}]", "embed.store=s", "train.presets=[paper]"])
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert from_yaml(tmp_path, yaml.safe_dump(config.model_dump(mode="json"))) == config


def test_a_step_with_nothing_under_it_has_its_defaults(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, "train:\nray:\nselect: {negatives: 2}\n") == load(overrides=["select.negatives=2"])


@pytest.mark.parametrize("brackets", ["[" * 100_000, "{a: " * 20_000, "[" * 2000 + "]" * 2000])
def test_brackets_in_brackets_without_end_are_refused(brackets: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has brackets in brackets without end|is not YAML"):
        from_yaml(tmp_path, f"train: {brackets}")
    with pytest.raises(ConfigError, match="is not a YAML value") as caught:
        load(overrides=[f"train.presets={brackets}"])
    assert len(str(caught.value)) < 1000


def test_a_long_value_is_shown_by_its_beginning_without_half_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=[f"embed.store=[{'x' * 150}, 's3://name:hunter2{'y' * 90}@bucket']"])
    assert "xxx" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lora=true", "train.lora: expected keys, got True; write train.lora={}"),
        ("guards.denoise=x", "guards.denoise: expected keys, got 'x'; write guards.denoise={model: …}"),
        (
            "encoders=[bge]",
            "encoders.0: expected keys, got 'bge'; an entry is {name: …, model: …}; or give one preset, ",
        ),
        (
            "encoders=[{name: x, lexical: true}]",
            "encoders.0.lexical: expected keys, got True; write encoders.0.lexical={}",
        ),
        ("select.rule=twoconditions", "got 'twoconditions'; did you mean 'two-conditions'?"),
        ("device=gpuu", "got 'gpuu'; did you mean 'gpu'?"),
        ("device=zzzzz", "got 'zzzzz'\n"),
    ],
)
def test_a_value_of_another_form_is_told_its_form(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        load(overrides=[override])
    assert "at least 1 item" not in str(raised.value)


@pytest.mark.parametrize(
    "key", ["evaluate.first_stage", "train.model", "sources.verdicts", "embed.store", "sources.template"]
)
def test_no_setting_has_the_character_nul(key: str) -> None:
    value = '["a\\0b"]' if key == "sources.verdicts" else '"a\\0b"'
    with pytest.raises(ConfigError, match=rf"{key}.*NUL"):
        load(overrides=[f"{key}={value}"])
