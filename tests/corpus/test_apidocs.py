import json
import sys
from pathlib import Path

import pytest

from hnmine.corpus.apidocs import MAX_TEXT, QUERIES, Counts, describe, write_collection
from hnmine.errors import DataError

BODY = "Parameters\n----------\nx : float\n" + "    A long explanation of what the argument {} does. \n" * 6
ROOT = "root(x) -> y\n\nFind the root of a polynomial."
SOLVE = "solve(x) -> y\n\nSolve for :attr:`y`, as ``x`` and :func:`~fakelib.plain.stretch` do, e.g. *fast*. More."


def _docstring(summary: str, topic: str) -> str:
    return f'r"""{summary}\n\n{BODY.format(*[topic] * 6)}"""'


def _function(name: str, summary: str, topic: str | None = None, indent: str = "", head: str = "def") -> str:
    lines = [f"{head} {name}(x=None):", *_docstring(summary, topic or name).splitlines(), "return x"]
    return "\n".join(f"{indent}{'    ' * (at > 0)}{line}" for at, line in enumerate(lines)) + "\n\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `fakelib` that cannot be imported, on sys.path."""
    root = tmp_path / "site" / "fakelib"
    files = {
        "__init__.py": "raise RuntimeError('imported')\nfrom ._hidden import shown\n",
        "plain.py": "raise RuntimeError('imported')\n"
        + _function("stretch", "Stretch a ribbon to a length.")
        + _function("_secret", "Do something that nobody sees.")
        + _function("awaited", "Wait until the kettle boils.", head="async def")
        + _function("twice", "Fold the sheet in half.")
        + _function("twin", "Fold the sheet in half.")
        + _function("copied", "Iron a shirt without burning it.", topic="stretch")
        + _function("short", "Short.")
        + _function("templated", "Return {what} of the given axis.")
        + 'def bare():\n    pass\n\ndef only():\n    """Say a single sentence only."""\n\n'
        + 'def terse():\n    """Say one sentence and another.\n\n    A little more.\n    """\n\n'
        + "@overload\ndef heavy(x: int) -> int: ...\n@overload\ndef heavy(x: str) -> str: ...\n"
        + _function("heavy", "Lift a weight above the head.")
        + "def outer():\n"
        + _function("inner", "Hide inside of another function.", indent="    ")
        + "if True:\n"
        + _function("guarded", "Guard the gate at night.", indent="    "),
        "kinds.py": "class Kettle:\n"
        + f"    {_docstring('Boil water in a vessel.', 'Kettle')}\n"
        + "    @property\n"
        + _function("heat", "The heat of the water.", indent="    ")
        + "    @heat.setter\n    def heat(self, x): ...\n"
        + "    class Lid:\n"
        + _function("lift", "Lift the lid and look.", indent="        ")
        + "class _Hidden:\n"
        + _function("method", "Call a method of a hidden class.", indent="    "),
        "_hidden.py": _function("shown", "Show what the package mentions.")
        + _function("helper", "Help only the other functions."),
        "native.py": f"root = _add_docstr(_c.root, {_docstring(ROOT, 'root')} + r'left out')\n"
        + f"add_docstr(_c.solve, {_docstring(SOLVE, 'solve')}.format(**notes))\n",
        "broken.py": "def oops(:\n",
        "tests/test_it.py": _function("checked", "Check that tests are not read."),
        "_deep/inside.py": _function("deep", "Dive below a private folder."),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(root.parent))
    return root


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _pairs(out: Path, split: str) -> list[tuple[str, str]]:
    rows = [line.split("\t") for line in (out / "qrels" / f"{split}.tsv").read_text().splitlines()]
    assert rows[0] == ["query-id", "corpus-id", "score"]
    assert all(row[2] == "1" for row in rows[1:])
    return [(row[0], row[1]) for row in rows[1:]]


