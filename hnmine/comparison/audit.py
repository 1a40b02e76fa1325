"""The audit of a domain: how often would each way to mine take a right answer for a negative.

Of queries with several judged positives all but one are hidden in turn (`hidden`). Each rule chooses a negative; the
two conditions are mined with some guards beside, and as configured. The result is OUT/audit.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hnmine.comparison.hidden import HiddenChoices, Trials, count_hidden_choices, hide_positives
from hnmine.config.mining import GuardsConfig, SelectConfig
from hnmine.errors import DataError
from hnmine.mining.conditions import select
from hnmine.mining.fuse import Fused
from hnmine.mining.mine import denoise_model, groups_of_equal_text, guards_of, open_search
from hnmine.mining.space import single_spaces
from hnmine.project import Project
from hnmine.ranking.first_stage import Bm25
from hnmine.report.risks import risk_table, verdict
from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions
from hnmine.runs.progress import track
from hnmine.types import Space, Texts

TWO_CONDITIONS = "two conditions"
TRIED_GUARDS = {
    "two conditions, margin 0.05": GuardsConfig(margin=0.05),
    "two conditions, margin 0.02": GuardsConfig(margin=0.02),
    "two conditions, first_rank 10": GuardsConfig(first_rank=10),
    "two conditions, margin 0.02, first_rank 5": GuardsConfig(margin=0.02, first_rank=5),
}
"""Guards that are measured whatever is configured."""
_BM25_DEPTH = 100  # documents of a query that rules of the first stage look at


def audit(project: Project) -> dict[str, Any]:
    """Measure how often each rule would choose a right answer that is not labelled; return the record.

    Writes OUT/audit.json. The record has `table` and `verdict` for people beside.

    Raises:
        DataError: no query has two judged positives.
    """
    config, collection = project.config, project.collection
    denoise_model(config.guards)  # its absence is said before hours of encoding
    # Hide positives, and embed the queries that have several.
    split = config.sources.train_split
    trials = hide_positives(collection.pairs(split), groups_of_equal_text(collection.documents))
    if not len(trials.pairs):
        raise DataError(
            f"no query of {split} has two judged positives, so none can be hidden; judge a second right document for "
            "some 50 queries, or look at triplets by eye"
        )
    rows_Q, pairs = trials.pairs.renumbered()
    trials, queries = replace(trials, pairs=pairs), collection.queries.take(rows_Q)
    fused = project.fuse(queries)
    space = project.project(fused, project.choose_basis(fused))
    # Let the rules choose, then mine with guards.
    first_QK, _ = Bm25(collection.documents, k1=config.evaluate.k1, b=config.evaluate.b).first(queries, _BM25_DEPTH)
    with track("audit", f"{len(queries):,} queries with several positives", len(pairs), "pairs") as progress:
        counts = count_hidden_choices(space, trials, seed=config.seed, first_QK=first_QK, done=progress.advance)
    settings, configured = _settings(config.guards, config.select)
    counts |= _mined(project, trials, queries, fused, space, settings)
    # Record.
    risks = {name: choices.facts() for name, choices in counts.items()}
    record = {
        "queries": len(queries),
        "pairs": len(pairs),
        "rules": risks,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(project.run.out / "audit.json", record)
    return record | {"table": risk_table(risks), "verdict": verdict(risks, TWO_CONDITIONS, configured)}


def _settings(guards: GuardsConfig, select: SelectConfig) -> tuple[dict[str, tuple[GuardsConfig, int]], str | None]:
    """Return guards and numbers of negatives to mine with, by name; the name of those configured, if not the rule."""
    tried = {name: (each, 1) for name, each in TRIED_GUARDS.items()}
    if guards == GuardsConfig() and select.negatives == 1:
        return tried, None
    name = TWO_CONDITIONS + (", guarded" if guards != GuardsConfig() else "")
    name += f", {select.negatives} a pair" if select.negatives > 1 else ""
    return tried | {name: (guards, select.negatives)}, name


def _mined(
    project: Project,
    trials: Trials,
    queries: Texts,
    fused: Fused,
    space: Space,
    settings: Mapping[str, tuple[GuardsConfig, int]],
) -> dict[str, HiddenChoices]:
    """Mine the trials' pairs with each of the settings, and count."""
    config, counts = project.config, {}
    with open_search(space, config.search, project.search_device, config.seed) as (search, _):
        for name, (guards, negatives) in settings.items():
            with track("select", name, len(trials.pairs), "pairs") as progress:
                found = select(
                    space,
                    trials.pairs,
                    trials.known,
                    search,
                    negatives=negatives,
                    guards=guards_of(guards, lambda: single_spaces(fused)),
                    expensive=project.denoise(queries, progress) if guards.denoise is not None else None,
                    done=progress.advance,
                )
            counts[name] = HiddenChoices.count(trials, found.pair_M, found.doc_rows_M)
    return counts
