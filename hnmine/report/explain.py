"""Why a document is a negative of a query, or is none: `hnmine explain`.

All documents are put in order by their distance to the query in the space that was mined in, and `conditions.trace`
says of each how the selection decides, with the settings that OUT records. What comes out is compared with what was
mined. Nothing is written but a query's vector that the store lacks, and scores of a guard's cross-encoder.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import ValidationError

from hnmine.config.root import Config
from hnmine.corpus.collection import Collection
from hnmine.corpus.layouts import read_collection
from hnmine.errors import DataError
from hnmine.mining.conditions import Known, Trace, trace
from hnmine.mining.mine import Judged, guards_of
from hnmine.mining.pca import Basis, project_space, single_spaces
from hnmine.project import Data, Project
from hnmine.report.explained import NO_NEGATIVE, NONE_TAKEN, PROOF, Explanation, because
from hnmine.runs.folder import Run
from hnmine.runs.manifest import read_manifest
from hnmine.runs.progress import Progress, track
from hnmine.types import Pairs, Space, distances

TOP = 20
"""Documents of a list that are explained, beside the positive and the negatives."""
OTHER_SPACE = "documents or encoders are not those that were mined, so their distances are others; mine again"
Scorer = Callable[[str, Sequence[str]], Iterable[float]]
"""What else says how well documents answer a query: (query, texts) → scores."""
Scorers = Mapping[str, Scorer]


def mined_run(out: Path) -> Run:
    """Return a folder that was mined into, to be read, with the settings it was mined with.

    Raises:
        DataError: nothing was mined, or a file is not as it was left.
    """
    manifest = read_manifest(out)
    section = manifest.get("mining", {})
    try:
        run = Run(out=out, config=Config.model_validate(section.get("config", {})), manifest=manifest)
    except ValidationError as error:
        raise DataError(f"{out} was mined by another hnmine; mine again ({error.errors()[0]['msg']})") from None
    run.require_mined()
    names = ("triplets.parquet", "basis.safetensors")
    found, files = run.sha256_of(*names), manifest.get("files", {})
    if not section or any(found.get(name) != files.get(name) for name in names):
        raise DataError(f"{out} is not as its manifest says; run `hnmine mine` again")
    return run


def open_mined(data: Data | None, out: Path) -> Project:
    """Return what was mined into OUT, and its collection, by default the one that OUT names.

    Raises:
        DataError: as `mined_run`; or the collection cannot be read.
    """
    run = mined_run(out)
    section = run.manifest["mining"]
    if data is None and str(section["data"]).startswith("("):
        raise DataError(f"{out} was mined from {section['data'][1:-1]}; give the collection as data")
    if data is None and "://" not in section["data"] and not Path(section["data"]).exists():
        raise DataError(f"the collection was {section['data']} when {out} was mined; name its place with --data")
    data = section["data"] if data is None else data
    collection = data if isinstance(data, Collection) else read_collection(data, run.config.sources)
    return Project(data=str(data), config=run.config, run=run, collection=collection)


def explain_query(
    project: Project,
    query_id: str,
    *,
    document_id: str | None = None,
    positive_id: str | None = None,
    top: int = TOP,
    scorers: Scorers | None = None,
) -> Explanation:
    """Return how the selection decides over the documents of a query, for each of its positives.

    Of a list that is the first `top` documents, up to the positive, and all negatives; or the one document.

    Raises:
        DataError: an id is not known, or nothing is judged right for the query.
    """
    # Find query, document and pairs.
    collection, notes = project.collection, list[str]()
    queries, documents = collection.queries, collection.documents
    query = _row("query", query_id, queries.row_of, documents.row_of)
    document = None if document_id is None else _row("document", document_id, documents.row_of, queries.row_of)
    pairs = project.train_pairs()
    pairs = pairs.take(pairs.query_rows_P == query)
    is_mined = len(pairs) > 0
    if not is_mined:
        right = np.array(sorted(collection.positives().get(query, ())), np.int64)
        pairs = Pairs(query_rows_P=np.full(len(right), query), doc_rows_P=right)
        notes.append("this is no train query, so it is not mined: what follows is what mining would find")
    if not len(pairs):
        raise DataError(f"no document is judged right for the query {query_id!r}, so there is no pair to explain")
    if positive_id is not None:
        wanted = _row("document", positive_id, documents.row_of, queries.row_of)
        if wanted not in pairs.doc_rows_P:
            right_ids = ", ".join(documents.ids[row] for row in pairs.doc_rows_P.tolist())
            raise DataError(f"{positive_id!r} is not judged right for the query {query_id!r}; right are {right_ids}")
        pairs = pairs.take(pairs.doc_rows_P == wanted)

    # Put all documents in order, and explain pair by pair.
    ordered = _Ordered(project, query, is_mined, scorers or {})
    with track("explain", query_id, len(pairs), "pairs") as progress:
        explained = [ordered.pair(pairs.take(np.array([at])), document, top, progress) for at in range(len(pairs))]
    found = {"id": query_id, "text": queries.texts[query]}
    return Explanation(query=found, mined=is_mined, notes=notes + ordered.notes, pairs=explained)


class _Ordered:
    """All documents in the order of their distance to one query. N documents, n those that are shown."""

    def __init__(self, project: Project, query: int, is_mined: bool, scorers: Scorers) -> None:
        self._project, self._query, self._is_mined, self._scorers = project, query, is_mined, scorers
        queries, self._documents = project.collection.queries, project.collection.documents
        self._text, self.notes = queries.texts[query], list[str]()
        digests = project.collection.digests()
        mined = project.run.manifest["mining"].get("digests", digests)
        if mined != digests:
            self.notes.append("the collection is not the one that was mined: mine again")
        if mined["documents"] != digests["documents"] and any(each.lexical for each in project.config.encoders):
            raise DataError(OTHER_SPACE)  # a lexical encoder is fitted on the documents
        self._rule = project.run.manifest["mining"]["search"].get("rule", "") if is_mined else ""
        if self._rule:
            chosen = f"the negatives were chosen by the rule {self._rule}, not by the two conditions"
            self.notes.append(f"{chosen}; of the others it is said what the conditions would decide")
        # Take the space that was mined in.
        self._fused, path = project.fuse(queries.take([query])), project.run.out / "basis.safetensors"
        basis = Basis.load(path) if path.is_file() else None
        if basis is not None and basis.made_of != self._fused.identity:
            raise DataError(OTHER_SPACE)
        self._space = project_space(self._fused, basis)
        # Put the documents in order.
        rows_N = np.arange(len(self._documents))
        self._d_query_N = distances(self._space.queries_QR, np.zeros_like(rows_N), self._space.docs_NR, rows_N)
        self._order_N = np.lexsort((rows_N, self._d_query_N))
        self._rank_N = np.argsort(self._order_N) + 1
        # Read what was mined.
        path = project.run.out / "negatives.parquet"
        self._mined = pq.read_table(path, filters=[("query_id", "=", queries.ids[query])]).to_pylist()

    @cached_property
    def _single_spaces(self) -> list[Space]:
        return single_spaces(self._fused)

    def pair(self, pair: Pairs, document: int | None, top: int, progress: Progress) -> dict[str, Any]:
        """Explain one pair: all that is listed, or one document."""
        # Follow the selection, and compare it with what was mined.
        positive, config, ids = int(pair.doc_rows_P[0]), self._project.config, self._documents.ids
        fates = self._fates(pair, progress)
        table = [row for row in self._mined if row["positive_id"] == ids[positive]]
        if self._is_mined and [row["negative_id"] for row in table] != [ids[row] for row in fates.negatives]:
            if self._project.run.manifest["mining"]["search"].get("index") == "flat":
                self.notes.append(f"OUT has other negatives for {ids[positive]}; mine again")
            else:  # an approximate index, or a rule of the user's
                rows_of = self._documents.row_of
                fates.believe([rows_of[row["negative_id"]] for row in table if row["negative_id"] in rows_of])

        # Describe what is listed.
        shown = {positive, *fates.negatives, *self._order_N[: min(top, self._rank_N[positive])].tolist()}
        rows = sorted(shown if document is None else {positive, document}, key=lambda row: int(self._rank_N[row]))
        certificate = self._certificate(fates.traced)
        return {
            "positive": ids[positive],
            "d_query_positive": float(self._d_query_N[positive]),
            "rank_positive": int(self._rank_N[positive]),
            "ranked": len(ids),
            "nearer": dict(Counter(fates.names_F.tolist()).most_common()),
            "negatives": [ids[row] for row in fates.negatives],
            "certificate": certificate,
            "proof": PROOF[certificate].format(wanted=config.select.negatives),
            "no_negative": "" if fates.negatives else NO_NEGATIVE.get(fates.traced.dropped, NONE_TAKEN),
            "documents": self._described(rows, positive, fates),
        }

    def _certificate(self, traced: Trace) -> str:
        search = self._project.run.manifest["mining"]["search"]
        if self._is_mined and search.get("index") != "flat":
            return "own rule" if self._rule else "approximate"
        return traced.certificate

    def _fates(self, pair: Pairs, progress: Progress) -> _Fates:
        judged, config = Judged.of(pair, self._project.collection), self._project.config
        guards = guards_of(config.guards, lambda: self._single_spaces)
        expensive = self._project.denoise(config.guards, judged.queries, progress)
        how: dict[str, Any] = {"negatives": config.select.negatives, "guards": guards, "expensive": expensive}
        nearer_F = self._order_N[: self._rank_N[pair.doc_rows_P[0]]]
        traced = trace(self._space, judged.pairs, judged.known, nearer_F, **how)
        progress.advance(1)
        names = [guard.name for guard in (*guards, *([expensive] if expensive else []))]
        return _Fates(traced, judged.known, names, config.select.negatives)

    def _described(self, rows: list[int], positive: int, fates: _Fates) -> list[dict[str, Any]]:
        """Describe documents, in this order."""
        rows_n, texts = np.array(rows, np.int64), [self._documents.texts[row] for row in rows]
        docs_NR, described = self._space.docs_NR, list[dict[str, Any]]()
        d_positive_n = distances(docs_NR, np.full(len(rows), positive), docs_NR, rows_n).tolist()
        scores = {name: list(map(float, score(self._text, texts))) for name, score in self._scorers.items()}
        for at, row in enumerate(rows):
            verdict, twin = ("positive", None) if row == positive else self._verdict(row, fates)
            found = {
                "rank": int(self._rank_N[row]),
                "id": self._documents.ids[row],
                "d_query": float(self._d_query_N[row]),
                "d_positive": d_positive_n[at],
                "verdict": verdict,
            }
            facts = {
                "rule": self._rule,
                "radius": self._d_query_N[positive],
                "twin": "" if twin is None else self._documents.ids[twin],
            }
            reason = because(found | facts | fates.numbers(row), self._project.config)
            scored = {name: of_all[at] for name, of_all in scores.items()}
            described.append(found | {"because": reason, "scores": scored, "text": texts[at]})
        return described

    def _verdict(self, row: int, fates: _Fates) -> tuple[str, int | None]:
        """Return the name of what decides over a document, and the document of the same text that is the reason."""
        never = self._project.collection.never_negative
        twins = never.with_copies({row}) - {row}
        if not fates.is_never_negative(row):
            name = fates.name(row)
            return name, fates.first_of(twins) if name == "same_text" else None
        right = never.positives.get(self._query, set())
        if row in right:
            return "right", None
        if twins & right:
            return "same_text_as_right", min(twins & right)
        return "is_the_query" if row in never.same_as(self._query) else "lower_grade", None


class _Fates:
    """What the selection decides over the documents nearer than the positive of one pair, the nearest first."""

    def __init__(self, traced: Trace, known: Known, guards: Sequence[str], wanted: int) -> None:
        self.traced, self._known, rows_F = traced, known, traced.rows_F
        self._place = {row: place for place, row in enumerate(rows_F["doc"].tolist())}
        # Find the first document of each text among those that fulfil both conditions.
        is_candidate_F = ~rows_F["is_known"] & (rows_F["d_query"] < rows_F["d_positive"])
        is_first_F = is_candidate_F.copy()
        is_first_F[is_candidate_F] = known.first_of_text(rows_F["pair"][is_candidate_F], rows_F["doc"][is_candidate_F])
        self._first_rows = rows_F["doc"][is_first_F].tolist()
        # Name what decides, in the order in which the selection asks.
        is_chosen_F = traced.passed_F & (np.cumsum(traced.passed_F) <= wanted)
        cases = {
            "never_negative": rows_F["is_known"],
            "condition_2": ~is_candidate_F,
            "same_text": ~is_first_F,
            "negative": is_chosen_F,
            "beyond": traced.removed_by_F < 0,  # passed, or not asked by an expensive guard
        }
        names_F = np.array([*guards, ""], dtype=object)[traced.removed_by_F]
        self.names_F = np.select([*cases.values()], [*cases], names_F).astype(object)
        self.negatives: list[int] = rows_F["doc"][is_chosen_F].tolist()

    def believe(self, negatives: list[int]) -> None:
        """Take these for the negatives: nobody can ask why they were chosen and not others."""
        for row in set(self.negatives) - set(negatives):
            self.names_F[self._place[row]] = "missed"
        self.negatives = negatives

    def name(self, row: int) -> str:
        """Return the name of what decides over a document that may be a negative."""
        place = self._place.get(row)
        return "negative" if row in self.negatives else "condition_1" if place is None else str(self.names_F[place])

    def numbers(self, row: int) -> dict[str, int]:
        """Return which negative a document is, and its rank among the documents that may be negatives; 0: none."""
        place = self._place.get(row)
        number = self.negatives.index(row) + 1 if row in self.negatives else 0
        return {"number": number, "among": 0 if place is None else int(self.traced.rank_F[place])}

    def is_never_negative(self, row: int) -> bool:
        """Return whether the document may be no negative of the query."""
        return bool(self._known.mask(np.zeros(1, np.int64), np.array([row]))[0])

    def first_of(self, rows: set[int]) -> int | None:
        """Return which of these documents stands for their text."""
        return next((row for row in self._first_rows if row in rows), None)


def _row(kind: str, name: str, rows: Mapping[str, int], others: Mapping[str, int]) -> int:
    """Return the row of an id; a DataError says which ids are like it."""
    if name in rows:
        return rows[name]
    folded = name.strip().casefold()
    near = [each for each in rows if abs(len(each) - len(folded)) <= 2 and each[:1].casefold() == folded[:1]]
    same = [each for each in near if each.casefold() == folded]
    if close := same[:3] or difflib.get_close_matches(name, near[:20_000], 3):
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    else:
        hint = f"ids are like {next(iter(rows), '')!r}"
    other = {"query": "document: give it as --document", "document": "query"}[kind]
    raise DataError(f"no {kind} has the id {name!r}; {f'it is that of a {other}' if name in others else hint}")
