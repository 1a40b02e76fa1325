"""How often does each way to mine take a right answer for a negative? Hide judged positives and count.

The two conditions look where unlabelled right answers live. Where queries have several judged positives that can be
measured: keep one of them as PD, hide the others, and let each rule choose negatives. The share of its choices that are
hidden positives estimates its share of false negatives; the yield says how many pairs get a negative at all.

The interval is Wilson's at 95 % for the effective number of independent choices: choices for one query resemble each
other, so the variance is that between queries (of a ratio, by linearisation). A bootstrap over queries gives the same
where something was hidden, but says "0 to 0" of ten choices without one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hnmine.arms.choose import choose_negatives
from hnmine.arms.rules import RULES, Rule, rule_of
from hnmine.comparison.completeness import FEWEST, hide_one, most_that_are_right
from hnmine.comparison.copies import NEIGHBOURS, Copies, count_copies, sample_of
from hnmine.config.base import slug
from hnmine.config.root import Config
from hnmine.config.steps import GuardsConfig
from hnmine.corpus.never_negative import NeverNegative
from hnmine.mining.conditions import Known
from hnmine.mining.mine import Judged, denoise_model, open_search
from hnmine.mining.pca import Fused
from hnmine.project import Project
from hnmine.ranking.first_stage import Bm25
from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say, track
from hnmine.runs.tables import text_table
from hnmine.types import NO_ROW, Float64, Int64, Negatives, Pairs, Space

TWO_CONDITIONS = "two conditions"
TRIED_GUARDS = {
    "two conditions, margin 0.05": GuardsConfig(margin=0.05),
    "two conditions, margin 0.02": GuardsConfig(margin=0.02),
    "two conditions, first_rank 10": GuardsConfig(first_rank=10),
    "two conditions, margin 0.02, first_rank 5": GuardsConfig(margin=0.02, first_rank=5),
}
"""Guards that are measured whatever is configured."""
_BM25_DEPTH = 100  # documents of a query that rules of the first stage look at
_SAFE, _USABLE = 0.03, 0.10  # shares of hidden positives
_NO_REMEDY = ("nearest document", "condition 1", TWO_CONDITIONS)
_FEW_PAIRS = 0.2  # a share: a rule that leaves the others without a negative is no remedy
_HEADERS = ("yield", "negatives", "distinct documents")
_Z = 1.959964  # quantile of the normal distribution for 95 %, two-sided


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The judged pairs of queries with several positives, grouped by query; of each pair the others are hidden."""

    pairs: Pairs
    known: Known
    """Of each pair its positive, and what is no negative of its query without being judged right."""
    right: Known
    """Of each pair all positives of its query."""


def hide_positives(pairs: Pairs, never_negative: NeverNegative, rows_Q: Int64 | None = None) -> Trials:
    """Make a trial of each pair whose query has a positive of another text in any split, which can be hidden.

    Documents of one text count as one. `rows_Q` has the rows by which `never_negative` knows the queries of the pairs;
    None: the same.
    """
    groups_N, trials = never_negative.groups_N, []
    for query, docs in pairs.positives_of().items():
        row = query if rows_Q is None else int(rows_Q[query])
        of_text = {int(groups_N[doc]): doc for doc in reversed(docs)}
        right = never_negative.positives[row]
        if len({int(groups_N[doc]) for doc in right}) > 1:
            besides = never_negative.besides_positives(row)
            trials += [(query, doc, {doc, *besides}, right) for doc in sorted(of_text.values())]
    rows_P2 = np.array([trial[:2] for trial in trials], dtype=np.int64).reshape(-1, 2)
    return Trials(
        pairs=Pairs(query_rows_P=rows_P2[:, 0], doc_rows_P=rows_P2[:, 1]),
        known=Known([known for _, _, known, _ in trials], groups_N),
        right=Known([right for _, _, _, right in trials], groups_N),
    )


Risk = dict[str, Any]
"""What a rule risks: `hidden`, the share of its negatives that are hidden positives, and the `interval` of that;
`yield`, the share of the pairs that got a negative; `negatives`, how many; `documents`, how many distinct ones."""


