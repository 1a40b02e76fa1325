"""What tells a re-ranker from a body, and folders that are no re-ranker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hnmine.errors import ModelError
from hnmine.models.ranking_head import has_ranking_head
from tests.builders.models import load_cross_encoder, tiny_cross_encoder
from tests.builders.rerankers import BODY, LAYOUTS


@pytest.mark.parametrize("name", [name for name in LAYOUTS if ":" in name or "yes" in name or "LoRA" in name])
def test_a_head_is_found_in_any_layout(name: str, tmp_path: Path) -> None:
    assert has_ranking_head(LAYOUTS[name].build(tmp_path / "model"))


def test_a_head_is_found_by_its_tensors_where_the_config_names_no_architecture(tmp_path: Path) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    del config["architectures"]
    (model / "config.json").write_text(json.dumps(config))
    assert has_ranking_head(model)
    assert not has_ranking_head(BODY.build(tmp_path / "body"))


def test_the_folder_of_a_run_is_told_where_its_re_ranker_is(tmp_path: Path) -> None:
    tiny_cross_encoder(tmp_path / "out" / "reranker")
    with pytest.raises(ModelError, match=r"out has no config\.json with settings; give .*out/reranker$"):
        has_ranking_head(tmp_path / "out")


def test_has_head_tells_a_re_ranker_from_a_body(tmp_path: Path) -> None:
    assert has_ranking_head(tiny_cross_encoder(tmp_path / "ranker"))
    assert not has_ranking_head(tiny_cross_encoder(tmp_path / "body", head=False))


@pytest.mark.parametrize("labels", [2, 3])
def test_a_classifier_of_several_labels_is_refused(tmp_path: Path, labels: int) -> None:
    model = tiny_cross_encoder(tmp_path / "model", labels=labels)
    with pytest.raises(ModelError, match=f"is a classifier with {labels} labels; a re-ranker has one"):
        load_cross_encoder(model)


@pytest.mark.parametrize("name", ["activation.Softmax", "activation.GLU", "linear.Identity"])
def test_an_activation_that_makes_no_order_is_refused(tmp_path: Path, name: str) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{name}"}}
    (model / "config.json").write_text(json.dumps(config))
    if name == "linear.Identity":
        assert len(load_cross_encoder(model).scores(["a", "b"], ["c", "d"])) == 2
        return
    with pytest.raises(ModelError, match=rf"declares the activation {name[11:]}, .* declare torch\.nn"):
        load_cross_encoder(model)


@pytest.mark.parametrize("content", ["{broken", "", "[1]", None])
def test_an_unusable_config_is_a_clear_error(tmp_path: Path, content: str | None) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    (model / "config.json").unlink()
    if content is not None:
        (model / "config.json").write_text(content)
    for attempt in (load_cross_encoder, has_ranking_head):
        with pytest.raises(ModelError, match=r"config\.json.* give a Hugging Face model folder"):
            attempt(model)


@pytest.mark.parametrize("changes", [{"model_type": "nonsense"}, {"hidden_size": 64}, {"num_hidden_layers": "two"}])
def test_a_config_that_does_not_fit_is_a_model_error(tmp_path: Path, changes: dict[str, object]) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"re-ranker {model} (cannot be loaded|does not hold exactly)"):
        load_cross_encoder(model)


def test_damaged_weights_are_a_model_error(tmp_path: Path) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"re-ranker .*model "):
        load_cross_encoder(model)


def test_code_in_a_models_folder_never_runs_and_nothing_is_asked(tmp_path: Path) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "of-its-own", "auto_map": {"AutoConfig": "wrong.Config"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "wrong.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(ModelError, match="names code in 'auto_map'"):
        load_cross_encoder(model)
