"""The installed Python packages as a search collection: a real domain on every machine, without a download.

Sources are parsed with `ast`, never imported. Each documented public function, class and method is a document
(its dotted name, and its docstring without the summary), and most summaries are a query with that one positive. True
look-alikes abound (`scipy.linalg.svd`, `numpy.linalg.svd`). Not read: tests, vendored code, functions inside functions.
In a private folder or file, what the `__init__.py` of the nearest public package mentions is public.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from hnmine.corpus.collection import draw
from hnmine.errors import DataError
from hnmine.runs.files import digest, file_sha256

PACKAGES = ("numpy", "scipy", "sklearn", "pandas", "torch")
QUERIES = {"train": 900, "dev": 150, "test": 300}
RULES = 1  # raise it with every change of the rules below, and no collection made by older ones is reused
MIN_TEXT, MAX_TEXT = 200, 4000  # characters of a document; a longer one is cut at the end of a line
MIN_WORDS, MAX_WORDS = 4, 30  # of a query
AREA_SHARE = 0.1  # of the corpus that one area may take while there are others
_UNREAD = {"_vendor", "conftest.py", "experimental", "externals", "test", "testing", "tests", "thirdparty_files"}
_HEADING = r"[A-Z][\w ]+\n[-=~]{3,}\n"
_EXAMPLES = rf"^(Examples?|References)\n[-=~]{{3,}}\n.*?(?=^{_HEADING}|\Z)|^Examples?::?\n.*?(?=^\S|\Z)"
_UNFILLED = r"^[ \t]*(\{\w+\}|%\(\w+\)s)?[ \t]*$"  # the gap of a template, or a blank line
_SIGNATURE = r"[\w.]+\(.*\)( *-> *.*| --)?$"
_SENTENCE_END = r"(?<!e\.g)(?<!i\.e)(?<!vs)(?<!etc)[.!?](?=\s|$)"
_ROLE = r":[\w:+-]+:?`+(?:[^`<]*<)?[~!.]*([^`<>]*)>?`+"
_MARKUP = r" *<https?:[^>]*>_*| *\[\d+\]_|`+(?:_(?=\W|$))?|\*\*?(?=\w)|(?<=\w)\*\*?|(?<=\w)_(?=\s|$)"
_NO_QUESTION = (
    r"(?is)(\.\.|[-=*:]|(alias|deprecated|see|refer to|same as|equivalent to|internal)\b)|.*([{}%|\\]|:$|>>>)"
)


@dataclass(frozen=True)
class Counts:
    """What was found in the sources and what became of it; every level balances."""

    seen: int  # definitions in the sources, and one for each file that does not parse
    documents: int
    queries: int
    pairs: dict[str, int]  # by split; each query has one positive
    dropped: dict[str, int]  # definitions that made no document, by reason
    unasked: dict[str, int]  # documents that made no query, by reason
    reused: bool = False  # this very collection was there already

    def __post_init__(self) -> None:
        balance = self.seen - sum(self.dropped.values()), self.queries + sum(self.unasked.values())
        if balance != (self.documents, self.documents) or self.queries != sum(self.pairs.values()):
            raise DataError(f"expected counts that balance, got {self}")


class _Document(NamedTuple):
    id: str
    title: str
    summary: str
    text: str
    package: str
    area: str  # "linalg" of scipy.linalg.svd, "" of numpy.sort: where look-alikes live


_Splits = dict[str, list[_Document]]


def write_collection(
    out: Path,
    packages: Sequence[str] = PACKAGES,
    documents: int = 3000,
    seed: int = 0,
    queries: Mapping[str, int] = QUERIES,
) -> Counts:
    """Write a BEIR folder and its SOURCE.json: the same bytes for the same arguments and package versions.

    `documents` and the `queries` of each split are upper limits; areas that several packages share come first.
    A hash of the query alone puts it into train (70 %), dev (10 %) or test (20 %). If `out` holds this very collection
    it is reused, and anything else there is refused.
    """
    # Name what decides the collection.
    if not packages or documents < 1 or min(queries.values()) < 0:
        raise DataError(f"expected packages, documents >= 1, queries >= 0; got {packages}, {documents}, {queries}")
    roots = {package: _root(package) for package in sorted(set(packages))}
    arguments = {"packages": list(roots), "documents": documents, "seed": seed, "queries": dict(queries)}
    versions = {package: _version(package, root) for package, root in roots.items()}
    source: dict[str, Any] = {"rules": RULES, "arguments": arguments, "versions": versions}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _reuse(out, source)

    # Read the sources, and draw documents and queries.
    definitions = [found for package, root in roots.items() for found in _read(package, root)]
    dropped = Counter(reason for reason in definitions if isinstance(reason, str))
    corpus = _sample([row for row in definitions if isinstance(row, _Document)], documents, seed, dropped)
    splits, unasked = _draw_queries(corpus, queries, seed)
    pairs = {split: len(rows) for split, rows in splits.items()}
    counts = Counts(len(definitions), len(corpus), sum(pairs.values()), pairs, dict(dropped), dict(unasked))
    if not counts.queries:
        raise DataError(f"expected documented packages, got no query; name others\n{describe(counts)}")
    _write(out, source | {"counts": asdict(counts)}, corpus, splits)
    return counts


def describe(counts: Counts) -> str:
    """Return the counts as lines to print."""
    reasons = [
        ", ".join(f"{name} {n:,}" for name, n in sorted(numbers.items(), key=lambda item: -item[1]) if n) or "none"
        for numbers in (counts.dropped, counts.unasked, counts.pairs)
    ]
    return f"""definitions  {counts.seen:,}{" (the collection was there and is reused)" * counts.reused}
  dropped    {reasons[0]}