def risk_of(trials: Trials, pair_M: Int64, doc_rows_M: Int64) -> Risk:
    """Return the risk of a rule that chose these negatives (M) for the pairs of the trials."""
    query_M, hidden_M = trials.pairs.query_rows_P[pair_M], trials.right.mask(pair_M, doc_rows_M)
    return {
        "hidden": float(hidden_M.mean()) if len(pair_M) else 0.0,
        "interval": interval(np.bincount(query_M), np.bincount(query_M, weights=hidden_M)),
        "yield": len(np.unique(pair_M)) / max(1, len(trials.pairs)),
        "negatives": len(pair_M),
        "documents": len(np.unique(trials.known.groups_N[doc_rows_M])),
    }


def interval(chosen_Q: Int64, hidden_Q: Int64 | Float64) -> tuple[float, float]:
    """Return the 95 % interval of Σ hidden / Σ chosen, of counts by query; see the module."""
    # Count the independent choices with this variance: at most all choices, and without variance the queries.
    chosen, queries = int(chosen_Q.sum()), int(np.count_nonzero(chosen_Q))
    rate, count = int(hidden_Q.sum()) / max(1, chosen), float(queries)
    if queries > 1 and 0 < rate < 1:
        spread = float(np.square(hidden_Q - rate * chosen_Q).sum()) * queries / (queries - 1)
        count = min(chosen, rate * (1 - rate) * chosen**2 / spread) if spread else chosen
    if not count:
        return 0.0, 1.0
    # Take Wilson's interval of so many.
    centre, scale = rate + _Z**2 / (2 * count), 1 + _Z**2 / count
    half = _Z * math.sqrt(rate * (1 - rate) / count + (_Z / (2 * count)) ** 2)
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def rule_risks(space: Space, trials: Trials, rules: Mapping[str, Rule] = RULES, **how: Any) -> dict[str, Risk]:
    """Let every rule choose one negative for every pair of the trials; `how` goes to `choose_negatives`."""
    chosen = choose_negatives(space, trials.pairs, trials.known, rules, count=1, **how)
    risks = {}
    for name, doc_rows_P1 in chosen.items():
        pair_M = np.flatnonzero(doc_rows_P1[:, 0] != NO_ROW)
        risks[name] = risk_of(trials, pair_M, doc_rows_P1[pair_M, 0])
    return risks


def audit(project: Project) -> dict[str, Any]:
    """Measure the risk of each rule, and of the two conditions with some guards and as configured.

    Writes OUT/audit.json, and returns it with `table` and `verdict` for people beside. Without a query of several
    positives nothing can be hidden, and `yields` and copies alone are measured.
    """
    config, collection = project.config, project.collection
    denoise_model(config.guards)  # its absence is said before hours of encoding
    # Hide positives, and embed the queries that have several.
    judged = project.train_pairs()
    trials = hide_positives(judged, collection.never_negative)
    if not len(trials.pairs):
        return _yields_alone(project, judged)
    rows_Q, pairs = trials.pairs.renumbered()
    trials, queries = replace(trials, pairs=pairs), collection.queries.take(rows_Q)
    fused = project.fuse(queries)
    space = project.reduce(fused)
    copies = _copies(project, judged, space)
    # Let the rules choose.
    first_QK, _ = Bm25(collection.documents, k1=config.evaluate.k1, b=config.evaluate.b).first(queries, _BM25_DEPTH)
    with track("audit", f"{len(queries):,} queries with several positives", len(pairs), "pairs") as progress:
        rules = RULES if (named := rule_of(config.select.rule)) is None else RULES | dict([named])
        risks = rule_risks(space, trials, rules, seed=config.seed, first_QK=first_QK, done=progress.advance)
    # Mine with guards, and as configured.
    configured, settings = _settings(config)
    offered = Judged(pairs=pairs, queries=queries, known=trials.known)
    mined, _ = project.select_each(offered, fused, space, settings)
    risks |= {name: risk_of(trials, each.pair_M, each.doc_rows_M) for name, each in mined.items()}
    # Mine as it is done, with all judged answers known.
    really = _really_mined(project, offered, fused, space, rows_Q)

    # Record.
    record = {"queries": len(queries), "pairs": len(pairs), "rules": risks, "mined": really, "copies": vars(copies)}
    return _recorded(project, record | {"verdict": verdict(risks, configured, really)}, risk_table(risks))


