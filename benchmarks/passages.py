"""Retrieval by an encoder that reads long documents in passages, against one that truncates them.

    python benchmarks/passages.py --data DIR [--documents 500] [--queries 200]

Random test queries of a BEIR folder against the documents that are right for them and random others, by the cosine of
all-MiniLM-L6-v2 at its own 256 tokens. Prints MRR@10 of each way, and the paired test against truncating.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hnmine.config.root import Config
from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.text_keys import Reading
from hnmine.models.passages import PassageEncoder
from hnmine.models.plan import plan
from hnmine.models.transformer import TransformerEncoder
from hnmine.ranking.measures import paired
from hnmine.runs.device import Choice
from hnmine.runs.manifest import versions
from hnmine.types import Float32, Float64, Int64, unit_rows

WAYS = {"truncate": 1, "mean of 4": 4, "mean of 16": 16}
"""Passages read of a document."""


def main() -> None:
    """Run, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()

    # Draw queries, the documents that are right for them, and other documents.
    collection, rng = read_collection(options.data, SourcesConfig()), np.random.default_rng(0)
    right_of = collection.pairs("test").positives_of()
    asked = rng.choice(sorted(right_of), options.queries, replace=False).tolist()
    right = sorted({doc for query in asked for doc in right_of[query]})
    others = np.setdiff1d(np.arange(len(collection.documents)), right)
    rows = [*right, *rng.choice(others, options.documents - len(right), replace=False).tolist()]
    documents = collection.documents.take(rows)
    positions = [{rows.index(doc) for doc in right_of[query]} for query in asked]

    # Load the model; a passage is encoded once, whichever ways read it.
    planned = plan(Config().encoders[0], documents, Path("."), Choice(kind="cpu", reason="benchmark"))
    model = planned.build()
    assert isinstance(model, TransformerEncoder)
    known: dict[str, Float32] = {}

    def encode(texts: Sequence[str], reading: Reading) -> Float32:
        """Encode what was not encoded before."""
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, model.encode(new, reading), strict=True))
        return np.stack([known[text] for text in texts])

    # Rank the documents in each way.
    queries_QR = unit_rows(model.encode(collection.queries.take(asked).texts, planned.query))
    found: dict[str, Float64] = {}
    for name, most in WAYS.items():
        encoder = PassageEncoder(
            encode, model.tokenizer, name=planned.name, max_tokens=model.max_tokens, max_passages=most
        )
        docs_NR = unit_rows(encoder.encode(documents.texts, planned.document))
        found[name] = reciprocal_ranks(np.argsort(-queries_QR @ docs_NR.T, axis=1), positions)
        passages = sum(map(len, encoder.cut(documents.texts)))

    # Compare each with truncating.
    report = {name: {"MRR@10": round(float(ranks.mean()), 4)} for name, ranks in found.items()}
    for name in list(WAYS)[1:]:
        test = paired(found[name], found["truncate"])
        report[name] |= {key: round(getattr(test, key), 4) for key in ("difference", "low", "high", "p")}
    sizes = {"documents": len(documents), "queries": len(asked), "passages": passages}
    print(json.dumps(sizes | report | {"dtype": planned.dtype, "versions": versions()}, indent=1))


def reciprocal_ranks(ranked_QN: Int64, positions: Sequence[set[int]]) -> Float64:
    """Return of each query the reciprocal rank of its first right document among the first 10; 0 if there is none."""
    ranks = [
        next(rank for rank, doc in enumerate(ranked, 1) if doc in right)
        for ranked, right in zip(ranked_QN.tolist(), positions, strict=True)
    ]
    return np.array([1 / rank if rank <= 10 else 0.0 for rank in ranks])


if __name__ == "__main__":
    main()
