"""What a folder is taken for, and what stands in it: `hnmine inspect`, a user's first command.

Nothing is refused. A folder that cannot be read as a collection is shown file by file, with the reason.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.config.encoders import EncoderConfig
from hnmine.config.root import Config
from hnmine.corpus.analyzer import words
from hnmine.corpus.collection import Collection, Quarantined
from hnmine.corpus.files import Folder, open_folder
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.mistakes import renamed
from hnmine.corpus.rows import rows
from hnmine.errors import HnmineError
from hnmine.models.folder import UNLIMITED, open_tokenizer
from hnmine.ranking.splits import Splits
from hnmine.runs.progress import track
from hnmine.runs.tables import text_table
from hnmine.types import Int64, Judgements, Texts

FEWEST = 30
"""Queries that dev, and test, should have."""
SAMPLE = 2000
"""Documents, and queries, whose tokens and scripts are counted: the first of as many equal parts."""
_CHARACTERS = 100_000  # of a text, for the same
_SHOWN = 80  # characters of an example
_SPLIT_HEADER = ("split", "used as", "judged", "right", "queries", "with a right one", "per query", "at most", "grades")
_MULTILINGUAL = "multilingual-small", "mmarco-mminilmv2-l12-h384-v1"
"""Presets of encoders and of a re-ranker for texts that are not English."""
_SCRIPTS = {"CJK": "Han", "IDEOGRAPHIC": "Han", "KATAKANA-HIRAGANA": "Katakana"}


def inspect(address: str | Path, config: Config, options: str = "") -> dict[str, Any]:
    """Look at a collection and return what `inspection_text` shows, all of it JSON.

    `problem` is the reason why commands would refuse the folder, None if they would not; `next` what to do, commands
    with the `options` that gave this configuration.

    Raises:
        ConfigError: the address cannot be understood.
        DataError: there is nothing at the address, or it cannot be listed.
    """
    folder, bad = open_folder(address), list[Quarantined]()
    found: dict[str, Any] = {"data": str(address), "problem": None}
    try:
        collection = read_collection(address, config.sources, bad)
    except HnmineError as error:
        found |= {"problem": str(error), "files": _files(folder), "quarantine": _by_reason(bad)}
        return found | {"next": _next(found, options)}

    # Divide it as all steps do.
    try:
        splits = Splits(collection, config, _no_first_stage)
        found["use"] = {"train": splits.train_name, "dev": splits.dev_name, "test": splits.test_name}
        parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
        found["asked"] = {role: len(np.unique(pairs.query_rows_P)) for role, pairs in parts.items()}
    except HnmineError as error:
        found["problem"] = str(error)
        names = {config.sources.train_split, config.sources.dev_split, config.sources.test_split}
        if not names & collection.splits.keys():
            options += f" --set sources.train_split={shlex.quote(next(iter(collection.splits)))}"

    # Count.
    found |= {
        "layout": collection.layout,
        "min_score": collection.min_score,
        "files": {
            name: {"rows": read, "kept": collection.rows_kept[name]} for name, read in collection.rows_read.items()
        },
        "not_read": list(collection.unread),
        **_texts(collection),
        "splits": {name: _judged(each, collection.min_score) for name, each in collection.splits.items()},
        "tokens": [_tokens(each, collection) for each in config.encoders],
        "quarantine": _by_reason(bad),
    }
    return found | {"next": _next(found, options, english=config.encoders == Config().encoders)}


def _no_first_stage() -> Any:
    raise AssertionError("nobody asks for documents here")


def _files(folder: Folder) -> dict[str, dict[str, Any]]:
    """Return of each file the number of rows, the first of them and the scripts, or why it has none."""
    files: dict[str, dict[str, Any]] = {}
    for file in folder.files:
        first, sample, count = None, list[str](), 0
        try:
            for count, row in enumerate(rows(file), 1):
                first = first or (row if not row.reason else None)
                if count <= SAMPLE:
                    sample += [value for value in row.fields.values() if isinstance(value, str)]
        except HnmineError as error:
            files[file.name] = {"rows": count, "problem": str(error)}
            continue
        shown = {name: _shown(str(value)) for name, value in first.fields.items()} if first else None
        files[file.name] = {"rows": count, "first_row": shown, "scripts": scripts(sample)}
    return files


def _by_reason(bad: Iterable[Quarantined]) -> dict[str, dict[str, Any]]:
    """Return the number of bad rows by reason, the most frequent first, with an example of each."""
    by_reason: dict[str, list[Quarantined]] = {}
    for row in bad:
        by_reason.setdefault(row.reason, []).append(row)
    ordered = sorted(by_reason.items(), key=lambda each: -len(each[1]))
    return {reason: {"rows": len(each), "example": asdict(each[0])} for reason, each in ordered}


def _texts(collection: Collection) -> dict[str, dict[str, Any]]:
    """Return counts of documents and queries, the latter also by what they lack."""
    queries, (groups_N, groups_Q) = collection.queries, collection.identities
    found = {
        role: {"count": len(texts), "scripts": scripts(_sample(texts)), "copies": _copies(texts, groups)}
        for role, texts, groups in (("documents", collection.documents, groups_N), ("queries", queries, groups_Q))
    }
    found["queries"] |= {
        "without_answer": _counted(queries, range(len(collection.judged), len(queries))),
        "that_are_documents": _counted(queries, collection.queries_that_are_documents.tolist()),
        "without_a_word_of_a_document": _counted(queries, _without_known_word(collection)),
    }
    return found


def _without_known_word(collection: Collection) -> list[int]:
    """Return the rows of the queries that share no word with any document; documents are read until none is left."""
    rows_of = defaultdict[str, list[int]](list)
    for row, text in enumerate(collection.queries.texts):
        for word in words(text):
            rows_of[word].append(row)
    left = set[int]().union(*rows_of.values())
    wordless = set(range(len(collection.queries))) - left
    with track("inspect", "words of the queries sought", len(collection.documents), "documents") as progress:
        for text in collection.documents.texts if left else ():
            for word in rows_of.keys() & words(text):
                left.difference_update(rows_of.pop(word))
            if not left:
                break
            progress.advance(1)
    return sorted(left | wordless)


def _counted(texts: Texts, some: Sequence[int]) -> dict[str, Any]:
    """Return how many texts these are, with the first."""
    example = [[texts.ids[row], _shown(texts.texts[row])] for row in some[:1]]
    return {"count": len(some), "example": example[0] if example else None}


def _shown(text: str) -> str:
    return " ".join(text[: 2 * _SHOWN].split())[:_SHOWN]


def _copies(texts: Texts, groups: Int64) -> dict[str, Any]:
    """Return how many texts are the same as an earlier one, with the first such pair of ids."""
    _, first_of_group, group_of = np.unique(groups, return_index=True, return_inverse=True)
    first_of = first_of_group[group_of]
    later = np.flatnonzero(first_of != np.arange(len(groups)))
    example = [[texts.ids[int(first_of[row])], texts.ids[row]] for row in later[:1].tolist()]
    return {"count": len(later), "example": example[0] if example else None}


def _judged(judgements: Judgements, min_score: float | None) -> dict[str, Any]:
    """Return counts of what a split judges."""
    positives = judgements.positives(min_score)
    _, per_query_Q = np.unique(positives.query_rows_P, return_counts=True)
    grades = Counter(f"{grade:g}" for grade in judgements.grades_J.tolist())
    return {
        "judgements": len(judgements),
        "right": len(positives),
        "queries": len(np.unique(judgements.query_rows_J)),
        "queries_with_answer": len(per_query_Q),
        "right_per_query": round(float(per_query_Q.mean()), 2) if len(per_query_Q) else 0.0,
        "most_of_a_query": int(per_query_Q.max(initial=0)),
        "judged_per_query": round(len(judgements) / max(1, len(np.unique(judgements.query_rows_J))), 2),
        "grades": dict(sorted(grades.items(), key=lambda each: -float(each[0]))),
    }


def scripts(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of each script in the letters of the texts, the most frequent first; none below 0.1 %."""
    letters: Counter[str] = Counter()
    for character, count in Counter("".join(text[:_CHARACTERS] for text in texts)).items():
        for each in unicodedata.normalize("NFKC", character):
            if each.isalpha():
                name = unicodedata.name(each, "OTHER").split()[0]
                letters[_SCRIPTS.get(name, name.capitalize())] += count
    total = letters.total()
    return {name: round(count / total, 4) for name, count in letters.most_common() if count >= total / 1000}


