"""BM25 in twelve languages: the words of our analyzer, beside those of the pattern that it took the place of.

    python benchmarks/languages.py --data XQUAD [--json languages.json] [--markdown languages.md]

XQUAD holds `corpus.<language>.jsonl.gz` (English `corpus.jsonl.gz`), `queries.jsonl` with ids `<language>:…`, and
`qrels/*.tsv`. All questions of a language are asked in all paragraphs of that language, and German ones in the English
paragraphs too, where the lexical encoder is asked beside BM25. Prints MRR@10 and the questions that find nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tabulate import tabulate

from hnmine.config.steps import EvaluateConfig
from hnmine.corpus.analyzer import STOP_WORDS
from hnmine.models.lexical import LexicalEncoder, fitted
from hnmine.ranking import first_stage
from hnmine.ranking.first_stage import Bm25
from hnmine.runs.manifest import versions
from hnmine.types import Float32, Int64, Texts, unit_rows

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
DEPTH = 10
OLD_WORD = re.compile(r"\b\w\w+\b")

Search = Callable[[Texts, Texts], Int64]  # documents and queries to document rows (Q, DEPTH)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print a table, write the files that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)

    # Ask the questions of each language in its paragraphs, and German ones in the English.
    right = judged(options.data)
    rows = []
    for language in LANGUAGES:
        rows.append(measured(language, documents(options.data, language), questions(options.data, language), right))
    german = documents(options.data, "en"), questions(options.data, "de"), right
    rows.append(measured("de on en", *german) | {"lexical encoder": mrr(by_lexical, *german)[0]})

    # Show and write.
    table = tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f", missingval="")
    print(table)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(f"{HEADING}\n{table}\n", encoding="utf-8")


HEADING = """# BM25 in twelve languages

`python benchmarks/languages.py --data XQUAD`: XQuAD (google-deepmind, CC BY-SA 4.0), 240 paragraphs and 1,190 questions
in each language, MRR@10 of BM25 (k1 .9, b .4). *Before*: words by the pattern `\\b\\w\\w+\\b`. *Nothing*: questions
for which no paragraph is found. The last row asks German questions in English paragraphs.
"""


def measured(name: str, texts: Texts, asked: Texts, right: dict[str, str]) -> dict[str, Any]:
    """Return a row of the table."""
    before, lacking_before = mrr(by_old_words, texts, asked, right)
    now, lacking = mrr(by_bm25, texts, asked, right)
    return {"language": name, "before": before, "nothing before": lacking_before, "now": now, "nothing now": lacking}


def mrr(search: Search, texts: Texts, asked: Texts, right: dict[str, str]) -> tuple[float, int]:
    """Return the MRR@10 of a search, and how many queries found nothing."""
    found_QK = search(texts, asked)
    right_Q = np.array([texts.row_of[right[query]] for query in asked.ids])
    hit_QK = found_QK == right_Q[:, None]
    return round(float((hit_QK / np.arange(1, hit_QK.shape[1] + 1)).sum(axis=1).mean()), 4), int(
        (found_QK < 0).all(axis=1).sum()
    )


def by_bm25(texts: Texts, asked: Texts) -> Int64:
    """Search as `hnmine` does."""
    settings = EvaluateConfig()
    return Bm25(texts, k1=settings.k1, b=settings.b).first(asked, DEPTH)[0]


def by_old_words(texts: Texts, asked: Texts) -> Int64:
    """Search with the words of the old pattern, English stop words left out everywhere, as before."""

    def old_words(text: str) -> list[str]:
        return [word for word in OLD_WORD.findall(text.lower()) if word not in STOP_WORDS]

    with mock.patch.object(first_stage, "words", old_words):
        return by_bm25(texts, asked)


def by_lexical(texts: Texts, asked: Texts) -> Int64:
    """Search by the cosines of the lexical encoder."""
    with tempfile.TemporaryDirectory() as store:
        encoder = LexicalEncoder(fitted(texts, store, width=256, seed=0))
        documents_NR, queries_QR = (unit_rows(encoder.encode(each.texts)) for each in (texts, asked))
    cosines_QN: Float32 = queries_QR @ documents_NR.T
    best_QK = np.argsort(-cosines_QN, axis=1, kind="stable")[:, :DEPTH]
    return np.where(np.take_along_axis(cosines_QN, best_QK, axis=1) > 0, best_QK, -1)


def documents(data: Path, language: str) -> Texts:
    """Read the paragraphs of a language."""
    with gzip.open(data / ("corpus.jsonl.gz" if language == "en" else f"corpus.{language}.jsonl.gz")) as lines:
        rows = [json.loads(line) for line in lines]
    return Texts(
        ids=tuple(row["_id"] for row in rows), texts=tuple(f"{row.get('title', '')} {row['text']}" for row in rows)
    )


def questions(data: Path, language: str) -> Texts:
    """Read the questions of a language."""
    rows = map(json.loads, (data / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    kept = [row for row in rows if row["_id"].startswith(f"{language}:")]
    return Texts(ids=tuple(row["_id"] for row in kept), texts=tuple(row["text"] for row in kept))


def judged(data: Path) -> dict[str, str]:
    """Return the paragraph of each question."""
    lines = [
        line.split("\t") for file in sorted((data / "qrels").glob("*.tsv")) for line in file.read_text().splitlines()
    ]
    return {query: document for query, document, score in lines if score == "1"}


if __name__ == "__main__":
    main()