def _settings(config: Config) -> tuple[str, dict[str, tuple[GuardsConfig, int]]]:
    """Return what is configured, by name, and the guards to mine with, which the name is one of but for a rule."""
    guarded, count = config.guards != GuardsConfig(), config.select.negatives
    configured = TWO_CONDITIONS + (", guarded" if guarded else "") + (f", {count} a pair" if count > 1 else "")
    settings = {name: (guards, 1) for name, guards in TRIED_GUARDS.items()}
    if (named := rule_of(config.select.rule)) is not None:
        return named[0], settings
    return configured, settings | ({configured: (config.guards, count)} if configured != TWO_CONDITIONS else {})


def _recorded(project: Project, record: dict[str, Any], table: str) -> dict[str, Any]:
    record |= {"config": project.config.model_dump(mode="json"), "versions": versions()}
    write_json(project.run.out / "audit.json", record)
    return record | {"table": table}


def _yields_alone(project: Project, judged: Pairs) -> dict[str, Any]:
    """Measure what needs no second right answer: copies, and for how many pairs the two conditions find a negative."""
    split = project.config.sources.train_split
    lacking = f"no query of {split} has two judged positives, so none can be hidden"
    remedy = "judge a second right document for some 50 queries, or look at triplets by eye"
    say("audit", f"{lacking}: which rules choose right answers cannot be measured; copies and yields are")
    # Mine all pairs, everything judged known.
    offered = project.judge()
    fused = project.fuse(offered.queries)
    space = project.reduce(fused)
    copies = _copies(project, judged, space)
    settings = {TWO_CONDITIONS: (GuardsConfig(), 1)} | _settings(project.config)[1]
    mined, _ = project.select_each(offered, fused, space, settings)
    yields = {
        name: {"yield": each.selected_pairs / len(offered.pairs), "negatives": len(each)}
        | {"documents": each.distinct_documents}
        for name, each in mined.items()
    }
    # Record.
    record = {"queries": 0, "pairs": 0, "rules": {}, "mined": {}, "copies": vars(copies), "yields": yields}
    record |= {"verdict": f"What is a right answer without a label was not measured: {lacking}; {remedy}."}
    rows = [[name, f"{e['yield']:.1%}", f"{e['negatives']:,}", f"{e['documents']:,}"] for name, e in yields.items()]
    title = f"{len(offered.pairs):,} pairs of {len(offered.queries):,} queries"
    return _recorded(project, record, f"{title}\n\n{text_table(rows, ['rule', *_HEADERS])}")


def _really_mined(project: Project, offered: Judged, fused: Fused, space: Space, rows_Q: Int64) -> dict[str, float]:
    """Mine with all judged answers known; return the yield, how many negatives, and the most that can be right."""
    pairs, never_negative = offered.pairs, project.collection.never_negative
    but_one, all_known, hidden_P = hide_one(pairs, never_negative, rows_Q, project.config.seed)
    found: dict[str, Negatives] = {}
    for name, known in (("one hidden", but_one), ("all known", all_known)):
        settings = {name: (GuardsConfig(), 1)}
        found |= project.select_each(replace(offered, known=known), fused, space, settings)[0]
    one, mined, groups_N = found["one hidden"], found["all known"], never_negative.groups_N
    taken = groups_N[one.doc_rows_M] == groups_N[hidden_P[one.pair_M]]
    most = most_that_are_right(
        one.d_positive_negative_M[taken],
        pairs.query_rows_P[one.pair_M[taken]],
        mined.d_positive_negative_M,
        pairs.query_rows_P[mined.pair_M],
        interval,
    )
    return {"yield": mined.selected_pairs / len(pairs), "negatives": len(mined), "most_that_are_right": most}


def _copies(project: Project, judged: Pairs, space: Space) -> Copies:
    """Count the copies of the positives, among their nearest documents in the space, and say it."""
    collection, config, docs_P = project.collection, project.config, judged.doc_rows_P
    examined_E = sample_of(docs_P, config.seed)
    with open_search(space, config.search, device=config.device, seed=config.seed) as (search, _):
        nearest_EK, _ = search.nearest(space.docs_NR[examined_E], NEIGHBOURS + 1)
    copies = count_copies(collection.documents.texts, collection.identities[0], docs_P, examined_E, nearest_EK)
    for line in copies.lines():
        say("audit", line)
    return copies