def _sample(texts: Texts) -> list[str]:
    """Return the first text of each of `SAMPLE` equal parts."""
    rows_S = np.linspace(0, len(texts), min(SAMPLE, len(texts)), endpoint=False).astype(int)
    return [texts.texts[row] for row in rows_S.tolist()]


def _tokens(encoder: EncoderConfig, collection: Collection) -> dict[str, Any]:
    """Return the lengths of a sample in tokens of an encoder, and the share that it truncates; or why not."""
    found: dict[str, Any] = {"encoder": encoder.name}
    try:
        tokenizer, limit = open_tokenizer(encoder)
    except Exception as error:  # what is raised depends on the library that meets a broken file
        return found | {"reason": str(error)}
    found["limit"] = limit if limit < UNLIMITED else None
    for name, texts in (("documents", collection.documents), ("queries", collection.queries)):
        sample = [text[:_CHARACTERS] for text in _sample(texts)]
        lengths = np.array([len(each.ids) for each in tokenizer.encode_batch(sample)])
        median, most = np.percentile(lengths, (50, 95)).astype(int).tolist()
        truncated = round(float((lengths > limit).mean()), 4)
        counts = {"texts": len(lengths), "median": median, "95_percent": most, "longest": int(lengths.max())}
        found[name] = counts | {"truncated": truncated}
    return found


