"""What is wrong with a model is one message, with its setting and a remedy, before anything is encoded."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from hnmine import pipeline
from hnmine.config.load import load as configure
from hnmine.config.root import Config
from hnmine.errors import ModelError
from hnmine.models import preflight
from hnmine.models.folder import resolve
from tests.builders.collections import write_collection
from tests.builders.models import (
    encoder_plan,
    load_sentence_transformer,
    spoil_weights,
    tiny_cross_encoder,
    tiny_decoder,
    tiny_word_encoder,
)
from tests.builders.rerankers import LAYOUTS


def named(setting: str, model: Path) -> Config:
    """Return a configuration that names a re-ranker in one place."""
    more = {"train.teacher": ["train.loss=kl"], "guards.denoise.model": []}.get(setting, [])
    value = f"[{model}]" if setting == "compare.models" else str(model)
    return configure(overrides=[f"{setting}={value}", "train.max_tokens=64", *more])


def edit(path: Path, change: Callable[[dict], object]) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    change(settings)
    path.write_text(json.dumps(settings), encoding="utf-8")


def to_pickle(folder: Path, name: str = "pytorch_model.bin") -> Path:
    """Save the weights as torch does, in the place of safetensors."""
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    return folder


# Re-rankers

SETTINGS = ["train.model", "train.teacher", "guards.denoise.model", "compare.models"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_reranker_that_scores_passes_whatever_names_it(setting, tmp_path):
    model = tiny_cross_encoder(tmp_path / "model")
    preflight.check_rerankers(named(setting, model), ("mine", "train", "compare"))


def two_labels(folder: Path) -> Path:
    return tiny_cross_encoder(folder, labels=2)


def not_a_number(folder: Path) -> Path:
    return spoil_weights(tiny_cross_encoder(folder))


def nothing(folder: Path) -> Path:
    folder.mkdir()
    return folder


def pickled(folder: Path) -> Path:
    return to_pickle(tiny_cross_encoder(folder))


def vocabulary(folder: Path) -> Path:
    tiny_cross_encoder(folder)
    edit(folder / "tokenizer.json", lambda settings: settings["model"]["vocab"].update(kubernetes=999))
    return folder


def code(folder: Path) -> Path:
    edit(tiny_cross_encoder(folder) / "config.json", lambda s: s.update(model_type="x", auto_map={"AutoConfig": "a.B"}))
    return folder


def adapter(folder: Path) -> Path:
    pytest.importorskip("peft", reason="pip install 'hnmine[adapters]'")
    tiny_cross_encoder(folder)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": "./nowhere"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def template(folder: Path) -> Path:
    LAYOUTS["Qwen3 of yes and no, with a chat template"].build(folder)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}", encoding="utf-8")
    return folder


def deaf(folder: Path) -> Path:
    """Return a model whose template ends in more words than are read."""
    LAYOUTS["Qwen3 of yes and no, with a chat template"].build(folder)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8") + "yes no " * 99, encoding="utf-8")
    return folder


BROKEN = {
    deaf: r"gives every pair the same score: .*; let it read more than \d+ tokens",
    two_labels: "2 labels; a re-ranker has one",
    not_a_number: "NaN or infinity",
    nothing: r"holds no \*\.safetensors and no config\.json: it is no model",
    pickled: r"holds no \*\.safetensors; .* convert them once by:",
    vocabulary: "knows 'kubernetes' as token 999, and the embedding has 57 rows",
    code: "names code in 'auto_map'",
    adapter: "is an adapter, and its base model cannot be had",
    template: "cannot score a pair: .*no such role",
}


@pytest.mark.parametrize("build", BROKEN)
def test_what_is_wrong_with_a_reranker_is_said_with_its_setting(build, tmp_path):
    model = build(tmp_path / "model")
    for setting in SETTINGS if build is nothing else SETTINGS[:1]:
        with pytest.raises(ModelError, match=rf"(?s)^{setting}: .*{BROKEN[build]}") as caught:
            preflight.check_rerankers(named(setting, model), ("mine", "train", "compare"))
        assert str(caught.value).count(setting) == 1


def test_a_start_without_a_head_passes_and_a_teacher_without_one_does_not(tmp_path):
    body = tiny_cross_encoder(tmp_path / "body", head=False)
    preflight.check_rerankers(named("train.model", body), ("train",))
    with pytest.raises(ModelError, match=r"^train\.teacher: .* has no ranking head"):
        preflight.check_rerankers(named("train.teacher", body), ("train",))


def test_a_start_that_cannot_be_cut_into_passages_is_refused_where_these_are_asked_for(tmp_path: Path) -> None:
    model = LAYOUTS["Qwen3 of yes and no, with a chat template"].build(tmp_path / "model")
    config = configure(overrides=[f"train.model={model}", "train.max_tokens=64", "evaluate.long_documents=maxp"])
    with pytest.raises(ModelError, match=r"train\.model: .* chat template .*; set evaluate\.long_documents: truncate"):
        preflight.check_rerankers(config, ["train"])


def test_what_a_model_declares_is_no_fewer_than_asked_for(tmp_path, capfd):
    model = tiny_cross_encoder(tmp_path / "model")
    how = {"max_tokens": preflight.MOST_READ + 1, "device": "cpu", "dtype": "float32"}
    preflight.check_reranker("--model", str(model), "cross-encoder", model, how)
    assert not capfd.readouterr().err


def test_fewer_positions_than_tokens_are_said(tmp_path, capfd):
    model = tiny_cross_encoder(tmp_path / "model")
    config = configure(overrides=[f"train.model={model}", "train.max_tokens=256"])
    preflight.check_rerankers(config, ("train",))
    assert f"train.model: {model} reads 128 tokens of a pair, not 256" in capfd.readouterr().err


def test_only_what_the_steps_use_is_loaded(tmp_path):
    config = named("guards.denoise.model", nothing(tmp_path / "none"))
    preflight.check_rerankers(config, ())
    with pytest.raises(ModelError):
        preflight.check_rerankers(config, ("mine",))


# Encoders


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_word_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16"}, {"long_documents": "mean"}, {"max_tokens": 9}])
def test_an_encoder_that_reads_short_empty_and_long_texts_passes(settings, tiny, tmp_path):
    preflight.check_encoder(encoder_plan(tiny, **settings))
    preflight.check_encoder(encoder_plan(tiny_decoder(tmp_path / "decoder")))
    preflight.check_encoder(replace(encoder_plan(tiny, engine="torch"), device="cuda", dtype="float16"))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (spoil_weights, r"encoder tiny \(float32\) gives NaN or infinity for 3 texts"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "encoder tiny: .* cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "encoder tiny: .* cannot be loaded"),
        (
            lambda folder: edit(folder / "config.json", lambda settings: settings.update(vocab_size=7)),
            r"encoder tiny: .*1 tensors are of another shape: embeddings\.word_embeddings\.weight \(\[20, 32\] for \[7",
        ),
    ],
)
def test_what_is_wrong_with_an_encoder_is_said_with_its_name(break_it, message, tiny):
    plan = encoder_plan(tiny)
    break_it(tiny)
    with pytest.raises(ModelError, match=rf"(?s)^{message}"):
        preflight.check_encoder(plan)


# Conversion


@pytest.mark.parametrize("kind", ["encoder", "re-ranker", "in two files"])
def test_the_command_in_the_message_converts_the_weights(kind, tiny, tmp_path):
    folder = tiny_cross_encoder(tmp_path / "it's a model") if kind != "encoder" else tiny
    load = load_sentence_transformer if kind == "encoder" else lambda path: CrossEncoder(str(path), device="cpu")
    before = load(folder).state_dict()
    if kind == "in two files":
        tensors = list(load_file(folder / "model.safetensors").items())
        (folder / "model.safetensors").unlink()
        for part, some in enumerate((tensors[:5], tensors[5:])):
            torch.save(dict(some), folder / f"pytorch_model-0000{part + 1}-of-00002.bin")
    else:
        to_pickle(folder)
    with pytest.raises(ModelError) as caught:
        resolve(str(folder))
    command = str(caught.value).split("convert them once by:\n")[1]
    subprocess.run(["bash", "-c", command], check=True)
    assert resolve(str(folder)) == folder
    after = load(folder).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# Before the work


@pytest.mark.parametrize("step", [pipeline.mine, pipeline.run])
def test_nothing_is_encoded_before_every_model_is_known_to_work(step, original, tmp_path):
    data, out = write_collection(tmp_path / "data"), tmp_path / "out"
    broken = not_a_number(tmp_path / "broken")
    encoder = f"encoders=[{{name: tiny, model: {original}}}]"
    config = configure(overrides=[encoder, f"guards.denoise.model={broken}", f"train.model={broken}"])
    with pytest.raises(ModelError, match=r"^(guards\.denoise\.model|train\.model): .*NaN or infinity"):
        step(data, out, config)
    assert not list(out.rglob("store/*/*.parquet"))
    config = configure(overrides=[f"encoders=[{{name: a, lexical: {{}}}}, {{name: tiny, model: {broken}}}]"])
    with pytest.raises(ModelError, match=r"broken is a re-ranker, and an encoder is expected"):
        pipeline.embed(data, out, config)
    assert not list(out.rglob("store/*/*.parquet"))


def test_an_encoder_is_not_loaded_for_texts_that_the_store_has(tiny, tmp_path):
    data, out = write_collection(tmp_path / "data"), tmp_path / "out"
    config = configure(overrides=[f"encoders=[{{name: tiny, model: {tiny}}}]"])
    assert pipeline.embed(data, out, config) == {"encoded": 50, "reused": 0}
    calls = []
    original = SentenceTransformer.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentenceTransformer, "__init__", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
        assert pipeline.embed(data, out, config) == {"encoded": 0, "reused": 50}
    assert not calls
