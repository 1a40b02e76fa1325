"""Judgements are read by the names of columns in any order, by position only without names, and never on a guess."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from hnmine.errors import DataError
from tests.builders.beir import CORPUS, QUERIES, judged_ids, read, write_folder
from tests.builders.layouts import parquet

GRADES = {("q1", "d1"): 3.0, ("q1", "d2"): 0.0, ("q2", "d2"): 1.0}
COLUMNS = ("query-id", "corpus-id", "score")


def folder_with(folder: Path, content: str | bytes, name: str = "train.tsv") -> Path:
    write_folder(folder)
    (folder / "qrels" / "train.tsv").unlink()
    (folder / "qrels" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def table(columns: tuple[str, ...], separator: str) -> str:
    cells = [
        {"query-id": query, "corpus-id": document, "score": f"{grade:g}", "iteration": "0", "": str(number)}
        for number, ((query, document), grade) in enumerate(GRADES.items())
    ]
    return "".join(separator.join(row) + "\n" for row in (columns, *([row[c] for c in columns] for row in cells)))


@pytest.mark.parametrize("separator", ["\t", ",", ";", " "])
@pytest.mark.parametrize("beside", ["", "iteration", None], ids=["index", "iteration", "alone"])
def test_columns_are_read_by_their_header_in_any_order(tmp_path, separator, beside):
    if (separator, beside) == (" ", ""):
        pytest.skip("blanks hold no empty cell")
    for number, order in enumerate(itertools.permutations((*COLUMNS, *([] if beside is None else [beside])))):
        folder = folder_with(tmp_path / str(number), table(order, separator))
        assert judged_ids(read(folder), "train") == GRADES


@pytest.mark.parametrize(
    "header",
    [
        "query_id\tdoc_id\trelevance",
        "Query-ID\tCorpus-ID\tScore",
        "qid\tpid\tlabel",
        "queryid\tdocid\trel",
        "topic\tdocno\tgrade",
        "query\tdocument\tscore",
    ],
)
def test_a_header_may_have_other_names(tmp_path, header):
    rows = "".join(f"{query}\t{document}\t{grade:g}\n" for (query, document), grade in GRADES.items())
    assert judged_ids(read(folder_with(tmp_path, f"{header}\n{rows}")), "train") == GRADES


@pytest.mark.parametrize("separator", ["\t", ",", " "])
@pytest.mark.parametrize("iteration", ["", "0", "Q0"])
def test_without_a_header_the_form_is_beirs_or_trecs(tmp_path, separator, iteration):
    rows = [[q, *([iteration] if iteration else []), d, f"{grade:.1f}"] for (q, d), grade in GRADES.items()]
    folder = folder_with(tmp_path, "".join(separator.join(row) + "\n" for row in rows))
    assert judged_ids(read(folder), "train") == GRADES


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.tsv"])
def test_json_lines_and_parquet_have_names_too(tmp_path, name):
    rows = [{"score": grade, "corpus-id": document, "query-id": query} for (query, document), grade in GRADES.items()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert judged_ids(read(folder_with(tmp_path / "lines", lines, name)), "train") == GRADES
    assert judged_ids(read(folder_with(tmp_path / "columns", parquet(rows), name)), "train") == GRADES


def test_ids_with_delimiters_are_read_as_csv_quotes_them(tmp_path):
    corpus = [json.dumps({"_id": 'a, "b"', "text": "x"}), json.dumps({"_id": "tab\tid", "text": "y"})]
    for separator, number in ((",", 0), ("\t", 1)):
        rows = [("query-id", "corpus-id", "score"), ("q1", 'a, "b"', "1"), ("q2", "tab\tid", "2")]
        quoted = ('"' + cell.replace('"', '""') + '"' for row in rows for cell in row)
        content = "".join(f"{a}{separator}{b}{separator}{c}\n" for a, b, c in zip(*[iter(quoted)] * 3, strict=True))
        folder = folder_with(tmp_path / str(number), content)
        write_folder(folder, corpus, QUERIES, other=["q1\ta\t1"])
        assert judged_ids(read(folder), "train") == {("q1", 'a, "b"'): 1, ("q2", "tab\tid"): 2}


def test_a_table_of_query_and_document_alone_lists_what_is_right(tmp_path):
    collection = read(folder_with(tmp_path, "query-id\tcorpus-id\nq1\td1\nq2\td2\n"))
    assert judged_ids(collection, "train") == {("q1", "d1"): 1, ("q2", "d2"): 1}


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("query-id,corpus-id,worth", "no score in"),
        ("query-id,corpus-id,score,label", "which is the score, score or label?"),
        ("query-id,query-id,corpus-id,score", "which is the query, query-id or query-id?"),
        ("query-id,docid,corpus-id,score", "which is the document, docid or corpus-id?"),
        ("asked,found,worth", "begins with ['asked', 'found', 'worth']; expected a header"),
        ("query-id,found,score", "begins with ['query-id', 'found', 'score']"),
    ],
)
def test_a_header_that_leaves_a_doubt_is_an_error_that_shows_it(tmp_path, header, part):
    row = ",".join(("q1", "d1", "1", "1")[: header.count(",") + 1])
    with pytest.raises(DataError) as caught:
        read(folder_with(tmp_path / "csv", f"{header}\n{row}\n"))
    assert part in str(caught.value)
    names = header.split(",")
    if len(set(names)) < len(names):
        return
    for kind, content in (
        ("jsonl", json.dumps(dict.fromkeys(names, "1"))),
        ("parquet", parquet([dict.fromkeys(names, 1)])),
    ):
        with pytest.raises(DataError, match="malformed_row"):
            read(folder_with(tmp_path / kind, content, f"train.{kind}"))


@pytest.mark.parametrize("start", [0, 1])
def test_an_index_without_a_header_is_not_taken_for_the_query(tmp_path, start):
    rows = "".join(f"{n}\t{(n * 3) % 20}\t{n}\t1\n" for n in range(start, 10))
    folder = write_folder(tmp_path, numbers(20), numbers(20), train=rows.splitlines())
    with pytest.raises(DataError, match="the first of its four columns counts the rows, as an index does"):
        read(folder)
    trec = "".join(f"{n} {iteration} {n} 1\n" for n, iteration in zip(range(start, 10), ["0", "Q0"] * 5, strict=False))
    folder = write_folder(tmp_path, numbers(20), numbers(20), train=trec.splitlines())
    assert len(read(folder).splits["train"]) == 10 - start


@pytest.mark.parametrize(
    "score", ['"high"', "null", "NaN", "Infinity", "1e999", "9" * 400, "[1]", '{"a": 1}', '"1e39"', "-1e300"]
)
def test_a_score_that_is_no_finite_number_is_a_bad_row(tmp_path, score):
    rows = [f'{{"query-id": "q{n}", "corpus-id": "d{n}", "score": {value}}}\n' for n, value in ((1, 1), (2, score))]
    collection = read(folder_with(tmp_path, "".join(rows), "train.jsonl"))
    assert judged_ids(collection, "train") == {("q1", "d1"): 1}
    assert [(bad.line, bad.reason, bad.id) for bad in collection.quarantined] == [(2, "bad_score", "q2")]


@pytest.mark.parametrize("value", ["null", '""', '" "', "1.5", "true", '["q1"]', "{}"])
@pytest.mark.parametrize("column", ["query-id", "corpus-id"])
def test_an_id_that_is_none_is_a_bad_row(tmp_path, column, value):
    good = {"query-id": '"q1"', "corpus-id": '"d1"', "score": "1"}
    rows = [
        "{" + ", ".join(f'"{key}": {text}' for key, text in row.items()) + "}\n"
        for row in (good, {**good, column: value})
    ]
    collection = read(folder_with(tmp_path, "".join(rows), "train.jsonl"))
    assert [(bad.line, bad.reason) for bad in collection.quarantined] == [
        (2, "malformed_row" if value in ("null", '""', '" "') else "wrong_type")
    ]


# Ids the wrong way round


def numbers(count: int, start: int = 0) -> list[str]:
    return [json.dumps({"_id": n, "text": f"text {n}"}) for n in range(start, start + count)]


def test_a_swapped_header_reads_as_the_usual_one_also_where_all_ids_fit_both_ways(tmp_path):
    pairs = [(n, (n * 7 + 3) % 20) for n in range(20)]
    usual = [f"{query}\t{document}\t1" for query, document in pairs]
    swapped = [f"{document}\t{query}\t1" for query, document in pairs]
    folders = [
        write_folder(tmp_path / "a", numbers(20), numbers(20), train=["query-id\tcorpus-id\tscore", *usual]),
        write_folder(tmp_path / "b", numbers(20), numbers(20), train=["corpus-id\tquery-id\tscore", *swapped]),
    ]
    usual_ids, swapped_ids = (judged_ids(read(folder), "train") for folder in folders)
    assert usual_ids == swapped_ids == {(str(query), str(document)): 1 for query, document in pairs}


@pytest.mark.parametrize("header", [[], ["query-id\tcorpus-id\tscore"]], ids=["no header", "a wrong header"])
@pytest.mark.parametrize("documents", [20, 200], ids=["as many documents", "more documents"])
def test_ids_that_fit_better_the_wrong_way_round_stop_the_run(tmp_path, header, documents):
    train = [*header, *(f"{document}\t{query}\t1" for query, document in ((n, 15 + n) for n in range(5, 20)))]
    folder = write_folder(tmp_path, numbers(documents, 10), numbers(20), train=train)
    with pytest.raises(
        DataError, match=r"qrels/train\.tsv: .* fit only if query and document are exchanged, "
    ) as caught:
        read(folder)
    assert "exchange the names of the columns, or write a header" in str(caught.value)


def test_a_few_rows_that_fit_the_wrong_way_round_are_bad_rows(tmp_path):
    train = ["q1\td1\t1", "q2\td2\t1", "d1\tq2\t1"]
    collection = read(write_folder(tmp_path, train=train))
    assert [(bad.line, bad.reason) for bad in collection.quarantined] == [(3, "unknown_query")]
    assert len(CORPUS) == len(QUERIES) == 2


def test_a_row_without_a_score_among_rows_that_have_one_is_a_bad_row(tmp_path):
    rows = [{"query-id": "q1", "corpus-id": "d1", "score": 1}, {"query-id": "q2", "corpus-id": "d2"}]
    for number, each in enumerate((rows, [rows[0] | {"score": 0}, rows[1]], rows[::-1])):
        folder = folder_with(tmp_path / str(number), "".join(json.dumps(row) + "\n" for row in each), "train.jsonl")
        if each[0].get("score", 1):
            found = read(folder)
            assert len(judged_ids(found, "train")) == 1
            assert [(bad.line, bad.reason) for bad in found.quarantined] == [(2, "malformed_row")]
        else:
            with pytest.raises(DataError, match=r"no query with a right document.*the first row has a score"):
                read(folder)
