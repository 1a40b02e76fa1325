"""Model cards: valid for the hub's own reader, true to the manifest, and silent about what nobody knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hnmine.config.load import load
from hnmine.errors import ConfigError
from hnmine.report.card import head_ranker_card, hub_name, licence_of, write_reranker_cards
from hnmine.runs.files import write_json
from hnmine.runs.folder import Run

METRICS = {"MRR@3": 0.5, "MRR@10": 0.51239, "nDCG@10": 0.6, "Recall@10": 1.0}
WORSE = {name: value / 2 for name, value in METRICS.items()}
TEST = {"difference": 0.2512, "low": 0.1034, "high": 0.3967, "p": 0.0021, "differing": 40}


def run_of(out: Path, *settings: str, model: str = "/home/someone/secret/body", kind: str = "cross-encoder") -> Run:
    """A run with one trained re-ranker, as its manifest says; no model is there."""
    recipe = {"kind": kind, "loss": "infonce", "teacher": {"model": "/home/someone/secret/teacher"}}
    facts = {"lists": 33, "steps": 15, "best_step": 10, "dev": 0.6, "dev_by_step": {"0": 0.41, "10": 0.6}}
    training = {
        "data": "/home/someone/secret/data",
        "start": {"model": model, "warmed_up": True, **facts, "recipe": recipe},
        "presets": {"paper": {**facts, "recipe": recipe}},
        "max_tokens": 64,
        "versions": {"hnmine": "0.1.0"},
    }
    rows = {"first stage: BM25": WORSE, "before: warm-started": WORSE, "after: paper": METRICS}
    evaluation = {
        "data": "/home/someone/secret/data",
        "queries": 1200,
        "split": "test",
        "metrics": rows | {"after: paper, blended": METRICS},
        "untrained": "first stage: BM25",
        "against_start": {name: {"MRR@10": TEST} for name in ("after: paper", "after: paper, blended")},
        "against_untrained": {"after: paper": {"MRR@10": TEST}},
        "versions": {"hnmine": "0.1.0"},
    }
    counts = {"documents": 3000, "queries": 140, "pairs": 150, "negatives": 700}
    manifest = {"mining": {"counts": counts}, "training": training, "evaluation": evaluation}
    return Run(out=out, config=load(overrides=settings), manifest=manifest)


def card_of(run: Run, name: str = "paper") -> ModelCard:
    """The card of a re-ranker, as the hub's own reader reads it, which refuses a wrong model-index."""
    write_reranker_cards(run)
    return ModelCard.load(run.out / "rerankers" / name / "README.md", ignore_metadata_errors=False)


def results_of(card: ModelCard) -> dict[str, float]:
    assert card.data.eval_results is not None
    assert {each.task_type for each in card.data.eval_results} == {"text-ranking"}
    return {str(each.metric_name): each.metric_value for each in card.data.eval_results}


def test_front_matter_says_what_is_known_and_invents_nothing(tmp_path: Path) -> None:
    card = card_of(run_of(tmp_path))
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("sentence-transformers", "text-ranking")
    assert not {"license", "language", "datasets", "base_model"} & data.keys(), "nobody said them"
    assert results_of(card) == {name: round(value, 4) for name, value in METRICS.items()}
    assert "None is stated here (`ranker.card`)" in card.text


def test_settings_fill_licence_languages_and_data(tmp_path: Path) -> None:
    settings = ("ranker.card={license: apache-2.0, language: [en, de], datasets: [someone/some-faq]}",)
    card = card_of(run_of(tmp_path, *settings))
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["datasets"]) == ("apache-2.0", ["en", "de"], ["someone/some-faq"])
    assert card.data.eval_results[0].dataset_type == "someone/some-faq"
    assert "## Licence" not in card.text


@pytest.mark.parametrize(
    "setting", ["{license: MIT License}", "{language: [English]}", "{datasets: [faq]}", "{licence: mit}"]
)
def test_what_the_hub_would_refuse_is_refused_as_a_setting(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"ranker\.card"):
        load(overrides=[f"ranker.card={setting}"])


@pytest.mark.parametrize("kind", ["cross-encoder", "bi-encoder"])
def test_the_text_has_data_use_limits_intervals_and_how_to_load_it(kind: str, tmp_path: Path) -> None:
    text = card_of(run_of(tmp_path, kind=kind)).text
    for part in (
        {"cross-encoder": "CrossEncoder('path", "bi-encoder": "SentenceTransformer('path"}[kind],
        'query = "how do I reset my password?"\ntexts = ["To reset your password, ',
        "3,000 documents\n* 140 train queries\n* 150 train pairs\n* 700 hard negatives",
        "33 lists trained on; step 10 of 15 was kept",
        "| 0 | 0.4100 |\n| 10 | 0.6000 |",
        "## Figures on 1,200 test queries",
        "| **after: paper** | 0.500 | 0.512 | 0.600 | 1.000 |",
        "MRR@10 against the start: +0.251 (+0.103 to +0.397, p = 0.0021)",
        "MRR@10 against first stage: BM25: +0.251",
        "## Intended use",
        "## Limits",
        '"loss": "infonce"',
        "hnmine 0.1.0",
    ):
        assert part in text, part
    assert "start" in text
    assert "after: paper, blended" not in text, "the re-ranker alone is what the folder holds"


