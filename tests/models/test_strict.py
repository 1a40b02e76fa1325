"""What is loaded holds exactly the tensors of its files; every layout is also compared with its library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from transformers import AutoModel, BertTokenizerFast

from hnmine.errors import ModelError
from hnmine.models.folder import folder_sha256
from hnmine.models.strict import load
from tests.builders.gte import random_tensors, tiny_stella_encoder
from tests.builders.models import WORD_VOCABULARY, spoil_weights, tiny_cross_encoder, tiny_decoder, tiny_word_encoder

TEXTS = ["deploy mysql in the cloud", "on premises"]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SHAPE |= {"vocab_size": len(WORD_VOCABULARY), "max_position_embeddings": 64, "pad_token_id": 0}
FAMILIES = {
    "Bert": {},
    "Roberta": {},
    "XLMRoberta": {},
    "MPNet": {},
    "DebertaV2": {},
    "Electra": {"embedding_size": 16},
    "Albert": {"embedding_size": 16},
    "DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "ModernBert": {"cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 1},
    "Qwen2": {"num_key_value_heads": 1},
    "Qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "Llama": {"num_key_value_heads": 1},
    "GPTNeoX": {},
    "Gemma": {"num_key_value_heads": 1, "head_dim": 8},
}


def saved(family: str, task: str, folder: Path, **settings: object) -> Path:
    """Save a random model of this family and task that reads words."""
    config = getattr(transformers, f"{family}Config")(**SHAPE | FAMILIES[family] | settings)
    torch.manual_seed(0)
    getattr(transformers, f"{family}{task}")(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORD_VOCABULARY), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Write the weights anew."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_word_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


# Tensors

LAYER = "encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != LAYER}, rf"1 tensors are missing: {LAYER}"),
        (
            lambda w: w | {"encoder.layer.2.output.dense.weight": w[LAYER].clone()},
            r"1 tensors are left over: encoder.lay",
        ),
        (lambda w: w | {LAYER: w[LAYER][:, :5].clone()}, rf"1 tensors are of another shape: {LAYER} \(\[32, 5\] for"),
        (
            lambda w: {f"other.{k}": v for k, v in w.items()},
            r"37 tensors are missing: .*, …; 37 tensors are left over: other\.",
        ),
        (lambda w: {"nothing": torch.zeros(1)}, r"37 tensors are missing: .*; 1 tensors are left over: nothing"),
    ],
)
def test_a_missing_a_left_over_and_a_misshapen_tensor_are_named_and_counted(change, message, tiny):
    rewrite(tiny, change)
    for loader in (SentenceTransformer, AutoModel.from_pretrained):
        with pytest.raises(ModelError, match=message) as caught:
            load(loader, tiny)
        assert str(tiny) in str(caught.value)
        assert "get the folder anew" in str(caught.value)


def test_a_head_of_another_shape_and_one_with_other_names_are_errors(tmp_path):
    torch.manual_seed(0)
    body = tiny_cross_encoder(tmp_path / "body", head=False)
    modules = [Transformer(str(body)), Pooling(32, "mean"), Dense(32, 8)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    head = tmp_path / "model" / "2_Dense"
    tensors = load_file(head / "model.safetensors")
    save_file({f"x.{name}": value for name, value in tensors.items()}, head / "model.safetensors")
    with pytest.raises(ModelError, match=r"(?s)cannot be loaded: .*linear\.weight"):
        load(SentenceTransformer, tmp_path / "model")
    save_file({name: value[:4].clone() for name, value in tensors.items()}, head / "model.safetensors")
    with pytest.raises(ModelError, match=r"(?s)cannot be loaded: .*size mismatch"):
        load(SentenceTransformer, tmp_path / "model")


def test_a_setting_that_the_library_would_leave_out_is_an_error(tmp_path):
    body = tiny_cross_encoder(tmp_path / "body", head=False)
    SentenceTransformer(modules=[Transformer(str(body)), Pooling(32, "mean"), Dense(32, 32)], device="cpu").save(
        str(tmp_path / "model")
    )
    path = tmp_path / "model" / "2_Dense" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"made_up": True}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"otherwise than it was made: Ignoring unrecognized Dense .*made_up"):
        load(SentenceTransformer, tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w | {"embeddings.position_ids": torch.arange(64)[None]},
        lambda w: {k: v for k, v in w.items() if "pooler" not in k},
        lambda w: {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in w.items()},
        lambda w: {f"bert.{k}": v for k, v in w.items()} | {"cls.predictions.bias": torch.zeros(20)},
    ],
    ids=["position_ids", "no pooler", "gamma and beta", "a body's head"],
)
def test_what_files_rightly_have_more_or_less_is_no_error(change, original, tiny):
    rewrite(tiny, change)
    found = load(SentenceTransformer, tiny, device="cpu").encode(TEXTS)
    assert (found == load(SentenceTransformer, original, device="cpu").encode(TEXTS)).all()


def test_a_pooler_that_is_missing_is_zero_and_an_error_where_it_is_read(tiny):
    rewrite(tiny, lambda w: {k: v for k, v in w.items() if "pooler" not in k})
    assert not load(AutoModel.from_pretrained, tiny).pooler.dense.weight.any()
    path = tiny / "sentence_bert_config.json"
    read = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    settings = {"modality_config": read, "module_output_name": "sentence_embedding"}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), encoding="utf-8")
    with pytest.raises(ModelError, match=r"lacks 2 tensors of the pooler that it reads"):
        load(SentenceTransformer, tiny)


# Families


TRAINED = [
    (family, task)
    for family in FAMILIES
    for task in ("Model", "ForMaskedLM", "ForPreTraining", "ForCausalLM")
    if hasattr(transformers, f"{family}{task}")
]


@pytest.mark.parametrize(("family", "task"), TRAINED)
def test_a_body_is_an_encoder_whatever_head_it_was_trained_with(family, task, tmp_path):
    folder = saved(family, task, tmp_path / "model")
    found = load(SentenceTransformer, folder, device="cpu").encode(TEXTS)
    assert (found == SentenceTransformer(str(folder), device="cpu").encode(TEXTS)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_classifier_is_loaded_as_it_is_and_a_body_only_with_a_new_head(family, tmp_path):
    folder = saved(family, "ForSequenceClassification", tmp_path / "whole", num_labels=1)
    found = load(CrossEncoder, folder, device="cpu").model.state_dict()
    expected = load_file(folder / "model.safetensors")
    assert set(expected) <= set(found)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    task = "Model" if family in ("Qwen2", "Qwen3", "Llama", "GPTNeoX", "Gemma") else "ForMaskedLM"
    body = saved(family, task, tmp_path / "body")
    with pytest.raises(ModelError, match=r"tensors are missing: .*(classifier|score|pooler)"):
        load(CrossEncoder, body)
    load(CrossEncoder, body, new_head=True, device="cpu")
    layer = next(name for name in load_file(body / "model.safetensors") if ".0." in name)
    rewrite(body, lambda w: {k: v for k, v in w.items() if k != layer})
    with pytest.raises(ModelError, match="1 tensors are missing"):
        load(CrossEncoder, body, new_head=True)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Llama", "Gemma"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_decoder_has_its_logits_tied_or_not(family, tied, tmp_path):
    folder = saved(family, "ForCausalLM", tmp_path / "model", tie_word_embeddings=tied)
    loaded = load(transformers.AutoModelForCausalLM.from_pretrained, folder)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    if not tied:
        rewrite(folder, lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"})
        with pytest.raises(ModelError, match=r"1 tensors are missing: lm_head\.weight"):
            load(transformers.AutoModelForCausalLM.from_pretrained, folder)


def test_a_re_ranker_in_gtes_own_layout_is_loaded_as_it_is(tmp_path):
    folder = tiny_stella_encoder(tmp_path / "model")
    for file in ("modules.json", "sentence_bert_config.json"):
        (folder / file).unlink()
    path = folder / "config.json"
    settings = {"architectures": ["NewForSequenceClassification"], "id2label": {"0": "score"}}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), encoding="utf-8")
    head = {"new.pooler.dense.weight": (32, 32), "new.pooler.dense.bias": (32,)}
    head |= {"classifier.weight": (1, 32), "classifier.bias": (1,)}
    given = random_tensors(head)
    rewrite(folder, lambda w: {f"new.{name}": value for name, value in w.items()} | given)
    found = load(CrossEncoder, folder, device="cpu").model.state_dict()
    assert all(torch.equal(found[name.replace("new.", "gte.")], value) for name, value in given.items())
    rewrite(folder, lambda w: {name: value for name, value in w.items() if name != "classifier.bias"})
    with pytest.raises(ModelError, match=r"1 tensors are missing: classifier\.bias"):
        load(CrossEncoder, folder)


# Kinds


def test_a_model_of_another_kind_is_named(tmp_path, tiny):
    ranker = tiny_cross_encoder(tmp_path / "ranker")
    with pytest.raises(ModelError, match="ranker is a re-ranker, and an encoder is expected"):
        load(SentenceTransformer, ranker)
    CrossEncoder(str(ranker), device="cpu").save_pretrained(str(tmp_path / "again"))
    with pytest.raises(ModelError, match="again is a re-ranker, and an encoder is expected"):
        load(SentenceTransformer, tmp_path / "again")
    with pytest.raises(ModelError, match="model is an encoder, and a re-ranker is expected"):
        load(CrossEncoder, tiny)
    SparseEncoder(str(saved("Bert", "ForMaskedLM", tmp_path / "mlm")), device="cpu").save_pretrained(
        str(tmp_path / "sp")
    )
    with pytest.raises(ModelError, match="sp is a SparseEncoder, and an encoder is expected"):
        load(SentenceTransformer, tmp_path / "sp")


# Adapters


@pytest.fixture(params=["encoder", "re-ranker"])
def adapted(request, tmp_path) -> tuple[Path, Path, type]:
    """An adapter, its base, and what loads it; a re-ranker's has the head, which the base lacks."""
    peft = pytest.importorskip("peft", reason="pip install 'hnmine[adapters]'")
    base = saved("Bert", "Model", tmp_path / "base")
    ranks = request.param == "re-ranker"
    task, kind = ("SEQ_CLS", "AutoModelForSequenceClassification") if ranks else ("FEATURE_EXTRACTION", "AutoModel")
    lora = peft.LoraConfig(task_type=task, r=2, target_modules=["query", "value"], init_lora_weights=False)
    torch.manual_seed(1)
    network = getattr(transformers, kind).from_pretrained(base, **({"num_labels": 1} if ranks else {}))
    folder = tmp_path / "adapter"
    peft.get_peft_model(network, lora).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(base).save_pretrained(folder)
    return folder, base, CrossEncoder if ranks else SentenceTransformer