def risk_table(risks: Mapping[str, Risk]) -> str:
    """Return one line a rule."""
    rows = []
    for name, risk in risks.items():
        low, high = risk["interval"]
        shares = [f"{risk['hidden']:.1%}", f"{low:.1%} - {high:.1%}", f"{risk['yield']:.1%}"]
        rows.append([name, *shares, f"{risk['negatives']:,}", f"{risk['documents']:,}"])
    return text_table(rows, ["rule", "hidden positives", "95 % interval", *_HEADERS])


def verdict(
    risks: Mapping[str, Risk], configured: str = TWO_CONDITIONS, mined: Mapping[str, float] | None = None
) -> str:
    """Say what the measured risk of the two conditions, and of what is `configured`, means for this domain.

    `mined` is what is mined with all judged answers known; it tells a set in which all is judged from a dangerous one.
    """
    lines = [f"Of the {TWO_CONDITIONS}' first negatives, {_judgement(risks[TWO_CONDITIONS])}."]
    if _is_dangerous(risks[TWO_CONDITIONS]):
        lines += _if_all_is_judged(mined)
        if mined is None or not _is_harmless(mined):
            lines.append(_remedy(risks))
    if configured != TWO_CONDITIONS:
        lines.append(f"As configured ({configured}), {_judgement(risks[configured])}.")
    return "\n".join(lines)


def _if_all_is_judged(mined: Mapping[str, float] | None) -> list[str]:
    """Return what is known of what is really mined."""
    if mined is None:
        return []
    found = f"with all that is judged known, as one mines, {mined['yield']:.1%} of these pairs have a negative"
    most = f"at most {mined['most_that_are_right']:.1%} of those lie to their positive as right answers do"
    if mined["negatives"] < FEWEST:
        return [f"But {found}: there is next to nothing to find among these, right or wrong."]
    if not _is_harmless(mined):
        return [f"{found[0].upper()}{found[1:]}, and {most}."] if mined["most_that_are_right"] < 1 else []
    return [f"But all seems to be judged here: {found}, and {most}. Documents that nobody judges stay dangerous."]


def _is_harmless(mined: Mapping[str, float]) -> bool:
    return mined["negatives"] < FEWEST or mined["most_that_are_right"] <= _USABLE


def _remedy(risks: Mapping[str, Risk]) -> str:
    """Return the hardest rule that was measured as usable, and how it is mined with."""
    settings = {name: _guards_as_settings(guards) for name, guards in TRIED_GUARDS.items()}
    settings |= {name: f"--set select.rule={slug(name)}" for name in RULES if name not in _NO_REMEDY}
    for name, how in settings.items():
        risk = risks.get(name)
        if risk is not None and risk["interval"][1] <= _USABLE and risk["yield"] >= _FEW_PAIRS:
            worth = f"{risk['hidden']:.1%} hidden, negatives for {risk['yield']:.0%} of the pairs"
            return f"Usable here is {name} ({worth}); mine with {how}."
    return "No rule that was measured is usable here: judge more right documents, or train with --preset positives."


def _guards_as_settings(guards: GuardsConfig) -> str:
    found = guards.model_dump(exclude_defaults=True)
    return " ".join(f"--set guards.{key}={value}" for key, value in found.items())


def _is_dangerous(risk: Risk) -> bool:
    (low, high), share = risk["interval"], risk["hidden"]
    return bool(risk["negatives"]) and high > _USABLE and share > _USABLE and low > _SAFE


def _judgement(risk: Risk) -> str:
    """Judge by the upper end of the interval: a small sample proves nothing safe."""
    (low, high), share = risk["interval"], risk["hidden"]
    if not risk["negatives"]:
        return "there is none: every pair is without"
    if high <= _SAFE:
        meaning = "safe here"
    elif high <= _USABLE:
        meaning = "usable with anchors (the default); look at some triplets by eye"
    elif _is_dangerous(risk):
        meaning = "dangerous where several documents are right for a query and few are judged"
    else:
        meaning = "too few to tell; judge more right documents of the same queries, or look at triplets by eye"
    return f"{share:.1%} ({low:.1%} to {high:.1%}) are right answers that were hidden: {meaning}"
