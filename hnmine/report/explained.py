"""What `hnmine explain` says: each verdict in words, and the whole as text for a terminal."""

from __future__ import annotations

from typing import Any

from hnmine.config.root import Config
from hnmine.report.marking import in_bold, marked, plain, terms_of
from hnmine.runs.printable import one_line
from hnmine.runs.tables import text_table

PROOF = {
    "found": "the pair has all negatives it asks for ({wanted}), and everything nearer to the query was looked at",
    "radius": "every document nearer to the query than the positive was looked at, and no more are left",
    "exhausted": "every other document is nearer to the query than the positive, and all were looked at",
    "approximate": "the index looked into a part of the documents, so a nearer negative may be missing",
    "own rule": "a rule chose, not the two conditions; nothing is proven of what it left",
}
NO_NEGATIVE = {
    "positive_is_nearest": "nothing that may be a negative is nearer to the query than the positive",
    "nearer_ones_resemble_positive": "all that is nearer to the query than the positive resembles the positive "
    "(condition 2)",
    "guards_leave_none": "the guards removed all that is left by the two conditions",
}
NONE_TAKEN = "what chose the negatives took none"
_WORDS = {
    "positive": "the positive, PD",
    "negative": "NEGATIVE {number}: nearer to the query than PD, and nearer to the query than to PD",
    "right": "judged right for the query, so never a negative",
    "same_text_as_right": "has the text of {twin}, which is judged right, so never a negative",
    "is_the_query": "is the query itself, by its text or its id, so never a negative",
    "lower_grade": "has a grade, but too low a one for a right document: neither right nor a negative",
    "condition_1": "d(Q,D) = {d_query:.4f} is not below d(Q,PD) = {radius:.4f}: no nearer than PD (condition 1)",
    "condition_2": "d(PD,D) = {d_positive:.4f} is not above d(Q,D) = {d_query:.4f}: resembles PD (condition 2)",
    "same_text": "has the text of {twin}, which stands for both",
    "rank_window": "guard: number {among} of what may be a negative; kept are {first_rank} to {last_rank}",
    "margin": "guard: d(Q,PD) - d(Q,D) = {gap:.4f} is over guards.margin = {margin:g}: far nearer than PD",
    "near_duplicate": "guard: d(PD,D) = {d_positive:.4f} is under guards.near_duplicate = {near_duplicate:g}",
    "agreement": "guard: both conditions hold for fewer encoders alone than guards.agreement = {agreement}",
    "denoise": "guard: {denoise} finds it too relevant beside PD",
    "beyond": "a negative too, but nearer ones are all that select.negatives = {wanted} asks for",
    "missed": "fulfils all conditions, but what chose the negatives did not take it",
}
_LEGEND = (
    "A negative D is nearer to the query Q than the right document PD (condition 1: d(Q,D) < d(Q,PD)), and nearer to Q "
    "than to PD\n(condition 2: d(Q,D) < d(PD,D)). d is the cosine distance in the space that was mined in, 0 to 2."
)
_WIDTH = 160  # of a text in a list
_LONG = 1600  # of a text alone


class Explanation(dict[str, Any]):
    """What `explain` returns; printed, it is text."""

    def __str__(self) -> str:
        return self.text()

    def text(self, *, bold: bool = False) -> str:
        """Return the explanation as text; on a terminal the words that texts share with the query may be bold."""
        query, terms = self["query"], terms_of(self["query"]["text"])
        width = _LONG if all(len(pair["documents"]) <= 2 for pair in self["pairs"]) else _WIDTH
        blocks = [f"query {one_line(query['id'])}: {one_line(query['text'])}", _LEGEND, *map(one_line, self["notes"])]
        for pair in self["pairs"]:
            blocks.append(f"{_heading(pair)}\n\n{_list(pair, terms, width, bold)}")
        return "\n\n".join(blocks)


def because(facts: dict[str, Any], config: Config) -> str:
    """Return in words what decides over a document; the facts are its distances, ranks and verdict."""
    guards = config.guards
    settings = {
        "wanted": config.select.negatives,
        "first_rank": guards.first_rank or 1,
        "last_rank": guards.last_rank or "the last",
        "margin": guards.margin,
        "near_duplicate": guards.near_duplicate,
        "agreement": guards.agreement,
        "denoise": guards.denoise and guards.denoise.model,
        "gap": facts["radius"] - facts["d_query"],
    }
    if facts["verdict"] == "negative" and facts["rule"]:
        return f"NEGATIVE {facts['number']}: chosen by the rule {facts['rule']}"
    return _WORDS[facts["verdict"]].format(**facts, **settings)


def _heading(pair: dict[str, Any]) -> str:
    """Return the lines about a pair as a whole."""
    place = f"rank {pair['rank_positive']:,} of {pair['ranked']:,}, d(Q,PD) = {pair['d_query_positive']:.4f}"
    lines = [f"positive {one_line(pair['positive'])}: {place}"]
    if pair["nearer"]:
        nearer = ", ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in pair["nearer"].items())
        lines.append(f"nearer to the query than the positive: {sum(pair['nearer'].values()):,} documents ({nearer})")
    found = f"negatives: {len(pair['negatives']):,}" if pair["negatives"] else f"no negative: {pair['no_negative']}"
    return "\n".join([*lines, found, f"certificate {pair['certificate']}: {pair['proof']}"])


def _list(pair: dict[str, Any], terms: frozenset[str], width: int, is_bold: bool) -> str:
    """Return a row a document, and the text below each."""
    documents = pair["documents"]
    scorers = list(documents[0]["scores"])
    rows = [
        [f"{each['rank']:,}", one_line(each["id"]), f"{each['d_query']:.4f}", f"{abs(each['d_positive']):.4f}"]
        + [f"{each['scores'][name]:.3f}" for name in scorers]
        + [one_line(each["because"])]
        for each in documents
    ]
    last = 4 + len(scorers)
    header, *table = text_table(rows, ("rank", "document", "d(Q,D)", "d(PD,D)", *scorers, ""), (1, last)).split("\n")
    show = in_bold if is_bold else plain
    texts = (show(marked(each["text"], terms, width)) for each in documents)
    return "\n".join([header, *(f"{row}\n      {text}" for row, text in zip(table, texts, strict=True))])
