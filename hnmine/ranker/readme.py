"""The README.md of a ranker's folder: what it is, what it is worth, and how to serve it, with its own numbers."""

from __future__ import annotations

import json

from hnmine.ranker.ranker import RankerSpec
from hnmine.ranking.evaluate import RERANKER

_TEMPLATE = """# Ranker: {chosen}

Puts the documents that a first stage found for a query in order. Written by hnmine {version}. `ranker.json` has all
figures, settings and the sha256 of every file. Nothing here is pickled, and no code of this folder runs.

| | MRR@10 on dev | MRR@10 on test | nDCG@10 on test | ms a query |
|---|---|---|---|---|
{rows}

{dev_queries} dev queries chose the row in bold; {test_queries} test queries had no say. Milliseconds are of {depth}
documents a query on {machine}, one query at a time, nothing encoded ahead.

## Plain Python

```
import hnmine
ranker = hnmine.Ranker.load("path/of/this/folder")
for key, score, shares in ranker.rank("a query", {{"id-1": "a text", "id-2": "another"}}):
    print(key, score, shares)
```

As a batch job: `hnmine rank --model path/of/this/folder --data DATA --out run.trec`.

{given}{parts}{reranker}{engines}"""

_RERANKER = """## The re-ranker alone

`{path}` is {kind}. As a server:

```
text-embeddings-router --model-id {path}
vllm serve {path} --runner pooling
infinity_emb v2 --model-id {path}
```

{note}

"""

_SUM = """## The sum

score = Σ weight · (s - m) / d, where m and d are mean and standard deviation of the part's scores s **over the
documents of this query**. The weights were chosen for the {depth} first documents; m and d below are typical, from dev.

| part | weight | m | d | weight / d |
|---|---|---|---|---|
{rows}

"""

_ENGINES = """## Beside a search engine

Let the engine find {depth} documents, ask it for each part's score of each, and sum as above in your service: that is
exact. What engines do themselves comes near. An encoder is an index of vectors with cosine similarity.

**OpenSearch** (3.0 and later) standardises as above, in a hybrid query with one clause a part:

```
{opensearch}
```

**Elasticsearch** (8.18, 9.0 and later): the `linear` retriever with `"normalizer": "none"` and weight / d as weights
adds a number that is equal for all documents of a query; the order differs only where a query's spread is not typical:

```
{elasticsearch}
```

(Elasticsearch and OpenSearch return (1 + cosine) / 2 of a cosine index: double these weights.)

**Qdrant**: a hybrid query with `"fusion": "dbsf"` scales each list by its mean and three standard deviations, each with
equal weight; for these weights fetch the lists with their scores and sum outside.
{rest}"""


def readme(spec: RankerSpec) -> str:
    """Return the text."""
    # Figures.
    rows = []
    for name, each in spec.figures.items():
        shown = f"**{name}**" if name == spec.chosen else name
        values = (each.dev["MRR@10"], each.test["MRR@10"], each.test["nDCG@10"])
        rows.append(f"| {shown} | {' | '.join(f'{value:.3f}' for value in values)} | {each.ms_per_query:.3g} |")

    # The re-ranker, the sum, and engines that sum themselves.
    reranker, parts, engines = "", "", ""
    if part := spec.parts.get(RERANKER):
        kind = "a cross-encoder" if part.reranker == "cross-encoder" else "a bi-encoder: serve it as an embedding model"
        note = "The order is that of its scores, with or without a sigmoid."
        if spec.standardised:
            note = "The sum needs the score before the sigmoid: TEI's /rerank gives it with `raw_scores: true`."
        reranker = _RERANKER.format(path=part.path, kind=kind, note=note)
    if spec.standardised:
        slopes = {name: spec.weights[name] / (part.deviation or 1.0) for name, part in spec.parts.items()}
        cells = [
            f"| {name} | {spec.weights[name]:.2f} | {part.mean:.4g} | {part.deviation:.4g} | {slopes[name]:.4g} |"
            for name, part in spec.parts.items()
        ]
        parts = _SUM.format(depth=spec.depth, rows="\n".join(cells))
        engines = _engines(spec, slopes)
    given = ""
    if any(part.kind == "given" for part in spec.parts.values()):
        given = "The first stage's own scores are a part: `ranker.rank(query, documents, scores=…)`.\n"
    return _TEMPLATE.format(
        chosen=spec.chosen,
        version=spec.versions.get("hnmine", ""),
        machine=spec.versions.get("machine", "this machine"),
        rows="\n".join(rows),
        dev_queries=spec.dev_queries,
        test_queries=spec.test_queries,
        depth=spec.depth,
        given=given,
        parts=parts,
        reranker=reranker,
        engines=engines,
    )


def _engines(spec: RankerSpec, slopes: dict[str, float]) -> str:
    """Return how engines sum those parts that they have."""
    inside = [name for name in spec.parts if name != RERANKER]
    if len(inside) < 2:
        return ""
    total = sum(spec.weights[name] for name in inside)
    weights = [round(spec.weights[name] / total, 4) for name in inside]
    combination = {"technique": "arithmetic_mean", "parameters": {"weights": weights}}
    processor = {"normalization": {"technique": "z_score"}, "combination": combination}
    retrievers = [
        {"retriever": f"… {name} …", "weight": float(f"{slopes[name]:.4g}"), "normalizer": "none"} for name in inside
    ]
    rest = ""
    if RERANKER in spec.parts:
        rest = "\nThe re-ranker's share comes after these, over the documents that they put first.\n"
    return _ENGINES.format(
        depth=spec.depth,
        rest=rest,
        opensearch=json.dumps({"normalization-processor": processor}, ensure_ascii=False, indent=1),
        elasticsearch=json.dumps({"linear": {"retrievers": retrievers}}, ensure_ascii=False, indent=1),
    )
