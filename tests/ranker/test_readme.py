"""The instructions in a ranker's folder do what they say, with the folder's own numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from ast import literal_eval
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import hnmine
from hnmine.errors import DataError
from hnmine.ranker.ranker import Ranker
from hnmine.ranker.readme import readme
from tests.builders.collections import write_collection
from tests.builders.rankers import judge_by_a_sum, trained_run

QUERIES = ("what the apple in winter costs", "price of bread lost long ago", "the", "")
TEXTS = ("Wash the apple gently, keep it dry in winter.", "What the bread costs in spring.", "", "Apple apple bread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blend of BM25, two encoders and a re-ranker."""
    place = tmp_path_factory.mktemp("ranker")
    data, out = write_collection(place / "data"), place / "out"
    config = trained_run(out, place / "encoder")
    judge_by_a_sum(data, place / "judging", config, out / "rerankers" / "paper")
    kind = config.ranker.model_copy(update={"choose": "blend-with-re-ranker"})
    hnmine.evaluate(data, out, config.model_copy(update={"ranker": kind}))
    return out / "ranker"


def blocks(folder: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def run_in(folder: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_instructions_for_python_run_in_a_fresh_process(folder: Path) -> None:
    plain, vectors = (block for block in blocks(folder, "python") if "qdrant" not in block)
    assert re.search(r"^id-[12] -?\d\.\d+ \{.*'BM25': ", run_in(folder, plain), re.MULTILINE)
    assert "BM25 {" in run_in(folder, vectors)


@pytest.mark.skipif(find_spec("qdrant_client") is None, reason="qdrant-client is not installed")
def test_the_instructions_for_qdrant_run_in_a_fresh_process(folder: Path) -> None:
    (block,) = (block for block in blocks(folder, "python") if "qdrant" in block)
    ranked, by_formula = map(literal_eval, run_in(folder, block).splitlines())
    assert len(ranked) >= 2
    assert {key for key, _ in by_formula} == set(ranked)


def test_the_inner_products_of_vectors_are_the_scores_of_a_part(folder: Path) -> None:
    ranker = Ranker.load(folder, device="cpu")
    for name, part in ranker.spec.parts.items():
        if name == "re-ranker":
            continue
        alone = Ranker.load(folder, device="cpu")
        alone.spec = part_alone(alone.spec, name)
        asked, there = ranker.vectors(name, QUERIES, queries=True), ranker.vectors(name, TEXTS)
        for at, query in enumerate(QUERIES):
            expected = alone.score([query], [TEXTS])[0]
            if part.kind == "bm25":
                found = [sum(asked[at].get(term, 0.0) * weight for term, weight in text.items()) for text in there]
            else:
                found = there @ asked[at]
            assert np.allclose(found, expected, atol=1e-5), (name, query)


def part_alone(spec: object, name: str) -> object:
    """The ranker of one part, whose score is the part's own."""
    return spec.model_copy(update={"parts": {name: spec.parts[name]}, "standardised": None})


def test_parts_without_vectors_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"'re-ranker' is no part with vectors; with vectors: BM25, "):
        Ranker.load(folder, device="cpu").vectors("re-ranker", TEXTS)


def test_requests_for_engines_sum_the_parts_by_their_slopes(folder: Path) -> None:
    """What an engine would compute by the request is the ranker's sum, where deviations are the typical ones."""
    ranker = Ranker.load(folder, device="cpu")
    spec = ranker.spec
    slopes = {name: spec.weights[name] / part.deviation for name, part in spec.parts.items() if name != "re-ranker"}
    bodies = [json.loads(block) for block in blocks(folder, "json")]
    assert len(bodies) == 2
    for body in bodies:
        assert body["size"] == spec.depth
        summed = body["rescore"]["query"]
        assert (summed["query_weight"], summed["rescore_query_weight"]) == (0, 1)
        found = {}
        for clause in summed["rescore_query"]["bool"]["should"]:
            (kind, inner), *_ = clause.items()
            if kind == "match":
                found["BM25"] = inner["text"]["boost"]
            else:
                (field,) = re.findall(r"params\.asked, (?:doc\[)?'(\w+)'", inner["script"]["source"])
                assert inner["query"] == {"exists": {"field": field}}
                assert "1.0" in inner["script"]["source"], "no engine takes a negative score"
                found[field] = inner["boost"]
        assert found == pytest.approx(slopes, rel=1e-4)


def test_servers_are_told_what_the_re_ranker_was_evaluated_with(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert "vllm serve re-ranker --runner pooling" in text
    for found in re.findall(r"`(\{\"(?:query|model)\".*?\})` \|", text):
        request = json.loads(found)
        assert request["query"]
        assert request.get("truncate_prompt_tokens", 64) == 64
        assert request.get("raw_scores", True) is True
    assert len(re.findall(r"`(\{\"(?:query|model)\".*?\})` \|", text)) == 3


@pytest.mark.parametrize("given", [False, True], ids=["BM25", "given scores"])
@pytest.mark.parametrize("reranker", [None, "cross-encoder", "bi-encoder"])
@pytest.mark.parametrize("encoders", [0, 1, 2])
def test_every_kind_of_ranker_has_a_readme(folder: Path, encoders: int, reranker: str | None, given: bool) -> None:
    spec = Ranker.load(folder, device="cpu").spec
    kept = {name: part for name, part in spec.parts.items() if part.kind == "encoder"}
    first = spec.parts["BM25"].model_copy(update={"kind": "given", "path": ""} if given else {})
    parts = {"BM25": first} | dict(list(kept.items())[:encoders])
    if reranker:
        parts["re-ranker"] = spec.parts["re-ranker"].model_copy(update={"reranker": reranker})
    standardised = spec.standardised if len(parts) > 1 else None
    text = readme(spec.model_copy(update={"parts": parts, "standardised": standardised}), folder)
    for word, expected in (
        ("## The sum", len(parts) > 1),
        ("## Qdrant", encoders > 0 and not given),
        ("## Elasticsearch", encoders > 0),
        ("infinity_emb", reranker == "cross-encoder"),
        ("scores={", given),
    ):
        assert (word in text) is expected, word
    assert "\n\n\n\n" not in text
    assert not re.search(r"[^\n]\n#+ ", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)), (
        "a heading needs a blank line"
    )
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        compile(block, "README.md", "exec")


def test_figures_on_dev_are_not_called_test(folder: Path) -> None:
    spec = Ranker.load(folder, device="cpu").spec
    usual = readme(spec, folder)
    assert f"{spec.test_queries} test queries had no say" in usual
    assert "There is no test split" not in usual
    text = readme(spec.model_copy(update={"test_is_dev": True}), folder)
    assert "There is no test split: these are the dev queries, which chose, and the figures flatter." in text
    assert "| | MRR@10 on dev | nDCG@10 on dev | ms a query |\n|---|---|---|---|\n" in text
    for unwanted in ("on test", "test queries", "had no say"):
        assert unwanted not in text
    for each in (usual, text):
        table = [line for line in each.splitlines() if line.startswith("|")][: 2 + len(spec.figures)]
        assert len({line.count("|") for line in table}) == 1
        assert re.search(r'ranker\.rank\("how do I set up \w+\?", documents\)', each)