def outputs(loaded: object) -> object:
    return loaded.predict([TEXTS]) if isinstance(loaded, CrossEncoder) else loaded.encode(TEXTS)


def merged_outputs(folder: Path, base: Path, kind: type) -> object:
    """Outputs of the base with W + alpha / r B A by hand, and with the adapter's head if it has one."""
    tensors, weights = load_file(folder / "adapter_model.safetensors"), load_file(base / "model.safetensors")
    for name, down in tensors.items():
        target = name.removeprefix("base_model.model.").removeprefix("bert.")
        if target.endswith("lora_A.weight"):
            weights[target.replace("lora_A.", "")] += 8 / 2 * tensors[name.replace("lora_A", "lora_B")] @ down
    whole = Path(shutil.copytree(base, folder.with_name(f"merged-{kind.__name__}")))
    if kind is CrossEncoder:
        weights = {f"bert.{name}": value for name, value in weights.items()}
        weights |= {f"classifier.{part}": tensors[f"base_model.model.classifier.{part}"] for part in ("weight", "bias")}
        settings = json.loads((whole / "config.json").read_text("utf-8"))
        settings |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "score"}}
        (whole / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(weights, whole / "model.safetensors", {"format": "pt"})
    return outputs(kind(str(whole), device="cpu"))


def test_an_adapter_is_its_base_with_the_adapter(adapted):
    folder, base, kind = adapted
    before = folder_sha256(folder)
    found = outputs(load(kind, folder, device="cpu"))
    assert found == pytest.approx(merged_outputs(folder, base, kind), abs=1e-6)
    assert (found == outputs(load(kind, folder, device="cpu"))).all()
    assert "base/model.safetensors" in before
    spoil_weights(base)
    assert folder_sha256(folder) != before


def test_code_that_an_adapter_names_is_said_with_the_adapters_path(adapted):
    folder, _, kind = adapted
    path = folder / "adapter_config.json"
    mapping = {"parent_library": "elsewhere", "base_model_class": "Model"}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"auto_mapping": mapping}), encoding="utf-8")
    with pytest.raises(ModelError, match=f"^{path} names code in 'auto_mapping'"):
        load(kind, folder)


