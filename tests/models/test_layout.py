"""Model folders that are read otherwise than they lie there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hnmine.errors import ModelError
from hnmine.models.folder import folder_sha256
from hnmine.models.layout import arranged

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


def files_in(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    return folder


@pytest.fixture
def many(tmp_path) -> Path:
    """A folder with three heads and two adapters, whose files are links as in the hub cache."""
    head = [f"2_Dense{width}/{name}" for width in ("", "_16", "_64") for name in ("config.json", "model.safetensors")]
    files = [
        f"{name}/{file}" for name in ("ask", "tell") for file in ("adapter_config.json", "adapter_model.safetensors")
    ]
    blobs = files_in(tmp_path / "blobs", "model.safetensors", "1_Pooling/config.json", *head, *files)
    (blobs / "config.json").write_text(json.dumps(GTE), encoding="utf-8")
    (blobs / "modules.json").write_text(json.dumps(MODULES), encoding="utf-8")
    folder = tmp_path / "snapshot"
    for path in blobs.rglob("*.*"):
        link = folder / path.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


def test_a_folder_of_another_architecture_is_itself(many):
    (many / "config.json").unlink()
    (many / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    with arranged(many) as folder:
        assert folder == many


def test_what_is_laid_out_is_the_chosen_head_and_adapters_and_the_folder_stays_as_it_was(many):
    before = folder_sha256(many)
    with arranged(many, dense_head=64, adapters=("ask",)) as folder:
        there = folder_sha256(folder)
        paths = [module["path"] for module in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
    assert not folder.exists()
    assert folder_sha256(many) == before
    assert paths == ["", "1_Pooling", "2_Dense_64"]
    kept = {name for name in before if not name.startswith(("2_Dense/", "2_Dense_16/", "tell/"))}
    assert set(there) == kept
    assert {name for name in kept if there[name] != before[name]} == {"config.json", "modules.json"}


def test_heads_and_adapters_that_are_not_read_need_not_be_there_and_change_nothing(many):
    wish = {"dense_head": 64, "adapters": ("ask",)}
    with arranged(many, **wish) as folder:
        before = folder_sha256(folder)
    for name in ("2_Dense", "2_Dense_16", "tell"):
        shutil.rmtree(many / name)
    with arranged(many, **wish) as folder:
        assert folder_sha256(folder) == before


def test_the_remote_codes_rotary_scaling_becomes_a_base_and_a_factor(many):
    with arranged(many) as folder:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters")
    assert rope == {"rope_type": "linear", "rope_theta": 320_000.0, "factor": pytest.approx(2 ** (2 / 64))}
    assert config == {
        "model_type": "gte",
        "architectures": ["GteModel"],
        "hidden_size": 1024,
        "num_attention_heads": 16,
    }
    (many / "config.json").unlink()
    (many / "config.json").write_text(json.dumps(GTE | {"rope_scaling": None}), encoding="utf-8")
    with arranged(many) as folder:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 160_000}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"position_embedding_type": "absolute"},
            r"has position_embedding_type .* computed as a GTE, which has 'rope'",
        ),
        ({"layer_norm_type": "rms_norm"}, r"has layer_norm_type .* computed as a GTE, which has 'layer_norm'"),
        ({"logn_attention_scale": True}, r"has logn_attention_scale .* computed as a GTE, which has False"),
        ({"pack_qkv": False}, r"has pack_qkv .* computed as a GTE, which has True"),
        (
            {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}},
            "rope_scaling is expected to be ntk by more than 1",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is expected to be ntk by more than 1"),
        ({"rope_scaling": {"type": "ntk"}}, "rope_scaling is expected to be ntk by more than 1"),
    ],
)
def test_what_the_native_class_does_not_compute_is_refused(change, message, many):
    (many / "config.json").unlink()
    (many / "config.json").write_text(json.dumps(GTE | change), encoding="utf-8")
    with pytest.raises(ModelError, match=message), arranged(many):
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
    with pytest.raises(ModelError, match=message), arranged(many, **wish):
        pass


@pytest.mark.parametrize("modules", ["[]", json.dumps(MODULES[:2]), "[1, 2]", "{}", None])
def test_a_head_wants_a_model_that_has_one(modules, many):
    (many / "modules.json").unlink()
    if modules is not None:
        (many / "modules.json").write_text(modules, encoding="utf-8")
    expected = pytest.raises(ModelError, match=r"dense_head wants one <n>_Dense in modules\.json, there are 0")
    with expected, arranged(many, dense_head=64):
        pass