def _next(found: dict[str, Any], options: str, *, english: bool = False) -> list[str]:
    """Return what to do: commands, and what to know before; `english`: encoders that read English are configured."""
    # What stops every command.
    data = f"--data {shlex.quote(found['data'])}"
    if found["problem"]:
        columns = {name: list(each.get("first_row") or {}) for name, each in found.get("files", {}).items()}
        return [*renamed(columns), f"mend this, then: hnmine inspect {data}{options}"]

    # What makes results poor.
    advice, queries, splits = [], found["queries"], found["splits"]
    mains = [next(iter(found[role]["scripts"]), None) for role in ("documents", "queries")]
    if english and not set(mains) <= {"Latin", None}:
        options += f" --set encoders={_MULTILINGUAL[0]} --set train.model={_MULTILINGUAL[1]}"
        advice.append("the models of the default read English; the command below names multilingual ones")
    if (lacking := queries["without_a_word_of_a_document"]["count"]) > queries["count"] / 2:
        options += " --set evaluate.first_stage=dense"
        advice.append(f"BM25 finds nothing for {lacking:,} queries; the command below asks the encoders in its place")
    advice += _of_judgements(found)
    if queries["that_are_documents"]["count"]:
        advice.append("queries that are documents find themselves; --set evaluate.exclude_self=true leaves them out")
    for each in found["tokens"]:
        if each.get("documents", {}).get("truncated", 0) > 0.25:
            advice.append(f"{each['encoder']} reads the first {each['limit']} tokens; long_documents: mean reads more")

    # The commands.
    if any(each["most_of_a_query"] > 1 for each in splits.values()):
        advice.append(f"hnmine audit {data} --out out/audit{options}")
    return [*advice, f"hnmine run {data} --out out/run{options}"]


def _of_judgements(found: dict[str, Any]) -> list[str]:
    """Return what to know of grades, of splits that are used twice or not at all, and of rows that were set aside."""
    # Grades.
    advice, splits, use = [], found["splits"], found.get("use")
    grades = {grade for each in splits.values() for grade in each["grades"] if float(grade) > 0}
    if found["min_score"] is None and len(grades) > 1:
        highest = max(grades, key=float)
        advice.append(f"grades differ; if only the highest are answers, add --set sources.min_score={highest}")

    # Splits.
    idle = [name for name in splits if use and name not in use.values()]
    if use and use["test"] not in splits and idle:
        add = f"add --set sources.test_split={shlex.quote(idle[-1])}"
        advice.append(f"{', '.join(idle)}: judged, and not used; to report one, {add}")
    elif use and use["test"] == use["dev"]:
        advice.append(f"{use['dev']} both stops the training and is reported, which flatters; judge a test split")

    for role in ("dev", "test") if use and use["test"] != use["dev"] else ("dev",) * bool(use):
        if found["asked"][role] < FEWEST:
            advice.append(
                f"{role} has {_asked(found, role)}: below {FEWEST}, chance decides what looks best; judge more queries"
            )

    # Rows.
    for name, each in found["files"].items():
        if (lost := each["rows"] - each["kept"]) > each["rows"] / 10:
            advice.append(f"{lost:,} of {each['rows']:,} rows of {name} are set aside; mend them first")
    return advice


