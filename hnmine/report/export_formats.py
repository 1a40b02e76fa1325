"""The formats of `hnmine export`: each writes what was mined as one other tool reads it.

Written for, and read with, the tools' own loaders at these commits:
    sentence-transformers  6.2, `util.mine_hard_negatives` (output_format, output_scores) and the data collator
    FlagEmbedding          7ed43d6, FlagEmbedding/abc/finetune/{embedder,reranker}/AbsDataset.py
    Tevatron               dd06310, docs/datasets.md, src/tevatron/{retriever,reranker}/dataset.py
    NeMo Automodel         36044ad, docs/guides/llm/retrieval-dataset.mdx, components/datasets/llm/retrieval_dataset.py
    ms-swift               3602360, docs/source_en/BestPractices/Reranker.md, swift/dataset/preprocessor/core.py
    TREC, BEIR             trec_eval's runs and qrels, beir's GenericDataLoader
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.errors import DataError
from hnmine.ranking.rows import ROWS, read_rows
from hnmine.ranking.run_files import UNWRITABLE, write_run
from hnmine.report.mined import ROWS_AT_ONCE, Mined, Source, Text
from hnmine.types import NO_ROW

_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}  # that some readers take for the end of a line


Row = tuple[dict[str, Text | list[Text]], int | list[int] | None]
"""A row for sentence-transformers: texts by column, the query first; and its labels."""
Counts = dict[str, int]


class Format(NamedTuple):
    """One format: `write` makes the files of a folder and returns what is counted."""

    about: str
    write: Callable[[Source, Path], Counts]
    file: str
    """What the tool is given."""
    load: str
    """How."""
    scores: str = ""
    """`asked`: only by --scores, since losses take them for labels; `kept`: beside what is trained on."""
    alone: bool = True
    """Whether the file says all without those beside it."""
    needs_data: bool = False

    def load_text(self, written: Path, counts: Counts, folder: Path, alone: Path | None = None) -> str:
        """Return how what was `written` is read from a folder, or where only its main file is kept `alone`, from there.

        A main file or a test split that the run does not have gives way to the first there is.
        """
        splits = [name.removeprefix("judgements_") for name in counts if name.startswith("judgements_")]
        others = sorted(path.name for path in written.glob(f"*{Path(self.file).suffix}"))
        file = self.file if (written / self.file).exists() or not others else others[0]
        split = "test" if "test" in splits or not splits else splits[0]
        return self.load.format(file=alone or folder / file, folder=folder, split=split)


def _triplets(source: Source) -> Iterator[Row]:
    for each in source.queries():
        for positive, negatives in each.pairs:
            for negative in negatives:
                yield {"query": each.query, "positive": positive, "negative": negative}, None


def _tuples(source: Source) -> Iterator[Row]:
    width = source.tuple_width()
    for each in source.queries():
        for positive, negatives in each.pairs:
            if len(negatives) >= width:
                numbered = {f"negative_{at}": negative for at, negative in enumerate(negatives[:width], 1)}
                yield {"query": each.query, "positive": positive, **numbered}, None


def _labeled_pairs(source: Source) -> Iterator[Row]:
    for each in source.queries():
        for label, documents in ((1, each.positives), (0, each.negatives)):
            for document in documents:
                yield {"query": each.query, "document": document}, label


def _labeled_lists(source: Source) -> Iterator[Row]:
    for each in source.queries():
        labels = [1] * len(each.positives) + [0] * len(each.negatives)
        yield {"query": each.query, "documents": [*each.positives, *each.negatives]}, labels


def _columns(rows: Callable[[Source], Iterator[Row]], label: str = "") -> Callable[[Source, Path], Counts]:
    """Return what writes rows for sentence-transformers, and beside them their ids in the same order.

    Scores take the place of labels there: one number of a pair, else a list with one of each document.
    """

    def texts(source: Source) -> Iterator[dict[str, Any]]:
        for cells, labels in rows(source):
            found = {name: _each(cell, "text") for name, cell in cells.items()}
            if source.scores:
                scores = [_each(cell, "score") for name, cell in cells.items() if name != "query"]
                found["score" if label == "label" else "scores"] = scores if label == "" else scores[0]
            elif label:
                found[label] = labels
            yield found

    def write(source: Source, folder: Path) -> Counts:
        ids = ({_id_column(name): _each(cell, "id") for name, cell in cells.items()} for cells, _ in rows(source))
        _write_parquet(folder / "ids" / "train.parquet", ids)
        return {"rows": _write_parquet(folder / "data" / "train.parquet", texts(source))}

    return write


def _id_column(name: str) -> str:
    return "document_ids" if name == "documents" else f"{name}_id"


def _each(cell: Text | list[Text], name: str) -> Any:
    return [getattr(text, name) for text in cell] if isinstance(cell, list) else getattr(cell, name)


def _write_tuples(source: Source, folder: Path) -> Counts:
    width, counts = source.tuple_width(), source.negatives_of_pairs()
    left_out = {
        "pairs_left_out": sum(pairs for count, pairs in counts.items() if count < width),
        "farther_negatives_left_out": sum((count - width) * pairs for count, pairs in counts.items() if count > width),
    }
    return _columns(_tuples)(source, folder) | {"negatives_a_row": width} | left_out


def _flag_embedding(each: Mined) -> dict[str, Any]:
    found: dict[str, Any] = {"query": each.query.text}
    for name, documents in (("pos", each.positives), ("neg", each.negatives)):
        found |= {name: _each(documents, "text"), f"{name}_scores": _each(documents, "score")}
        found[f"{name}_id"] = _each(documents, "id")
    return found | {"query_id": each.query.id}


def _tevatron(each: Mined) -> dict[str, Any]:
    found: dict[str, Any] = {"query_id": each.query.id, "query": each.query.text}
    for name, documents in (("positive", each.positives), ("negative", each.negatives)):
        passages = [{"docid": doc.id, "title": "", "text": doc.text, "score": doc.score} for doc in documents]
        found[f"{name}_passages"] = passages
    return found


def _swift(each: Mined) -> dict[str, Any]:
    found: dict[str, Any] = {"messages": [{"role": "user", "content": each.query.text}], "query_id": each.query.id}
    for name, documents in (("positive", each.positives), ("negative", each.negatives)):
        found[f"{name}_messages"] = [[{"role": "assistant", "content": document.text}] for document in documents]
        found[f"{name}_ids"] = _each(documents, "id")
    return found


def _lines(row: Callable[[Mined], dict[str, Any]]) -> Callable[[Source, Path], Counts]:
    """Return what writes a line a query."""
    return lambda source, folder: {"rows": _write_lines(folder / "train.jsonl", map(row, source.queries()))}


def _nemo(source: Source, folder: Path) -> Counts:
    # A training may read several corpora, each under an id of its own.
    corpus, corpus_id = folder / "corpus", f"hnmine-{source.files['negatives.parquet'][:12]}"
    texts: dict[str, str] = {}
    questions = []
    for each in source.queries():
        found: dict[str, Any] = {"question_id": each.query.id, "question": each.query.text, "corpus_id": corpus_id}
        for name, documents in (("pos_doc", each.positives), ("neg_doc", each.negatives)):
            found[name] = [{"id": document.id, "score": document.score} for document in documents]
            texts |= {document.id: document.text for document in documents}
        questions.append(found)
    # A relative path is that from the file.
    _write_lines(folder / "train.json", [{"corpus": [{"path": "corpus"}], "data": questions}])
    _write_parquet(corpus / "train.parquet", ({"id": name, "text": text} for name, text in texts.items()))
    _write_lines(corpus / "merlin_metadata.json", [{"class": "TextQADataset", "corpus_id": corpus_id}])
    return {"rows": len(questions), "documents": len(texts)}


def _datasets(source: Source, folder: Path) -> Counts:
    table = source.joined()
    (folder / "data").mkdir()
    pq.write_table(table, folder / "data" / "train.parquet", row_group_size=ROWS_AT_ONCE)
    return {"rows": len(table)}


def _trec_runs(source: Source, folder: Path) -> Counts:
    # The rankings of the evaluation.
    tables: dict[str, pa.Table] = {}
    for row in read_rows(source.out) if ROWS in source.files else ():
        tables |= {row.slug: row.test_table()} | ({f"dev-{row.slug}": row.dev_table()} if row.dev else {})
    for name, table in tables.items():
        columns = (table[column].to_pylist() for column in ("query_id", "document_ids", "scores"))
        _write_rankings(folder / f"{name}.trec", *columns)
    # What was mined, the negatives of a query in one list.
    if not tables or "negatives.parquet" in source.files:
        mined = list(source.queries())
        ids, scores = ([_each(each.negatives, key) for each in mined] for key in ("id", "score"))
        _write_rankings(folder / "hard-negatives.trec", [each.query.id for each in mined], ids, scores)
    return {"runs": len(list(folder.iterdir()))}


def _write_rankings(path: Path, queries: list[str], documents: list[list[str]], scores: list[Any]) -> None:
    """Write lists of ids as a run that bears the name of its file."""
    names = list(dict.fromkeys(name for found in documents for name in found))
    row_of = {name: row for row, name in enumerate(names)}
    rows_QK = np.full((len(queries), max(map(len, documents), default=0)), NO_ROW, dtype=np.int64)
    scores_QK = np.zeros(rows_QK.shape, dtype=np.float32)
    for at, (found, given) in enumerate(zip(documents, scores, strict=True)):
        rows_QK[at, : len(found)] = [row_of[name] for name in found]
        scores_QK[at, : len(found)] = given
    write_run(path, queries, names, rows_QK, scores_QK, tag=path.stem)


def _trec_qrels(source: Source, folder: Path) -> Counts:
    return _write_qrels(source, folder, "{split}.qrels", "", "{query}{blank}0{blank}{document}{blank}{grade}\n")


def _beir(source: Source, folder: Path) -> Counts:
    collection = source.collection
    assert collection is not None
    documents, queries = collection.documents, collection.queries
    rows = ({"_id": name, "title": "", "text": text} for name, text in zip(documents.ids, documents.texts, strict=True))
    asked = ({"_id": name, "text": text} for name, text in zip(queries.ids, queries.texts, strict=True))
    counts = {"documents": _write_lines(folder / "corpus.jsonl", rows)}
    counts["queries"] = _write_lines(folder / "queries.jsonl", asked)
    (folder / "qrels").mkdir()
    header, line = "query-id\tcorpus-id\tscore\n", "{query}\t{document}\t{grade}\n"
    return counts | _write_qrels(source, folder, "qrels/{split}.tsv", header, line)


def _write_qrels(source: Source, folder: Path, name: str, header: str, line: str) -> Counts:
    """Write a file a split with all that it judges; tools read whole grades, and ids without tabs, alone."""
    assert source.collection is not None
    counts = {}
    for split, judged in source.collection.splits.items():
        # Refuse what would be read as something else, or stand elsewhere.
        if not re.fullmatch(r"\w[\w.-]*", split):
            raise DataError(f"the split {split!r} cannot name a file: expected letters, digits, `.`, `-` and `_`")
        queries = [source.collection.queries.ids[row] for row in judged.query_rows_J.tolist()]
        documents = [source.collection.documents.ids[row] for row in judged.doc_rows_J.tolist()]
        grades = judged.grades_J.astype(np.int64)
        if len(odd := np.flatnonzero(grades != judged.grades_J)):
            problem = f"{split}: a grade of query {queries[odd[0]]} is {judged.grades_J[odd[0]]:g}"
            raise DataError(f"{problem}; qrels hold whole numbers: scale the grades of the collection first")
        if bad := next((each for each in (*queries, *documents) if UNWRITABLE.search(each)), None):
            raise DataError(f"the id {bad!r} cannot stand in qrels: expected one without tabs, line ends and edges")
        # Write, with tabs where an id has a blank.
        blank = "\t" if any(" " in each for each in (*queries, *documents)) else " "
        rows = zip(queries, documents, grades.tolist(), strict=True)
        text = "".join(line.format(query=q, document=d, grade=g, blank=blank) for q, d, g in rows)
        (folder / name.format(split=split)).write_text(header + text, encoding="utf-8")
        counts[f"judgements_{split}"] = len(judged)
    return counts


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    path.parent.mkdir(exist_ok=True)
    first = pa.Table.from_pylist(list(islice(rows, ROWS_AT_ONCE)))
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        count = len(first)
        while part := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(part, first.schema))
            count += len(part)
    return count


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    lines = (json.dumps(row, ensure_ascii=False).translate(_LINE_ENDS) + "\n" for row in rows)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        return sum(file.write(line) > 0 for line in lines)


_FLAG = "--train_data {file}"
_TEVATRON = "--dataset_name json --dataset_path {file} --dataset_split train"
_NEMO = 'RetrievalDatasetConfig(data_dir_list=["{file}"], …)'
_SWIFT = "swift sft --task_type reranker --dataset {file}"
_TREC = "trec_eval QRELS {file}"
_QRELS = ("test.qrels", "trec_eval {file} RUN")
_BEIR = 'GenericDataLoader("{folder}").load(split="{split}")'
_BY_DATASETS = 'load_dataset("parquet", data_files="{file}", split="train")'
_ST = ("data/train.parquet", _BY_DATASETS, "asked")
_LINES = "train.jsonl"
FORMATS = {
    "triplet": Format("sentence-transformers: query, positive, negative", _columns(_triplets), *_ST),
    "n-tuple": Format("sentence-transformers: query, positive, negative_1 … n", _write_tuples, *_ST),
    "labeled-pair": Format("sentence-transformers: query, document, label", _columns(_labeled_pairs, "label"), *_ST),
    "labeled-list": Format(
        "sentence-transformers: query, documents, labels; a row a query", _columns(_labeled_lists, "labels"), *_ST
    ),
    "flagembedding": Format(
        "FlagEmbedding: query, pos, neg, pos_scores, neg_scores", _lines(_flag_embedding), _LINES, _FLAG, "kept"
    ),
    "tevatron": Format("Tevatron: positive_passages, negative_passages", _lines(_tevatron), _LINES, _TEVATRON, "kept"),
    "nemo": Format("NeMo Automodel: questions, and a corpus beside them", _nemo, "train.json", _NEMO, "kept", False),
    "ms-swift": Format(
        "ms-swift, re-rankers: messages, positive_messages, negative_messages", _lines(_swift), _LINES, _SWIFT
    ),
    "datasets": Format("datasets: negatives.parquet with texts", _datasets, "data/train.parquet", _BY_DATASETS, "kept"),
    "trec-run": Format(
        "TREC: each ranking of OUT/evaluation, and the hard negatives",
        _trec_runs,
        "hard-negatives.trec",
        _TREC,
        "",
        False,
    ),
    "trec-qrels": Format("TREC: the judgements of every split; needs --data", _trec_qrels, *_QRELS, "", False, True),
    "beir": Format("BEIR: the collection as it was read; needs --data", _beir, "corpus.jsonl", _BEIR, "", False, True),
}
"""By the name that `hnmine export --to` is given."""
