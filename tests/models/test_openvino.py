"""OpenVINO against torch on every architecture that `auto` hands it."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from hnmine.errors import ConfigError, ModelError
from hnmine.models import openvino
from hnmine.models.openvino import CompiledNetwork, choose_engine
from tests.builders.models import encoder_plan, tiny_word_encoder
from tests.builders.texts import SENTENCES

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHAPE |= {"vocab_size": 90, "max_position_embeddings": 96, "pad_token_id": 1}
DISTIL = {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 64}


def network(model_type: str, head: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    of_type = {"distilbert": DISTIL, "modernbert": ends}.get(model_type, {})
    config = AutoConfig.for_model(model_type, **SHAPE, **of_type, **({"num_labels": 1} if head else {}))
    return (AutoModelForSequenceClassification if head else AutoModel).from_config(config).eval()


def batch(*lengths: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens of these lengths, padded to the longest."""
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, 90, mask.shape, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids.masked_fill(~mask, 1), "attention_mask": mask.long()}


def by_words(texts):
    return batch(*(len(text.split()) for text in texts))


@pytest.mark.parametrize(
    ("model_type", "head"), [(name, False) for name in sorted(openvino.TRIED)] + [("bert", True), ("modernbert", True)]
)
def test_openvino_computes_what_torch_does_on_batches_of_any_shape(model_type, head):
    body, output = network(model_type, head), "logits" if head else "last_hidden_state"
    compiled = CompiledNetwork(body, output, by_words, "float32", lanes=1)
    for at, lengths in enumerate([(1,), (5, 5), (40, 3, 17, 1), (64,)]):
        inputs = batch(*lengths, seed=at)
        with torch.inference_mode():
            expected = body(**inputs)[output]
        read = inputs["attention_mask"].bool() if not head else slice(None)
        assert torch.allclose(compiled(**inputs)[read], expected[read], atol=2e-5)


def test_padding_beside_a_text_changes_nothing():
    compiled = CompiledNetwork(network("bert"), "last_hidden_state", by_words, "float32", lanes=1)
    alone, beside = batch(6, seed=3), batch(6, 30, seed=4)
    beside["input_ids"][0, :6] = alone["input_ids"][0]
    assert torch.allclose(compiled(**alone)[0], compiled(**beside)[0, :6], atol=1e-5)


def test_threads_share_a_compiled_network():
    compiled = CompiledNetwork(network("bert"), "last_hidden_state", by_words, "float32", lanes=2)
    inputs = [batch(1 + i % 30, 5, seed=i) for i in range(60)]
    one_by_one = [compiled(**each) for each in inputs]
    with ThreadPoolExecutor(6) as pool:  # more than it has requests
        together = list(pool.map(lambda each: compiled(**each), inputs))
    assert all(torch.equal(a, b) for a, b in zip(one_by_one, together, strict=True))


def test_inputs_that_the_network_was_not_traced_with_are_left_aside():
    compiled = CompiledNetwork(network("bert"), "last_hidden_state", by_words, "float32", lanes=1)
    assert torch.equal(compiled(**batch(4), return_dict=True, modality="text"), compiled(**batch(4)))


def test_a_network_that_comes_out_wrong_is_refused():
    body = network("bert")
    true_forward = body.forward
    body.forward = lambda **inputs: true_forward(**inputs) if torch.jit.is_tracing() else _twice(true_forward(**inputs))
    with pytest.raises(ModelError, match="something else than torch of BertModel; set engine: torch"):
        CompiledNetwork(body, "last_hidden_state", by_words, "float32", lanes=1)


@pytest.mark.parametrize("seed", range(5))
def test_scores_near_nothing_are_no_reason_to_refuse_bfloat16_and_wrong_ones_are(seed):
    torch.manual_seed(seed)
    body, second = network("bert", head=True), batch(9, seed=seed)
    torch.nn.init.normal_(body.classifier.weight)
    with torch.inference_mode():
        body.classifier.bias -= body(**second)["logits"][0]
        assert body(**second)["logits"].abs().max() < 1e-5
    CompiledNetwork(body, "logits", lambda texts: second if len(texts) == 3 else batch(2, 7), "bfloat16", lanes=1)
    true_forward = body.forward

    def of_other_words(**inputs):
        other = (inputs["input_ids"] + 7) % 90
        return true_forward(**inputs | ({"input_ids": other} if torch.jit.is_tracing() else {}))

    body.forward = of_other_words
    with pytest.raises(ModelError, match="something else than torch of BertForSequenceClassification"):
        CompiledNetwork(body, "logits", lambda texts: second if len(texts) == 3 else batch(2, 7), "bfloat16", lanes=1)