def _asked(found: dict[str, Any], role: str) -> str:
    """Return how many queries of a split are asked, and of how many these are a share."""
    count, name = found["asked"][role], found["use"][role]
    total = next((each for split, each in found["splits"].items() if name.endswith(f" of {split}")), None)
    return f"{count:,} queries" if total is None else f"{count:,} of {total['queries_with_answer']:,} queries"


def inspection_text(found: dict[str, Any]) -> str:
    """Return what was found, for a person."""
    blocks = [f"{found['data']}: {found.get('layout', 'not read as a collection')}"]
    if found["problem"]:
        blocks.append(f"PROBLEM: {found['problem']}")
    blocks += _texts_block(found) if "documents" in found else _files_block(found)

    # What was judged, and lengths.
    if "splits" in found:
        rows = [_split_row(name, each, found.get("use", {})) for name, each in found["splits"].items()]
        blocks.append(text_table(rows, _SPLIT_HEADER, (0, 1)))
        use = {role: name for role, name in found.get("use", {}).items() if name not in found["splits"]}
        if shares := [f"{role}: {name}: {_asked(found, role)}" for role, name in use.items()]:
            blocks.append("taken from other splits: " + "; ".join(shares))
        blocks.append(_tokens_block(found["tokens"]))

    # What was not used.
    if found.get("not_read"):
        blocks.append("not read: " + ", ".join(found["not_read"]))
    if found["quarantine"]:
        rows = []
        for reason, each in found["quarantine"].items():
            row = each["example"]
            rows.append([reason, f"{each['rows']:,}", f"{row['file']}:{row['line']}", row["detail"]])
        blocks.append(text_table(rows, ("set aside", "rows", "for instance", ""), (0, 2, 3)))
    text = "\n\n".join([*blocks, "next:\n" + "\n".join(f"  {line}" for line in found["next"])])
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)


def _texts_block(found: dict[str, Any]) -> list[str]:
    """Return the lines on documents and queries."""
    rows = []
    for role in ("documents", "queries"):
        rows.append((role, f"{found[role]['count']:,}", _shares(found[role]["scripts"])))
    lines = [text_table(rows, (), (0, 2))]
    notes = {
        "documents that are copies of others": found["documents"]["copies"],
        "queries that are copies of others": found["queries"]["copies"],
        "queries without a right document": found["queries"]["without_answer"],
        "queries that are documents too": found["queries"]["that_are_documents"],
        "queries without a word that a document has": found["queries"]["without_a_word_of_a_document"],
    }
    said = [(f"{each['count']:,}", name, ": ".join(each["example"])) for name, each in notes.items() if each["count"]]
    return lines + ([text_table(said, (), (1, 2))] if said else [])


def _files_block(found: dict[str, Any]) -> list[str]:
    """Return the lines on the files of a folder that could not be read."""
    lines = []
    for name, each in found["files"].items():
        fields = "; ".join(f"{key}: {value}" for key, value in (each.get("first_row") or {}).items())
        lines.append((name, f"{each['rows']:,}", _shares(each.get("scripts", {})), each.get("problem", fields)[:200]))
    return [text_table(lines, ("file", "rows", "", "first row"), (0, 2, 3))] if lines else ["it holds no file"]


def _shares(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in found.items())


def _split_row(name: str, judged: dict[str, Any], use: dict[str, str]) -> list[str]:
    grades = ", ".join(f"{grade}: {count:,}" for grade, count in list(judged["grades"].items())[:6])
    counts = [f"{judged[key]:,}" for key in ("judgements", "right", "queries", "queries_with_answer")]
    used_as = ", ".join(role for role, each in use.items() if each == name)
    return [name, used_as, *counts, f"{judged['right_per_query']}", f"{judged['most_of_a_query']:,}", grades]


def _tokens_block(tokens: Sequence[dict[str, Any]]) -> str:
    rows = []
    for each in tokens:
        if "reason" in each:
            rows.append([each["encoder"], each["reason"]])
        for role in ("documents", "queries"):
            if role in each:
                lengths = each[role]
                cut = "read to the end" if each["limit"] is None else f"{lengths['truncated']:.1%} over {each['limit']}"
                counts = [f"{lengths[key]:,}" for key in ("median", "95_percent", "longest")]
                rows.append([each["encoder"], role, *counts, cut])
    return text_table(rows, ("tokens", "of", "median", "95 %", "longest", "truncated"), (0, 1))
