"""A canary for every door: Python beside the model that writes a file when it is imported; the file never appears."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel, AutoTokenizer, Qwen2Config, Qwen2Model

from hnmine.errors import ModelError
from hnmine.models.strict import load
from hnmine.models.unsafe import refuse_code
from tests.builders.models import tiny_cross_encoder, tiny_word_encoder

CANARY = """
import pathlib
pathlib.Path({path!r}).write_text("it ran")
class Sings:
    def __init__(self, *arguments, **settings): pass
    load = from_pretrained = classmethod(lambda cls, *arguments, **settings: cls())
"""
Change = Callable[[Path], None]


def edit(folder: Path, file: str, **changes: object) -> None:
    """Write some settings anew."""
    path = folder / file
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(settings | changes), encoding="utf-8")


def edited(file: str, **changes: object) -> Change:
    return lambda folder: edit(folder, file, **changes)


def module(name: str, place: str = "") -> Change:
    """Put a module of this class in the place of the pooling."""

    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules[1] |= {"type": name} | ({"path": place} if place else {})
        (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")

    return change


def routed(folder: Path) -> None:
    module("sentence_transformers.base.modules.Router")(folder)
    edit(folder, "1_Pooling/router_config.json", types={"query_0": "canary.Sings"}, structure={}, parameters={})


def dense(folder: Path) -> None:
    module("sentence_transformers.base.modules.Dense")(folder)
    edit(folder, "1_Pooling/config.json", in_features=32, out_features=8, activation_function="canary.Sings")


def generating(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "canary.py", folder / "custom_generate" / "generate.py")


def adapter(**changes: object) -> Change:
    settings = {"peft_type": "LORA", "r": 2, "target_modules": ["query"], "base_model_name_or_path": "x"}
    return edited("adapter_config.json", **settings | changes)


AUTO = {"AutoConfig": "canary.Sings", "AutoModel": "canary.Sings", "AutoTokenizer": [None, "canary.Sings"]}
DOORS: dict[str, tuple[Change, str]] = {
    "config": (edited("config.json", model_type="of-its-own", auto_map=AUTO), r"config\.json .*'auto_map'.*of-its-own"),
    "config of elsewhere": (
        edited("config.json", model_type="of-its-own", auto_map={"AutoConfig": "some/where--canary.Sings"}),
        r"config\.json .*'auto_map'",
    ),
    "no model type": (edited("config.json", model_type=None, auto_map=AUTO), r"config\.json .*'auto_map'"),
    "auto_map a list": (edited("config.json", auto_map=["canary.Sings"]), r"config\.json .*'auto_map'"),
    "tokenizer": (
        edited("tokenizer_config.json", tokenizer_class="Sings", auto_map={"AutoTokenizer": [None, "canary.Sings"]}),
        r"tokenizer_config\.json .*'auto_map'",
    ),
    "old tokenizer": (
        edited("tokenizer_config.json", auto_map=["canary.Sings", None]),
        r"tokenizer_config\.json .*'auto_map'",
    ),
    "processor": (
        edited("processor_config.json", auto_map={"AutoProcessor": "canary.Sings"}),
        r"processor_config\.json",
    ),
    "image processor": (
        edited("preprocessor_config.json", auto_map={"AutoImageProcessor": "canary.Sings"}),
        r"preprocessor_config\.json",
    ),
    "generation": (edited("generation_config.json", custom_generate="canary"), r"generation_config\.json"),
    "generation folder": (generating, "custom_generate"),
    "module": (module("canary.Sings"), r"modules\.json .*'type': 'canary\.Sings'"),
    "no module of the library": (module("sentence_transformers.util.misc.importlib"), r"modules\.json"),
    "a function of the library": (module("sentence_transformers.util.http_get"), r"modules\.json"),
    "outside of the folder": (
        module("sentence_transformers.models.Pooling", "../elsewhere"),
        r"leads out of the folder",
    ),
    "shards outside of the folder": (
        edited("model.safetensors.index.json", weight_map={"embeddings": "../elsewhere.safetensors"}),
        r"the shard '\.\./elsewhere\.safetensors' leads out of the folder",
    ),
    "router": (routed, r"router_config\.json .*'types'"),
    "activation": (dense, r"1_Pooling/config\.json .*'activation_function'"),
    "activation of torch": (
        edited("config.json", sentence_transformers={"activation_fn": "torch.utils.collect_env.main"}),
        r"config\.json .*'activation_fn'",
    ),
    "old activation": (edited("config.json", sbert_ce_default_activation_function="canary.Sings"), r"config\.json"),
    "tokenizer of words": (
        edited("1_Pooling/wordembedding_config.json", tokenizer_class="canary.Sings"),
        r"wordembedding_config\.json .*'tokenizer_class'",
    ),
    "kernel": (edited("config.json", _attn_implementation="some/kernel"), r"kernel of the hub"),
    "kernel by the loader": (
        edited("sentence_bert_config.json", model_kwargs={"attn_implementation": "some/kernel"}),
        r"kernel of the hub",
    ),
    "pickle by the loader": (
        edited("sentence_bert_config.json", model_kwargs={"weights_only": False}),
        r"sentence_bert_config\.json .*'weights_only'",
    ),
    "another tokenizer": (
        edited("sentence_bert_config.json", tokenizer_name_or_path="some/where"),
        r"sentence_bert_config\.json .*'tokenizer_name_or_path'",
    ),
    "another task": (edited("sentence_bert_config.json", transformer_task="retrieval"), r"'transformer_task'"),
    "adapter": (
        adapter(auto_mapping={"base_model_class": "Sings", "parent_library": "canary"}),
        r"adapter_config\.json .*'auto_mapping'",
    ),
    "adapter of megatron": (adapter(megatron_config={"a": 1}, megatron_core="canary"), r"'megatron_core'"),
    "adapter of magnitudes": (adapter(use_dora=True), r"adapter_config\.json: by 'use_dora' .* merge it"),
    "adapter drawn anew": (adapter(init_lora_weights="pissa_niter_4"), r"'init_lora_weights' .* drawn anew .* merge"),
    "adapter of other parts": (adapter(peft_type="ADALORA"), r"adapter_config\.json.*ADALORA"),
    "adapter of prompts": (adapter(peft_type="PROMPT_TUNING"), r"adapter_config\.json.*PROMPT_TUNING"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_word_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def cage(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model beside a canary, from where Python imports too."""
    folder = Path(shutil.copytree(original, tmp_path / "model"))
    (folder / "canary.py").write_text(CANARY.format(path=str(tmp_path / "sang")), encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("stdin", ["closed", "", "y\n" * 99], ids=["closed", "empty", "yes"])
@pytest.mark.parametrize("door", DOORS)
def test_no_door_lets_code_in_and_each_is_named(door, stdin, cage, monkeypatch):
    change, message = DOORS[door]
    change(cage)
    monkeypatch.setattr(sys, "stdin", None if stdin == "closed" else io.StringIO(stdin))
    loaders = (SentenceTransformer, CrossEncoder, AutoModel.from_pretrained, AutoTokenizer.from_pretrained)
    for loader in loaders[: 1 if stdin else 4]:
        with pytest.raises(ModelError, match=message):
            load(loader, cage)
    assert not (cage.parent / "sang").exists()
    assert "canary" not in sys.modules


@pytest.mark.parametrize("stdin", [None, io.StringIO("y\n" * 99)], ids=["closed", "yes"])
def test_code_that_is_not_needed_does_not_run_and_the_model_is_what_it_was(stdin, original, cage, monkeypatch):
    edit(cage, "config.json", auto_map=AUTO)
    edit(cage, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "canary.Sings"]})
    monkeypatch.setattr(sys, "stdin", stdin)
    texts = ["deploy mysql", "in the cloud"]
    found = load(SentenceTransformer, cage, device="cpu").encode(texts)
    assert (found == load(SentenceTransformer, original, device="cpu").encode(texts)).all()
    assert not (cage.parent / "sang").exists()