def test_an_adapter_without_its_base_or_without_a_tensor_or_with_code_in_its_base_is_refused(adapted):
    folder, base, kind = adapted
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="1 tensors are missing"):
        load(kind, folder)
    save_file(tensors | {"base_model.model.x.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="1 tensors are left over"):
        load(kind, folder)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (base / "custom_generate").mkdir()
    with pytest.raises(ModelError, match="base/custom_generate names code"):
        load(kind, folder)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="is an adapter, and its base model cannot be had"):
        load(kind, folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(ModelError, match="is an adapter that does not name its base model"):
        load(kind, folder)


# What makers leave open


def test_a_decoder_without_a_token_to_pad_with_pads_with_its_end(tmp_path):
    texts = ["deploy mysql in the cloud", "mysql"]
    padded = load(SentenceTransformer, tiny_decoder(tmp_path / "a", pad="[PAD]"), device="cpu")
    ended = load(SentenceTransformer, tiny_decoder(tmp_path / "b"), device="cpu")
    assert ended.tokenizer.pad_token == "b"
    assert ended.encode(texts) == pytest.approx(padded.encode(texts), abs=1e-6)
    with pytest.raises(ModelError, match=r"no token to pad with; set pad_token in tokenizer_config\.json"):
        load(SentenceTransformer, tiny_decoder(tmp_path / "c", end=None))


def test_no_more_is_read_than_there_are_positions_whatever_the_settings_say(tmp_path):
    folder = tmp_path / "model"
    body = Transformer(str(saved("Roberta", "Model", tmp_path / "body", pad_token_id=1)), max_seq_length=500)
    SentenceTransformer(modules=[body, Pooling(16, "mean")], device="cpu").save(str(folder))
    loaded = load(SentenceTransformer, folder, device="cpu")
    assert loaded.max_seq_length == 62  # the first position is behind the padding's
    assert (loaded.encode("a b c " * 200) == loaded.encode("a b c " * 20)).all()


@pytest.mark.parametrize("settings", [(), ("tokenizer_config.json",)], ids=["nothing", "settings alone"])
@pytest.mark.parametrize(
    ("loader", "tokenizer"), [(CrossEncoder, "BertTokenizer"), (SentenceTransformer, "XLMRobertaTokenizer")]
)
def test_a_tokenizer_is_not_made_up_where_the_folder_has_none(loader, tokenizer, settings, tmp_path):
    folder = saved("Bert", "ForSequenceClassification" if loader is CrossEncoder else "Model", tmp_path, num_labels=1)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer}), encoding="utf-8")
    for path in (folder / "tokenizer.json", folder / "vocab.txt", folder / "tokenizer_config.json"):
        if path.name not in settings:
            path.unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"has no tokenizer\.json nor another file of a vocabulary"):
        load(loader, folder)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_row_of_the_embedding_that_is_no_number_is_an_error_before_a_text_has_it(number, tiny):
    def spoil(tensors):
        tensors["embeddings.word_embeddings.weight"][7, 3] = number
        return tensors

    with pytest.raises(ModelError, match=r"1 rows of the embedding hold NaN or infinity; .* get the folder anew"):
        load(SentenceTransformer, rewrite(tiny, spoil))


def test_a_setting_that_the_library_does_not_know_is_named_with_the_kind_of_its_error(tiny):
    path = tiny / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"hidden_act": "wavelike"}), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded: KeyError: 'wavelike'"):
        load(SentenceTransformer, tiny)


def test_a_vocabulary_that_is_larger_than_the_embedding_is_an_error(tiny):
    path = tiny / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model"]["vocab"]["kubernetes"] = len(WORD_VOCABULARY)
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match=r"knows 'kubernetes' as token 20, and the embedding has 20 rows"):
        load(SentenceTransformer, tiny)