def _twice(outputs):
    outputs["last_hidden_state"] = 2 * outputs["last_hidden_state"]
    return outputs


def test_a_network_that_cannot_be_traced_is_told():
    body = network("bert")

    def broken(**_inputs):
        raise RuntimeError("no such operator")

    body.forward = broken
    with pytest.raises(ModelError, match=r"cannot take BertModel \(.*no such operator.*\); set engine: torch"):
        CompiledNetwork(body, "last_hidden_state", by_words, "float32", lanes=1)


def test_nothing_is_sent_anywhere(monkeypatch):
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    CompiledNetwork(network("bert"), "last_hidden_state", by_words, "float32", lanes=1)
    assert not [address for address in asked if address[0] != "127.0.0.1"]  # where threads of other tests may still ask
    assert not [thread for thread in threading.enumerate() if "telemetry" in thread.name.lower()]


@pytest.mark.parametrize(
    ("setting", "device", "dtype", "model_type", "adapters", "expected"),
    [
        ("auto", "cpu", "bfloat16", "bert", False, "openvino"),
        ("auto", "cpu", "float32", "mpnet", False, "openvino"),
        ("auto", "cpu", "float16", "bert", False, "torch"),
        ("auto", "gpu", "float16", "bert", False, "torch"),
        ("auto", "cpu", "float32", "gte", False, "torch"),
        ("auto", "cpu", "float32", None, False, "torch"),
        ("auto", "cpu", "float32", "bert", True, "torch"),
        ("torch", "cpu", "float32", "bert", False, "torch"),
        ("openvino", "cpu", "float32", "gte", False, "openvino"),
    ],
)
def test_the_engine_follows_from_device_dtype_and_architecture(
    monkeypatch, setting, device, dtype, model_type, adapters, expected
):
    monkeypatch.setattr(openvino.platform, "machine", lambda: "x86_64")
    assert choose_engine(setting, device, dtype, model_type, adapters=adapters) == expected


@pytest.mark.parametrize(
    ("device", "dtype", "adapters", "reason"),
    [
        ("gpu", "float16", False, "the device is gpu"),
        ("cpu", "float16", False, "the dtype is float16"),
        ("cpu", "float32", True, "adapters"),
    ],
)
def test_openvino_that_cannot_serve_is_an_error_where_it_was_asked_for(device, dtype, adapters, reason):
    with pytest.raises(ConfigError, match=reason):
        choose_engine("openvino", device, dtype, "bert", adapters=adapters)


def test_without_openvino_torch_computes_and_asking_for_it_names_the_extra(monkeypatch):
    monkeypatch.setattr(openvino, "find_spec", lambda _name: None)
    assert choose_engine("auto", "cpu", "float32", "bert") == "torch"
    with pytest.raises(ConfigError, match=r"hnmine\[cpu\]"):
        choose_engine("openvino", "cpu", "float32", "bert")


def test_on_another_processor_torch_is_the_default(monkeypatch):
    monkeypatch.setattr(openvino.platform, "machine", lambda: "arm64")
    assert choose_engine("auto", "cpu", "float32", "bert") == "torch"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_gives_by_either_engine_the_same_vectors_under_another_fingerprint(tmp_path, dtype):
    folder = tiny_word_encoder(tmp_path / "tiny")
    by_torch, by_openvino = (encoder_plan(folder, dtype=dtype, engine=name) for name in ("torch", "openvino"))
    assert by_torch.fingerprint != by_openvino.fingerprint
    a, b = (each.build(lanes=2).encode(SENTENCES) for each in (by_torch, by_openvino))
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > (0.999999 if dtype == "float32" else 0.999)


def test_an_encoder_gives_the_same_bits_on_one_lane_and_on_three(tmp_path):
    planned = encoder_plan(tiny_word_encoder(tmp_path / "tiny"), engine="openvino", budget=64)
    texts = [f"{sentence} {'a' * i}" for i in range(20) for sentence in SENTENCES]
    assert np.array_equal(planned.build(lanes=1).encode(texts), planned.build(lanes=3).encode(texts))