def test_no_card_tells_a_path_of_this_machine(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert "secret" not in str(card_of(run))
    assert "secret" not in str(card_of(run, "start"))
    assert results_of(card_of(run, "start")) == {name: round(value, 4) for name, value in WORSE.items()}


@pytest.mark.parametrize(
    ("split", "is_dev", "named", "heading"),
    [
        ("test", False, "test", "## Figures on 1,200 test queries"),
        ("dev", True, "dev", "## Figures on 1,200 dev queries"),
        ("15% of train", True, "dev", "## Figures on 1,200 queries (15% of train)"),
        ("unseen", False, "unseen", "## Figures on 1,200 unseen queries"),
    ],
)
def test_the_split_is_named_as_it_is(split: str, is_dev: bool, named: str, heading: str, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.manifest["evaluation"] |= {"split": split, "test_is_dev": is_dev}
    for card in (card_of(run), ranker_of(run, {})):
        assert {each.dataset_split for each in card.data.eval_results} == {named}
        assert heading in card.text
        assert ("There is no test split: these are the dev queries, which chose" in card.text) == is_dev


@pytest.mark.parametrize(
    ("chosen", "parts", "is_trained"),
    [
        ("first stage: BM25, blended", ("BM25", "words"), False),
        ("before: as given", ("re-ranker",), False),
        ("before: as given, blended", ("BM25", "re-ranker"), False),
        ("before: warm-started", ("re-ranker",), True),
        ("after: paper, blended", ("BM25", "re-ranker"), True),
    ],
)
def test_what_was_mined_is_told_of_what_was_trained_alone(
    chosen: str, parts: tuple[str, ...], is_trained: bool, tmp_path: Path
) -> None:
    text = ranker_of(run_of(tmp_path), {name: {"path": name} for name in parts}, chosen).text
    assert "3,000 documents" in text
    for counted in ("150 train pairs", "140 train queries", "700 hard negatives"):
        assert (counted in text) == is_trained


def test_before_the_evaluation_a_card_has_no_figures_on_test(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    del run.manifest["evaluation"]
    card = card_of(run)
    assert card.data.eval_results is None
    assert "Not yet measured on test queries" in card.text


def test_a_folder_that_is_called_like_a_model_of_the_hub_is_no_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert hub_name("models/mine") is None
    assert hub_name("models/gone") is None, "it was never fetched from the hub"
    assert hub_name("/cache/hub/models--BAAI--bge-base/snapshots/abc") == "BAAI/bge-base"
    assert hub_name("all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"
    card = card_of(run_of(tmp_path, model="all-MiniLM-L6-v2"))
    assert card.data.to_dict()["base_model"] == ["sentence-transformers/all-MiniLM-L6-v2"]
    assert "base model: sentence-transformers/all-MiniLM-L6-v2 (Apache 2.0)" in card.text


def test_the_licence_of_a_base_model_is_told_where_it_is_known() -> None:
    assert licence_of("BAAI/bge-reranker-base") == "BAAI/bge-reranker-base (MIT)"
    assert licence_of("jinaai/jina-embeddings-v3-hf").endswith("(CC BY-NC 4.0: for non-commercial use only)")
    assert licence_of("somebody/something") == "somebody/something"


def ranker_of(run: Run, parts: dict[str, Any], chosen: str = "after: paper, blended") -> ModelCard:
    """The card of a ranker with these parts, whose README was there before."""
    (run.out / "ranker").mkdir(parents=True)
    (run.out / "ranker" / "README.md").write_text("# Ranker: after: paper, blended\n\nHow to serve it.\n")
    write_json(run.out / "ranker" / "ranker.json", {"parts": parts})
    run.manifest["ranker"] = {"chosen": chosen}
    head_ranker_card(run)
    return ModelCard.load(run.out / "ranker" / "README.md", ignore_metadata_errors=False)


def test_a_ranker_names_the_models_that_it_is_made_of(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ranker.card={license: mit}", model="all-MiniLM-L6-v2")
    parts = {"BM25": "bm25.safetensors", "re-ranker": "re-ranker", "words": f"BAAI/bge-base@{'0' * 40}"}
    card = ranker_of(run, {name: {"path": path} for name, path in parts.items()})
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == ("hnmine", "text-ranking", "mit")
    assert data["base_model"] == ["BAAI/bge-base", "sentence-transformers/all-MiniLM-L6-v2"]
    assert results_of(card) == {name: round(value, 4) for name, value in METRICS.items()}
    assert card.text.strip().startswith("# Ranker: after: paper, blended\n\nHow to serve it.")
    assert "## Limits" in card.text


def test_json_of_a_card_can_be_read(tmp_path: Path) -> None:
    text = card_of(run_of(tmp_path)).text
    settings = json.loads(text.split("```json\n")[1].split("```")[0])
    assert settings["training"]["teacher"] == {"model": "teacher"}
    assert settings["max_tokens"] == 64
