"""Writers of one small collection in every layout that hnmine reads, and a random collection to write.

What a layout cannot hold is said once, by its `fit`: it changes a collection into one that the layout can hold.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.corpus.collection import Collection

ALPHABET = (*"abZ7éß中文🙂\"',;#\\<&|-  ", "हि")
BLANKS = ("\t", "\n", "\r", "\u2028", "\x85", "\u00a0", "\x0b")
SPLITS = ("train", "dev", "test")
Facts = tuple[dict[str, str], dict[str, str], dict[str, dict[tuple[str, str], float]]]


@dataclass(frozen=True)
class Plain:
    """A collection as values."""

    documents: dict[str, tuple[str, str]]  # title and text by id
    queries: dict[str, str]
    judgements: dict[str, dict[tuple[str, str], int]]  # by split: grade by query id and document id

    def facts(self, ids: bool = True) -> Facts:
        """Return documents as the default template joins them, queries and judgements; by their texts without `ids`."""
        documents = {name: f"{title}\n{text}".strip() for name, (title, text) in self.documents.items()}
        return _facts(documents, self.queries, self.judgements, ids)

    def named(self, rename: Callable[[str], str]) -> Plain:
        """Return the same with other ids."""
        return Plain(
            {rename(name): document for name, document in self.documents.items()},
            {rename(name): text for name, text in self.queries.items()},
            {
                split: {(rename(query), rename(document)): grade for (query, document), grade in rows.items()}
                for split, rows in self.judgements.items()
            },
        )

    def worded(self, change: Callable[[str], str]) -> Plain:
        """Return the same with other texts."""
        documents = {name: (change(title), change(text)) for name, (title, text) in self.documents.items()}
        return replace(self, documents=documents, queries={name: change(text) for name, text in self.queries.items()})


def random_plain(draw: random.Random, documents: int = 8, queries: int = 5) -> Plain:
    """Return a random collection: awkward ids and texts, none twice; grades 0 to 3; a train split at least."""

    def text(prefix: str, blanks: Sequence[str] = BLANKS) -> str:
        letters = [draw.choice(ALPHABET if draw.random() < 0.93 else tuple(blanks)) for _ in range(draw.randrange(12))]
        return f"{prefix}{''.join(letters)}".strip()

    def name(prefix: str) -> str:
        return draw.choice(["{0}", "{0} {0}", "{0}/é", '{0}"', "'{0}", "中{0}", "{0},", "{0}.0"]).format(prefix)

    by_number = draw.random() < 0.3  # ids of both kinds are numbers, as in MS MARCO
    ids = [str(1000 + row) if by_number else name(f"d{row}") for row in range(draw.randrange(2, documents + 1))]
    asked = [str(row) if by_number else name(f"q{row}") for row in range(draw.randrange(1, queries + 1))]
    corpus = {each: (text(f"T{row}") if draw.random() < 0.5 else "", text(f"w{row}x")) for row, each in enumerate(ids)}
    questions = {each: text(f"y{row}x") for row, each in enumerate(asked)}
    splits = ("train", *(split for split in SPLITS[1:] if draw.random() < 0.5))
    judgements: dict[str, dict[tuple[str, str], int]] = {split: {} for split in splits}
    for query in asked:
        for document in draw.sample(ids, draw.randrange(1, min(4, len(ids)) + 1)):
            judgements[draw.choice(splits)][query, document] = draw.choice([0, 1, 1, 2, 3])
    for rows in judgements.values():
        rows[draw.choice(asked), draw.choice(ids)] = 1  # each split has a positive
    return Plain(corpus, questions, judgements)


def on_one_line(plain: Plain) -> Plain:
    """Return what a line of a TSV file can hold: every white space in a text is a space."""
    return plain.worded(lambda text: " ".join(text.split()))


def without_blanks_in_ids(plain: Plain) -> Plain:
    """Return what TREC's columns can hold: they are separated by any white space."""
    return plain.named(lambda name: name.replace(" ", "_"))


def without_titles(plain: Plain) -> Plain:
    """Return the titles as part of the texts."""
    return replace(plain, documents={name: ("", f"{t} {text}".strip()) for name, (t, text) in plain.documents.items()})


def pairs_only(plain: Plain) -> Plain:
    """Return what training pairs hold: the documents and queries that are judged."""
    judged = {pair for rows in plain.judgements.values() for pair in rows}
    queries, documents = {query for query, _ in judged}, {document for _, document in judged}
    return replace(
        plain,
        documents={name: plain.documents[name] for name in plain.documents if name in documents},
        queries={name: plain.queries[name] for name in plain.queries if name in queries},
    )


