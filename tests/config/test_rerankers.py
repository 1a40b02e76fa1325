"""Names of re-rankers: each stands for one pinned model, wherever a re-ranker is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hnmine.config.base import slug
from hnmine.config.load import load
from hnmine.config.rerankers import RERANKERS, RerankerPreset, named_model

BUNDLED = {"all-minilm-l6-v2"}
"""Not pinned to a commit, but to the sha256 of the weights that a package brings."""
BGE = "BAAI/bge-reranker-v2-m3@953dc6f6f85a1b2dbfca4c34a2796e7dde08d41e"


@pytest.mark.parametrize("name", RERANKERS)
def test_a_preset_is_named_after_its_model_and_pinned(name: str) -> None:
    hub_name, _, commit = RERANKERS[name].model.partition("@")
    assert name == slug(hub_name.rpartition("/")[2])
    assert re.fullmatch("[0-9a-f]{40}", commit) or name in BUNDLED
    assert RERANKERS[name].parameters
    assert load(overrides=[f"train.model={name}"]).train.model == RERANKERS[name].model


def test_no_commit_serves_two_models() -> None:
    commits = [preset.model.partition("@")[2] for preset in RERANKERS.values()]
    assert len(set(commits)) == len(commits)


def test_there_are_small_and_large_ones_english_and_multilingual_ones() -> None:
    def sizes(languages: str) -> set[int]:
        found = [preset.parameters for preset in RERANKERS.values() if preset.languages == languages]
        return {int(float(size[:-1]) * (1000 if size[-1] == "B" else 1)) for size in found}

    assert min(sizes("English")) <= 50
    assert max(sizes("English")) >= 1000
    assert min(sizes("multilingual")) <= 150
    assert max(sizes("multilingual")) >= 500


def test_only_what_was_run_says_where() -> None:
    run = {name for name, preset in RERANKERS.items() if preset.run_on != "not run"}
    assert run == {"all-minilm-l6-v2", "all-mpnet-base-v2"}


def test_a_name_stands_for_its_model_wherever_a_re_ranker_is_named() -> None:
    teacher = ["train.teacher=bge-reranker-v2-m3", "train.loss=kl"]
    config = load(
        overrides=[*teacher, "guards.denoise.model=bge-reranker-v2-m3", "compare.models=[bge-reranker-v2-m3, x]"]
    )
    assert config.train.teacher == BGE
    assert config.guards.denoise is not None
    assert config.guards.denoise.model == BGE
    assert config.compare.models == (BGE, "x")
    assert load(overrides=["train.model=some/model@main"]).train.model == "some/model@main"


def test_a_folder_of_that_name_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_model("bge-reranker-v2-m3") == BGE
    (tmp_path / "bge-reranker-v2-m3").mkdir()
    assert named_model("bge-reranker-v2-m3") == "bge-reranker-v2-m3"


@pytest.mark.parametrize(
    "wrong",
    [{"parameters": "many"}, {"parameters": "110"}, {"model": "a/b@main"}, {"licence": None}, {"stars": 5}],
)
def test_a_preset_that_says_too_little_or_nonsense_is_refused(wrong: dict[str, object]) -> None:
    right = {"model": BGE, "licence": "MIT", "parameters": "1.5B", "languages": "English", "layout": "decoder"}
    assert RerankerPreset.model_validate(right).run_on == "not run"
    with pytest.raises(ValueError, match="validation error"):
        RerankerPreset.model_validate(right | wrong)