def _bytes(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_it_reads_functions_classes_methods_and_properties_without_importing_them(tree: Path, tmp_path: Path) -> None:
    write_collection(tmp_path / "out", ["fakelib"])
    assert "fakelib" not in sys.modules
    documents = {row["_id"].removeprefix("fakelib."): row for row in _lines(tmp_path / "out" / "corpus.jsonl")}
    assert list(documents) == [
        "_hidden.shown",
        *(f"kinds.Kettle{name}" for name in ("", ".Lid.lift", ".heat")),
        *(f"native.{name}" for name in ("root", "solve")),
        *(f"plain.{name}" for name in ("awaited", "guarded", "heavy", "short")),
        *(f"plain.{name}" for name in ("stretch", "templated", "twice", "twin")),
    ]
    assert documents["_hidden.shown"]["title"] == "fakelib.shown"
    assert documents["kinds.Kettle.Lid.lift"]["title"] == "fakelib.kinds.Kettle.Lid.lift"
    assert documents["plain.heavy"]["text"].startswith("Parameters\n----------\nx : float\n    A long explanation")


def test_every_definition_and_document_is_counted_once(tree: Path, tmp_path: Path) -> None:
    counts = write_collection(tmp_path / "out", ["fakelib"])
    assert counts.dropped == {
        "private": 5,  # _secret, _Hidden, its method, helper, deep
        "no_docstring": 6,  # bare, outer, two overloads, a setter, Lid
        "no_rest": 1,
        "rest_too_short": 1,
        "syntax_error": 1,
        "duplicate_text": 1,
        "not_sampled": 0,
    }
    assert counts.unasked == {"no_question": 1, "summary_too_short": 1, "duplicate_summary": 2}
    assert (counts.seen, counts.documents, counts.queries) == (29, 14, 10)
    assert sum(counts.pairs.values()) == 10
    assert not counts.reused
    assert 5 <= len(describe(counts).splitlines()) <= 8
    assert "duplicate_text 1" in describe(counts)


def test_counts_that_do_not_balance_are_refused() -> None:
    with pytest.raises(DataError, match="balance"):
        Counts(3, 1, 1, {"train": 1}, {"private": 1}, {})


def test_a_query_is_the_summary_without_markup_and_its_document_lacks_it(tree: Path, tmp_path: Path) -> None:
    write_collection(tmp_path / "out", ["fakelib"])
    queries = {row["_id"]: row["text"] for row in _lines(tmp_path / "out" / "queries.jsonl")}
    texts = {row["_id"]: row["text"] for row in _lines(tmp_path / "out" / "corpus.jsonl")}
    assert queries["q:fakelib.plain.stretch"] == "Stretch a ribbon to a length"
    assert queries["q:fakelib.native.root"] == "Find the root of a polynomial"
    assert queries["q:fakelib.native.solve"] == "Solve for y, as x and stretch do, e.g. fast"
    assert texts["fakelib.native.solve"].startswith("More.\n\nParameters")
    assert not any("left out" in text for text in texts.values())
    assert not any(queries[query] in texts[query.removeprefix("q:")] for query in queries)


@pytest.mark.parametrize(
    "examples",
    [
        "Examples\n--------\n>>> gone()\n",
        "Example::\n\n    >>> gone()\n\n",
        "References\n----------\n.. [1] gone\n\n",
    ],
)
def test_examples_and_references_are_left_out_and_long_texts_are_cut(tree: Path, tmp_path: Path, examples: str) -> None:
    notes = "Notes\n-----\nStays.\n"
    text = f'def a():\n    """Say what one can ask for.\n\n{BODY}\n{examples}{notes}"""\n'
    text += f'def b():\n    """Say much more than that.\n\n{"word " * 20_000}"""\n'
    text += f'def c():\n    """Say it over many lines.\n\n{(chr(10) * 2).join(["line"] * 2_000)}"""\n'
    (tree / "extra.py").write_text(text)
    write_collection(tmp_path / "out", ["fakelib"])
    texts = {row["_id"]: row["text"] for row in _lines(tmp_path / "out" / "corpus.jsonl")}
    assert "gone" not in texts["fakelib.extra.a"]
    assert texts["fakelib.extra.a"].endswith("Stays.")
    assert all(MAX_TEXT - 10 < len(texts[f"fakelib.extra.{name}"]) <= MAX_TEXT for name in "bc")
    assert texts["fakelib.extra.c"].endswith("line")


def test_two_runs_write_the_same_bytes_and_no_path_of_the_machine(tree: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_collection(tmp_path / name, ["fakelib"])
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert str(tmp_path).encode() not in b"".join(_bytes(tmp_path / "one").values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "site", "two"]


def test_the_same_collection_is_reused_and_any_other_content_is_left_alone(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no obstacle
    first = write_collection(out, ["fakelib"])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = write_collection(out, ["fakelib"])
    assert second.reused
    assert "reused" in describe(second)
    assert (second.documents, second.dropped, second.pairs) == (first.documents, first.dropped, first.pairs)
    with pytest.raises(DataError, match="other arguments"):
        write_collection(out, ["fakelib"], seed=1)
    (tree / "plain.py").write_text("")  # of a package without a version, every change counts
    with pytest.raises(DataError, match="other arguments or versions"):
        write_collection(out, ["fakelib"])
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"counts": {"seen": 1}}', '{"counts": 3}', "\xff"])
def test_a_folder_of_something_else_is_never_overwritten(tree: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "SOURCE.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match="something else"):
        write_collection(tmp_path / "out", ["fakelib"])
    assert (tmp_path / "out" / "SOURCE.json").read_text(encoding="latin-1") == content
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="something else"):
        write_collection(tmp_path / "file", ["fakelib"])


@pytest.mark.parametrize(
    ("packages", "options", "message"),
    [
        (["no_such_package_here"], {}, "no_such_package_here"),
        (["../fakelib"], {}, "fakelib"),
        (["this"], {}, "this"),  # one file, no folder
        ([], {}, "expected packages"),
        (["fakelib"], {"documents": 0}, "documents"),
        (["fakelib"], {"queries": {"train": 9, "dev": -1}}, "dev"),
        (["fakelib"], {"queries": dict.fromkeys(QUERIES, 0)}, "no query"),
    ],
)
def test_what_cannot_be_done_is_said(tree: Path, tmp_path: Path, packages, options, message) -> None:
    with pytest.raises(DataError, match=message):
        write_collection(tmp_path / "out", packages, **options)
    assert not (tmp_path / "out").exists()


def test_limits_are_kept_and_a_query_never_changes_its_split(tree: Path, tmp_path: Path) -> None:
    counts = write_collection(tmp_path / "all", ["fakelib"])
    few = write_collection(tmp_path / "few", ["fakelib"], queries=QUERIES | {"train": 2})
    assert few.pairs == counts.pairs | {"train": 2}
    assert few.unasked["beyond_limit"] == counts.pairs["train"] - 2
    assert set(_pairs(tmp_path / "few", "train")) < set(_pairs(tmp_path / "all", "train"))
    some = write_collection(tmp_path / "some", ["fakelib"], documents=5)
    assert some.documents == 5
    assert some.dropped["not_sampled"] == counts.documents - 5


def test_numpy_and_scipy_give_a_collection_of_look_alikes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = write_collection(out, ["scipy", "numpy"], documents=300)
    corpus, queries = _lines(out / "corpus.jsonl"), _lines(out / "queries.jsonl")
    assert counts.documents == len(corpus) == len({row["_id"] for row in corpus}) == 300
    assert counts.queries == len(queries) == len({row["text"].casefold() for row in queries}) > 150
    assert {row["_id"].split(".")[0] for row in corpus} == {"numpy", "scipy"}
    assert all(len(row["text"]) >= 200 and row["title"] for row in corpus)
    last_names = [row["title"].rpartition(".")[2] for row in corpus]
    assert len(last_names) - len(set(last_names)) > 10
    positives = [{doc for _, doc in _pairs(out, split)} for split in ("train", "dev", "test")]
    asked = [{query for query, _ in _pairs(out, split)} for split in ("train", "dev", "test")]
    for sets, whole in (
        (positives, {row["_id"] for row in corpus}),
        (asked, {row["_id"] for row in queries}),
    ):
        assert all(sets)
        assert len(set.union(*sets)) == sum(map(len, sets)), "splits share nothing"
        assert set.union(*sets) <= whole
