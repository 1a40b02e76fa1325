"""The README.md of a ranker's folder: what it is, what it is worth, and how to serve it, with its own numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hnmine.corpus.analyzer import STOP_WORDS
from hnmine.ranker.bm25 import Bm25Statistics
from hnmine.ranker.ranker import RankerSpec
from hnmine.ranking.evaluate import DEV_ALONE, RERANKER

_TEMPLATES = Environment(
    loader=PackageLoader("hnmine.ranker"),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 (Markdown, made of names and numbers)
    trim_blocks=True,
    keep_trailing_newline=True,
)


def readme(spec: RankerSpec, folder: Path) -> str:
    """Return the text for the ranker in a folder that holds its parts."""
    inside = sorted((name for name in spec.parts if name != RERANKER), key=lambda name: spec.parts[name].kind)
    slopes = {name: spec.weights[name] / (part.deviation or 1.0) for name, part in spec.parts.items()}
    known = next((name for name in inside if spec.parts[name].kind == "bm25"), None)
    statistics = None if known is None else Bm25Statistics.load(spec.parts[known].place(folder))
    return _TEMPLATES.get_template("README.md.jinja").render(
        spec=spec,
        caveat=DEV_ALONE,
        inside=inside if spec.standardised else [],
        given=any(part.kind == "given" for part in spec.parts.values()),
        reranker=spec.parts.get(RERANKER),
        slopes=slopes,
        weights_inside={name: round(spec.weights[name], 6) for name in inside},
        slopes_inside={name: float(f"{slopes[name]:.6g}") for name in inside},
        bm25=known,
        example=_example(statistics),
        k1=statistics and statistics.k1,
        b=statistics and statistics.b,
        elasticsearch=_request(spec, slopes, inside, "cosineSimilarity(params.asked, '{field}') + 1.0"),
        opensearch=_request(spec, slopes, inside, "1.0 + cosineSimilarity(params.asked, doc['{field}'])"),
    )


def _example(statistics: Bm25Statistics | None) -> list[str]:
    """Return a query and three texts about words that many documents have, so that BM25 finds some."""
    often = sorted(statistics.frequencies.items(), key=lambda item: (-item[1], item[0])) if statistics else []
    known = [term for term, _ in often if term.isalpha() and len(term) > 3 and term not in STOP_WORDS]
    first, second = [*known, "database", "cloud"][:2]
    return [
        f"how do I set up {first}?",
        f"To set up {first}, open the settings and follow the steps.",
        f"The price of {first} and {second} does not change this year.",
        "Our offices are closed on public holidays.",
    ]


def _request(spec: RankerSpec, slopes: dict[str, float], inside: list[str], cosine: str) -> str:
    """Return a search whose rescorer sums the parts, as JSON; `cosine` is the script of one encoder's score."""
    is_opensearch = "doc[" in cosine
    find: list[dict[str, Any]] = []
    rescore: list[dict[str, Any]] = []
    for name in inside:
        boost = float(f"{slopes[name]:.6g}")
        if spec.parts[name].kind != "encoder":
            find.append({"match": {"text": {"query": "…"}}})
            rescore.append({"match": {"text": {"query": "…", "boost": boost}}})
            continue
        knn = {"vector": ["…"], "k": spec.depth}
        find.append(
            {"knn": {name: knn}} if is_opensearch else {"knn": {"field": name, "query_vector": ["…"], "k": spec.depth}}
        )
        script = {"source": cosine.format(field=name), "params": {"asked": ["…"]}}
        rescore.append({"script_score": {"query": {"exists": {"field": name}}, "script": script, "boost": boost}})
    summed = {"query_weight": 0, "rescore_query_weight": 1, "rescore_query": {"bool": {"should": rescore}}}
    body = {
        "size": spec.depth,
        "query": {"bool": {"should": find}},
        "rescore": {"window_size": 2 * spec.depth, "query": summed},
    }
    return re.sub(r'\[\s+"…"\s+\]', '["…"]', json.dumps(body, ensure_ascii=False, indent=1))