@pytest.mark.parametrize(
    ("auto_map", "refused"),
    [
        ({"AutoModel": "modeling_qwen.Qwen2Model"}, True),  # GTE's, whose attention looks both ways
        ({"AutoModel": "some/where--modeling_qwen.Qwen2Model"}, True),
        ({"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"}, False),
        ({"AutoConfig": "configuration_qwen.QwenConfig"}, False),
    ],
)
def test_a_decoder_is_taken_for_transformers_own_only_if_its_code_is_that_file(auto_map, refused, cage):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    Qwen2Model(Qwen2Config(vocab_size=20, intermediate_size=16, **shape)).save_pretrained(cage)
    edit(cage, "config.json", auto_map=auto_map)
    if refused:
        with pytest.raises(ModelError, match=r"that may compute otherwise than transformers' qwen2.*is_causal"):
            load(SentenceTransformer, cage)
    else:
        load(AutoModel.from_pretrained, cage)


@pytest.mark.parametrize(
    "change",
    [
        adapter(
            auto_mapping={"base_model_class": "BertModel", "parent_library": "transformers.models.bert.modeling_bert"}
        ),
        adapter(auto_mapping=None, megatron_core="megatron.core", megatron_config=None),
        edited("config.json", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"}),
        edited("config.json", hidden_act="gelu", tokenizer_class="BertTokenizerFast", _attn_implementation="sdpa"),
        edited("generation_config.json", do_sample=False),
        edited("onnx/config.json", auto_map=AUTO),
        module("sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
    ],
)
def test_what_is_the_libraries_own_passes(change, cage):
    change(cage)
    refuse_code(cage)


def test_weights_that_can_run_code_are_refused_before_they_are_read(tmp_path):
    folder = tiny_cross_encoder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors; .* refused"):
        load(CrossEncoder, folder)
    folder = tiny_cross_encoder(tmp_path / "adapted")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"adapter holds no \*\.safetensors"):
        load(CrossEncoder, folder)