documents    {counts.documents:,}
  unasked    {reasons[1]}
queries      {counts.queries:,}, each with one right document: {reasons[2]}"""


def _root(package: str) -> Path:
    spec = PathFinder.find_spec(package, sys.path) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"expected an installed package with Python sources, got {package!r}; leave it out")
    return Path(next(iter(spec.submodule_search_locations)))


def _files(root: Path) -> list[Path]:
    files = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted((file for file in files if _UNREAD.isdisjoint(file.parts)), key=Path.as_posix)


def _version(package: str, root: Path) -> str:
    """Return the version of its distribution; without one, a hash of its sources."""
    if names := metadata.packages_distributions().get(package):
        return ", ".join(metadata.version(name) for name in sorted(set(names)))
    return f"sha256:{digest({file.as_posix(): file_sha256(root / file) for file in _files(root)})}"


def _read(package: str, root: Path) -> Iterator[_Document | str]:
    """Yield, for each definition, a document or the reason for none."""
    mentioned: dict[Path, set[str]] = {}  # words of the __init__.py of a public package
    for file in _files(root):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other people's escape sequences
                tree = ast.parse((root / file).read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            yield "syntax_error"
            continue

        # Find the nearest public package.
        module = [package, *file.with_suffix("").parts]
        module = module[:-1] if module[-1] == "__init__" else module
        public = module[: next((i for i, part in enumerate(module) if part.startswith("_")), len(module))]
        init = root.joinpath(*public[1:], "__init__.py")
        if public != module and init not in mentioned:
            mentioned[init] = set(re.findall(r"\w+", init.read_text("utf-8", "replace"))) if init.exists() else set()

        # Take what is public and documented.
        for name, docstring, bound in _definitions(tree.body, ""):
            path, (summary, text) = name.split("."), _split(docstring)
            shown = bound or public == module or path[0] in mentioned[init]
            if not shown or any(part.startswith("_") for part in path):
                yield "private"
            elif len(text) < MIN_TEXT:
                yield "rest_too_short" if text else "no_rest" if docstring else "no_docstring"
            else:
                title, area = ".".join([*public, name]), ".".join(public[1:2])
                yield _Document(".".join([*module, name]), title, summary, text, package, area)


def _definitions(body: Iterable[ast.AST], prefix: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (name, docstring, whether bound from C) of functions, classes and methods."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name, ast.get_docstring(node) or "", False
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(ast.iter_child_nodes(node), prefix)
        elif isinstance(node, ast.Assign | ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value  # torch's way: svd = _add_docstr(_linalg.linalg_svd, r"""...""")
            if len(call.args) == 2 and getattr(call.func, "id", "").endswith("add_docstr"):
                target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else call.args[0])
                literals = (leaf.value for leaf in ast.walk(call.args[1]) if isinstance(leaf, ast.Constant))
                text = next((value for value in literals if isinstance(value, str)), "")
                yield prefix + target.rpartition(".")[2], inspect.cleandoc(text), True


def _split(docstring: str) -> tuple[str, str]:
    """Return the first sentence, as one would type it, and the rest without examples and references."""
    paragraph, _, rest = docstring.strip().partition("\n\n")
    if re.match(_SIGNATURE, " ".join(paragraph.split())):  # of what is bound from C
        paragraph, _, rest = rest.strip().partition("\n\n")
    lead = " ".join(paragraph.split())
    end = re.search(_SENTENCE_END, lead)
    summary, more = (lead[: end.start()], lead[end.end() :]) if end else (lead, "")
    summary = re.sub(_MARKUP, "", re.sub(_ROLE, lambda role: role[1].rpartition(".")[2], summary))
    text = re.sub(_EXAMPLES, "", f"{more}\n\n{rest}", flags=re.M | re.S)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(_UNFILLED, "", text, flags=re.M)).strip()
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT].rpartition("\n")[0].rstrip() or text[:MAX_TEXT]
    return " ".join(summary.split()).rstrip(" ,;"), text


def _sample(pool: list[_Document], documents: int, seed: int, dropped: Counter[str]) -> list[_Document]:
    """Drop repeated names and texts; take area by area, and in an area what has the same last name."""
    ids, kept = set[str](), dict[str, _Document]()  # kept: by text
    for document in pool:
        if document.id in ids or document.text in kept:
            dropped["duplicate_name" if document.id in ids else "duplicate_text"] += 1
        else:
            kept[document.text] = document
        ids.add(document.id)
    order = sorted(kept.values(), key=lambda d: (draw(seed, d.title.rpartition(".")[2]), d))
    crowded, size = set[str](), Counter[str]()
    for document in order:
        size[document.area] += 1
        if size[document.area] > AREA_SHARE * documents:
            crowded.add(document.id)
    sharing = Counter(area for area, _ in {(document.area, document.package) for document in order})
    order.sort(key=lambda d: (d.id in crowded, -sharing[d.area], draw(seed, d.area)))
    dropped.update({"not_sampled": len(order[documents:])})
    return sorted(order[:documents])


def _draw_queries(corpus: list[_Document], limits: Mapping[str, int], seed: int) -> tuple[_Splits, Counter[str]]:
    """Return by split the documents whose summary is a query, and the reasons why others have none."""
    words = {document.id: " ".join(re.findall(r"\w+", document.summary.casefold())) for document in corpus}
    times, unasked = Counter(words.values()), Counter[str]()
    splits: _Splits = {split: [] for split in limits}
    for document in sorted(corpus, key=lambda d: (draw(seed, words[d.id]), d)):
        length, drawn = len(document.summary.split()), draw(seed, f"split {words[document.id]}")
        split = "train" if drawn < 0.7 else "dev" if drawn < 0.8 else "test"
        reasons = {
            "no_question": re.match(_NO_QUESTION, document.summary),
            "summary_too_short": length < MIN_WORDS,
            "summary_too_long": length > MAX_WORDS,
            "duplicate_summary": times[words[document.id]] > 1,
            "beyond_limit": len(splits[split]) >= limits[split],
        }
        if reason := next((reason for reason, holds in reasons.items() if holds), None):
            unasked[reason] += 1
        else:
            splits[split].append(document)
    return splits, unasked


def _reuse(out: Path, source: dict[str, Any]) -> Counts:
    """Return the counts of the collection in `out`, if it is this very one."""
    try:
        found = json.loads((out / "SOURCE.json").read_text(encoding="utf-8"))
        counts = Counts(**found.pop("counts"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{out} holds something else than such a collection; choose another folder") from None
    if found != source:
        raise DataError(f"{out} was made with other arguments or versions; remove it or choose another")
    return replace(counts, reused=True)


def _write(out: Path, source: dict[str, Any], corpus: list[_Document], splits: _Splits) -> None:
    """Write the folder, complete or not at all."""
    asked = sorted(document for rows in splits.values() for document in rows)
    files = {
        "corpus.jsonl": [json.dumps({"_id": d.id, "title": d.title, "text": d.text}) for d in corpus],
        "queries.jsonl": [json.dumps({"_id": f"q:{d.id}", "text": d.summary}) for d in asked],
        "SOURCE.json": [json.dumps(source, indent=2, sort_keys=True)],
    }
    for split, rows in splits.items():
        lines = [f"q:{document.id}\t{document.id}\t1" for document in sorted(rows)]
        files[f"qrels/{split}.tsv"] = ["query-id\tcorpus-id\tscore", *lines]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as parent:
            folder = Path(parent) / out.name
            (folder / "qrels").mkdir(parents=True)
            for name, lines in files.items():
                (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
            folder.rename(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}") from None