def right_or_wrong(plain: Plain) -> Plain:
    """Return the grades as 1 and 0."""
    rows = plain.judgements.items()
    return replace(plain, judgements={split: {p: min(g, 1) for p, g in each.items()} for split, each in rows})


# Bytes.


def pack(content: bytes, kind: str = "") -> bytes:
    """Return the content packed as a name that ends in `kind` promises."""
    packers = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": pa.Codec("zstd").compress,
    }
    return bytes(packers[kind](content))


def jsonl(rows: Iterable[Any]) -> bytes:
    """Return JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def lines(rows: Iterable[Sequence[Any]], separator: str = "\t") -> bytes:
    """Return columns as they are, without quotes."""
    return "".join(separator.join(map(str, row)) + "\n" for row in rows).encode()


def quoted(rows: Iterable[Sequence[Any]], separator: str = ",") -> bytes:
    """Return columns as the csv module writes them."""
    sink = io.StringIO()
    csv.writer(sink, delimiter=separator).writerows(rows)
    return sink.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Return a Parquet file."""
    sink = io.BytesIO()
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), sink)
    return sink.getvalue()


def put(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# Rows.


def document_rows(plain: Plain, name: str = "_id", text: str = "text", title: str = "title") -> list[dict[str, Any]]:
    """Return the documents as rows with these field names."""
    return [{name: each, title: head, text: body} for each, (head, body) in plain.documents.items()]


def query_rows(plain: Plain, name: str = "_id", text: str = "text") -> list[dict[str, Any]]:
    """Return the queries as rows with these field names."""
    return [{name: each, text: body} for each, body in plain.queries.items()]


def judged_rows(rows: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Return the judgements of a split as rows with BEIR's names."""
    return [{"query-id": query, "corpus-id": document, "score": grade} for (query, document), grade in rows.items()]


def beir_qrels(rows: dict[tuple[str, str], int]) -> bytes:
    """Return the TSV file of BEIR."""
    return lines([("query-id", "corpus-id", "score"), *((*pair, grade) for pair, grade in rows.items())])


def trec_qrels(rows: dict[tuple[str, str], int], separator: str = "\t") -> bytes:
    """Return TREC's four columns."""
    return lines([(query, 0, document, grade) for (query, document), grade in rows.items()], separator)


# Layouts.


def _beir(ending: str = "", inside: str = "") -> Callable[[Path, Plain], None]:
    def write(folder: Path, plain: Plain) -> None:
        files = {
            f"corpus.jsonl{ending}": pack(jsonl(document_rows(plain)), ending),
            f"queries.jsonl{ending}": pack(jsonl(query_rows(plain)), ending),
            **{f"qrels/{split}.tsv": beir_qrels(rows) for split, rows in plain.judgements.items()},
        }
        put(folder / inside, files)

    return write


def _beir_sharded(folder: Path, plain: Plain) -> None:
    rows = document_rows(plain)
    half = (len(rows) + 1) // 2
    put(folder, {f"corpus-0000{n}-of-00002.jsonl": jsonl(part) for n, part in enumerate([rows[:half], rows[half:]])})
    put(folder, {"queries.jsonl": jsonl(query_rows(plain))})
    put(folder, {f"qrels/{split}.tsv": beir_qrels(each) for split, each in plain.judgements.items()})


def _beir_other_names(folder: Path, plain: Plain) -> None:
    put(folder, {"corpus.jsonl": jsonl(document_rows(plain, "docid", "contents"))})
    put(folder, {"queries.jsonl": jsonl(query_rows(plain, "query_id", "query"))})
    for split, rows in plain.judgements.items():
        swapped = [
            ("", "corpus-id", "score", "query-id"),
            *((n, d, g, q) for n, ((q, d), g) in enumerate(rows.items())),
        ]
        put(folder, {f"qrels/{split}.csv": quoted(swapped)})


def _beir_json_qrels(folder: Path, plain: Plain) -> None:
    put(folder, {"corpus.jsonl": jsonl(document_rows(plain)), "queries.jsonl": jsonl(query_rows(plain))})
    put(folder, {f"qrels/{split}.jsonl": jsonl(judged_rows(rows)) for split, rows in plain.judgements.items()})


def _beir_trec_qrels(folder: Path, plain: Plain) -> None:
    put(folder, {"corpus.jsonl": jsonl(document_rows(plain)), "queries.jsonl": jsonl(query_rows(plain))})
    put(folder, {f"qrels/{split}.tsv": trec_qrels(rows) for split, rows in plain.judgements.items()})


def _parquet(folder: Path, plain: Plain) -> None:
    put(folder, {"corpus.parquet": parquet(document_rows(plain)), "queries.parquet": parquet(query_rows(plain))})
    put(folder, {f"qrels/{split}.parquet": parquet(judged_rows(rows)) for split, rows in plain.judgements.items()})


def _mteb(judged: str, part: str) -> Callable[[Path, Plain], None]:
    def write(folder: Path, plain: Plain) -> None:
        put(folder, {f"corpus/{part or 'corpus'}-00000-of-00001.parquet": parquet(document_rows(plain))})
        put(folder, {f"queries/{part or 'queries'}-00000-of-00001.parquet": parquet(query_rows(plain))})
        for split, rows in plain.judgements.items():
            put(folder, {f"{judged}/{split}-00000-of-00001.parquet": parquet(judged_rows(rows))})

    return write


def _saved_to_disk(folder: Path, plain: Plain) -> None:
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    judged = {split: Dataset.from_list(judged_rows(rows)) for split, rows in plain.judgements.items()}
    Dataset.from_list(document_rows(plain)).save_to_disk(folder / "corpus")
    Dataset.from_list(query_rows(plain)).save_to_disk(folder / "queries")
    DatasetDict(judged).save_to_disk(folder / "qrels")


def _marco(ending: str = "") -> Callable[[Path, Plain], None]:
    def write(folder: Path, plain: Plain) -> None:
        files = {"collection.tsv": lines((name, text) for name, (_, text) in plain.documents.items())}
        for split, rows in plain.judgements.items():
            asked = dict.fromkeys(query for query, _ in rows)
            files[f"queries.{split}.tsv"] = lines((query, plain.queries[query]) for query in asked)
            files[f"qrels.{split}.tsv"] = trec_qrels(rows)
        rest = plain.queries.keys() - {query for rows in plain.judgements.values() for query, _ in rows}
        files["queries.eval.tsv"] = lines((query, plain.queries[query]) for query in sorted(rest))
        put(folder, {f"{name}{ending}": pack(content, ending) for name, content in files.items() if content})

    return write


def _marco_documents(folder: Path, plain: Plain) -> None:
    rows = ((name, f"http://x/{name}", title, text) for name, (title, text) in plain.documents.items())
    put(folder, {"msmarco-docs.tsv.gz": gzip.compress(lines(rows))})
    for split, judged in plain.judgements.items():
        asked = dict.fromkeys(query for query, _ in judged)
        put(
            folder,
            {
                f"msmarco-doc{split}-queries.tsv": lines((query, plain.queries[query]) for query in asked),
                f"msmarco-doc{split}-qrels.tsv.gz": gzip.compress(trec_qrels(judged, " ")),
            },
        )


def _trec(corpus: str, topics: str) -> Callable[[Path, Plain], None]:
    def write(folder: Path, plain: Plain) -> None:
        put(folder, {f"qrels.{split}.txt": trec_qrels(rows, " ") for split, rows in plain.judgements.items()})
        if corpus == "sgml":
            documents = [
                f"<DOC>\n<DOCNO> {escape(name)} </DOCNO>\n<TITLE>{escape(title)}</TITLE>\n"
                f"<TEXT>\n{escape(text)}\n</TEXT>\n</DOC>\n"
                for name, (title, text) in plain.documents.items()
            ]
            put(
                folder,
                {"docs/part1": "".join(documents[::2]).encode(), "docs/part2": "".join(documents[1::2]).encode()},
            )
        else:
            put(folder, {"docs.jsonl": jsonl(document_rows(plain, "id", "contents"))})
        if topics == "sgml":
            rows = (
                f"<top>\n\n<num> Number: {escape(name)}\n<title> {escape(text)}\n\n<desc> Description:\nMore on it.\n\n"
                "<narr> Narrative:\nWhat counts.\n\n</top>\n\n"
                for name, text in plain.queries.items()
            )
            put(folder, {"topics.txt": "".join(rows).encode()})
        elif topics == "xml":
            rows = (
                f'<topic number="{escape(name)}">\n<query>{escape(text)}</query>\n<question>Why?</question>\n</topic>\n'
                for name, text in plain.queries.items()
            )
            put(folder, {"topics.xml": f'<topics task="x">\n{"".join(rows)}</topics>\n'.encode()})
        else:
            put(folder, {"topics.tsv": lines(plain.queries.items())})

    return write


def judged_lists(rows: dict[tuple[str, str], int]) -> list[tuple[str, list[str], list[str]]]:
    """Return (query id, ids of right documents, ids of wrong ones) of a split, for each query that has a right one."""
    found = []
    for query in dict.fromkeys(query for query, _ in rows):
        graded = [(document, grade) for (asked, document), grade in rows.items() if asked == query]
        found.append((query, [name for name, grade in graded if grade], [name for name, grade in graded if not grade]))
    return [(query, right, wrong) for query, right, wrong in found if right]


def answered(plain: Plain) -> Plain:
    """Return what lists of right and wrong documents hold: a query of a split is there if it has a right one."""
    judgements = {}
    for split, rows in plain.judgements.items():
        kept = {query for query, _, _ in judged_lists(rows)}
        judgements[split] = {(query, document): grade for (query, document), grade in rows.items() if query in kept}
    return pairs_only(right_or_wrong(replace(plain, judgements=judgements)))


def right_only(plain: Plain) -> Plain:
    """Return it without the wrong documents' judgements: what was mined as a negative, nobody judged."""
    rows = plain.judgements.items()
    return replace(plain, judgements={split: {pair: g for pair, g in each.items() if g} for split, each in rows})


def _body(plain: Plain, name: str) -> str:
    return plain.documents[name][1]


def _flag(folder: Path, plain: Plain) -> None:
    for split, rows in plain.judgements.items():
        found = (
            {
                "query": plain.queries[q],
                "pos": [_body(plain, d) for d in right],
                "neg": [_body(plain, d) for d in wrong],
            }
            for q, right, wrong in judged_lists(rows)
        )
        put(folder, {f"{split}.jsonl": jsonl(found)})


def _tevatron(folder: Path, plain: Plain) -> None:
    def passage(name: str) -> dict[str, str]:
        return {"docid": name, "title": plain.documents[name][0], "text": plain.documents[name][1]}

    for split, rows in plain.judgements.items():
        found = (
            {
                "query_id": q,
                "query": plain.queries[q],
                "positive_passages": [passage(d) for d in right],
                "negative_passages": [passage(d) for d in wrong],
            }
            for q, right, wrong in judged_lists(rows)
        )
        put(folder, {f"{split}.jsonl.gz": gzip.compress(jsonl(found))})


def _tevatron_corpus(folder: Path, plain: Plain) -> None:
    _tevatron(folder, plain)
    put(folder, {"corpus.jsonl": jsonl(document_rows(plain, "docid"))})


def _labelled(folder: Path, plain: Plain) -> None:
    for split, rows in plain.judgements.items():
        found = [(plain.queries[q], _body(plain, d), grade) for (q, d), grade in rows.items()]
        put(folder, {f"{split}.csv": quoted([("sentence1", "sentence2", "label"), *found])})


def _triplets(ending: str) -> Callable[[Path, Plain], None]:
    def write(folder: Path, plain: Plain) -> None:
        for split, rows in plain.judgements.items():
            found = [
                {
                    "anchor": plain.queries[q],
                    "positive": _body(plain, d),
                    **({"negative": _body(plain, w)} if w else {}),
                }
                for q, right, wrong in judged_lists(rows)
                for d in right
                for w in wrong or [""]
            ]
            put(folder, {f"data/{split}-00000-of-00001.{ending}": {"parquet": parquet, "jsonl": jsonl}[ending](found)})

    return write


def _numbered(folder: Path, plain: Plain) -> None:
    for split, rows in plain.judgements.items():
        found = [
            {"query": plain.queries[q], "positive": _body(plain, d)}
            | {f"negative_{n}": _body(plain, w) for n, w in enumerate(wrong, start=1)}
            for q, right, wrong in judged_lists(rows)
            for d in right
        ]
        put(folder, {f"{split}.jsonl": jsonl(found)})


def _lists(folder: Path, plain: Plain) -> None:
    for split, rows in plain.judgements.items():
        found = [
            {
                "query": plain.queries[q],
                "docs": [_body(plain, d) for d in right + wrong],
                "labels": [1] * len(right) + [0] * len(wrong),
            }
            for q, right, wrong in judged_lists(rows)
        ]
        put(folder, {f"{split}.parquet": parquet(found)})


@dataclass(frozen=True)
class Layout:
    """How a folder is written, what of a collection fits into it, what reading it gives, and whether it holds ids."""

    write: Callable[[Path, Plain], None]
    fit: Callable[[Plain], Plain] = lambda plain: plain
    gives: Callable[[Plain], Plain] = lambda plain: plain
    ids: bool = True

    def fill(self, folder: Path, plain: Plain) -> Plain:
        """Write what fits of a collection into a folder, and return what reading it must give."""
        fitting = self.fit(plain)
        self.write(folder, fitting)
        return self.gives(fitting)


def _all(*changes: Callable[[Plain], Plain]) -> Callable[[Plain], Plain]:
    def change(plain: Plain) -> Plain:
        for each in changes:
            plain = each(plain)
        return plain

    return change


_TREC = _all(on_one_line, without_blanks_in_ids)
_PASSAGES = _all(without_titles, on_one_line, without_blanks_in_ids)
_LISTS = _all(without_titles, answered)

LAYOUTS = {
    **{f"beir{ending}": Layout(_beir(ending)) for ending in ("", ".gz", ".bz2", ".zst", ".xz")},
    "beir nested": Layout(_beir(inside="my-set")),
    "beir sharded": Layout(_beir_sharded),
    "beir, other names, csv": Layout(_beir_other_names),
    "beir, qrels as JSON lines": Layout(_beir_json_qrels),
    "beir, qrels of TREC": Layout(_beir_trec_qrels),
    "parquet": Layout(_parquet),
    "mteb, default": Layout(_mteb("default", "")),
    "mteb, qrels": Layout(_mteb("qrels", "test")),
    "datasets, saved to disk": Layout(_saved_to_disk),
    "marco passages": Layout(_marco(), _PASSAGES),
    "marco passages .gz": Layout(_marco(".gz"), _PASSAGES),
    "marco documents": Layout(_marco_documents, _TREC),
    **{
        f"trec {corpus}, topics {topics}": Layout(_trec(corpus, topics), _TREC)
        for corpus, topics in (("json", "sgml"), ("json", "xml"), ("sgml", "sgml"), ("sgml", "tsv"))
    },
    "flagembedding": Layout(_flag, _LISTS, right_only, ids=False),
    "tevatron": Layout(_tevatron, answered, right_only),
    "tevatron, with a corpus": Layout(_tevatron_corpus, answered, right_only),
    "sentence-transformers, labelled csv": Layout(_labelled, _all(without_titles, pairs_only), ids=False),
    "sentence-transformers, triplets, jsonl": Layout(_triplets("jsonl"), _LISTS, right_only, ids=False),
    "sentence-transformers, triplets, parquet": Layout(_triplets("parquet"), _LISTS, right_only, ids=False),
    "sentence-transformers, numbered negatives": Layout(_numbered, _LISTS, right_only, ids=False),
    "sentence-transformers, labelled lists": Layout(_lists, _LISTS, ids=False),
}


def facts(collection: Collection, ids: bool = True) -> Facts:
    """Return what a collection holds, in the form of `Plain.facts`."""
    documents, queries = collection.documents, collection.queries
    judgements = {
        split: {
            (queries.ids[query], documents.ids[document]): grade
            for query, document, grade in zip(
                each.query_rows_J.tolist(), each.doc_rows_J.tolist(), each.grades_J.tolist(), strict=True
            )
        }
        for split, each in collection.splits.items()
    }
    return _facts(
        dict(zip(documents.ids, documents.texts, strict=True)),
        dict(zip(queries.ids, queries.texts, strict=True)),
        judgements,
        ids,
    )


def _facts(
    documents: dict[str, str],
    queries: dict[str, str],
    judgements: Mapping[str, Mapping[tuple[str, str], float]],
    ids: bool,
) -> Facts:
    """Return the texts and grades; with texts in place of ids where a layout holds none."""
    document_names = {name: name if ids else text for name, text in documents.items()}
    query_names = {name: name if ids else text for name, text in queries.items()}
    return (
        {document_names[name]: text for name, text in documents.items()},
        {query_names[name]: text for name, text in queries.items()},
        {
            split: {(query_names[query], document_names[name]): grade for (query, name), grade in rows.items()}
            for split, rows in judgements.items()
        },
    )
