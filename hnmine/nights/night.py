"""One night: the collection is mined as it is tonight, and a ranker that is not worse is deployed.

    lock → read → embed what is new → old basis or a new one → project → select → write
    → if enough changed: train, evaluate, let dev choose between all rows and the deployed ranker
    → deploy what was chosen, if not worse on held-out queries → publish, by one pointer

A *version* is the whole of a night: negatives, basis, the texts that the next night compares with, and the name of the
deployed ranker. Nobody sees a night before its last write. A night that was broken off is simply done again, and
finds the vectors, checkpoints and scores of the first attempt in its run folder.

An *epoch* is a series of nights with one basis and one fit of each lexical encoder. Within it a text keeps its vector,
so the store encodes only new texts. The selection searches every pair every night. The negatives therefore equal
those of a run from scratch with the same basis and fits.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.arms.arm import preset_arms
from hnmine.config.base import Section
from hnmine.config.root import Config
from hnmine.corpus.text_keys import KEY_BYTES, keys_of
from hnmine.errors import ConfigError, DataError, ModelError
from hnmine.mining.mine import denoise_model
from hnmine.mining.pca import HELD_OUT_ROWS, Basis, Fused, captured
from hnmine.models.folder import RANKER_FILE, adapter_base, resolve
from hnmine.models.lexical import Fit
from hnmine.nights.home import Facts, Home, PinnedFit, Row, Version, identities_of, ranks_as
from hnmine.nights.lease import Lease
from hnmine.pipeline import evaluate_step, rule_to_follow, select_step, train_step
from hnmine.project import Project, open_project
from hnmine.ranker.ranker import Ranker, RankerSpec
from hnmine.ranker.write import RANKER
from hnmine.ranking.evaluate import KeptScores
from hnmine.ranking.measures import MAIN_METRIC, Paired, measure, paired
from hnmine.ranking.rows import scores_file, scores_table
from hnmine.report.page import NIGHTS, leave_page
from hnmine.runs.counters import counted_night
from hnmine.runs.files import digest, write_json
from hnmine.runs.folder import refuse_source
from hnmine.runs.progress import say
from hnmine.types import Float64, Int64

_BASIS = "basis.safetensors"
_DOCUMENTS = "documents.parquet"
_TRIPLETS = "triplets.parquet"
_FILES = ("negatives.parquet", _TRIPLETS, "quarantine.jsonl", "manifest.json", _BASIS, _DOCUMENTS)


def nightly(data: str | Path, home: str | Path, config: Config | None = None) -> Row:
    """Do one night; return its row of the history.

    Raises:
        InUseError: another job works on this home.
        UnavailableError: a store does not answer, or the lock was lost.
        HnmineError: the data, the configuration, a model, a device or the home is not usable.
    """
    config = config or Config()
    preset_arms(config)  # an unknown one is said before the collection is read
    refuse_source(data, home, "--home")
    opened = Home(home)
    directory = opened.directory
    work = config.nightly.work or (directory.local and directory.local / "work")
    if work is None:
        raise ConfigError(f"--home {directory} is no folder: say where to work on this machine, nightly.work=DIR")
    with opened.hold() as lease:
        last = opened.current().number
        say("nightly", f"night {opened.next_number()} of {directory}" + (f", after {last}" if last else ""))
        if config.embed.store is None and directory.local not in Path(work).absolute().parents:
            store = opened.keep_store(Path(work))
            config = config.model_copy(update={"embed": config.embed.model_copy(update={"store": store})})
        with counted_night(), open_project(data, work, config) as project:
            row = _night(project, opened, lease)
            _leave_page(project.run.out, opened)
            return row


def _night(project: Project, home: Home, lease: Lease) -> Row:
    config, out, last = project.config, project.run.out, home.current()
    facts, row = last.facts.model_copy(), Row(version=home.next_number(), decision="")

    _refuse_what_would_stop(project)

    # Embed. Lexical encoders keep the fits of the epoch: fitted anew, they would give every text another vector.
    new_rows = _compare_documents(project, home.file(last, _DOCUMENTS, out), row)
    facts.came += len(new_rows)
    lexical = {each.name: _recorded(each.lexical, config) for each in config.encoders if each.lexical is not None}
    project.fits = {
        name: pinned.fit
        for name, pinned in facts.fits.items()
        if name in lexical
        and lexical[name].items() <= pinned.settings.items()
        and Fit(project.store, pinned.fit).read()
    }
    project.check_models("mine", "train")
    judged = project.judge()
    fused = project.fuse(judged.queries)

    # Keep the basis, or begin an epoch with a new basis and new fits.
    path = home.file(last, _BASIS, out)
    basis = None if path is None else Basis.load(path)
    reason = _end_of_epoch(project, facts, fused, basis, new_rows) if last.number else "the first night"
    if reason:
        say("nightly", f"epoch {facts.epoch + 1} begins: {reason}")
        facts.epoch, facts.came = facts.epoch + 1, 0
        if project.fits:
            project.fits = {}
            del project.ensemble  # it is planned anew
            fused = project.fuse(judged.queries)
        basis = None
    facts.fused, facts.reduce = list(fused.identity), _recorded(config.reduce, config)
    facts.fits = {name: PinnedFit(fit=fit, settings=lexical[name]) for name, fit in project.ensemble.fits.items()}

    # Mine as `hnmine mine` does, and train.
    select_step(project, judged, fused, basis=basis)
    row.pairs = row.searched = len(judged.pairs)
    row.epoch, row.negatives_changed = facts.epoch, _count_changed_pairs(home.file(last, _TRIPLETS, out), out)
    facts.pairs_changed += row.negatives_changed
    say("nightly", f"{row.negatives_changed:,} of {row.pairs:,} pairs have other negatives than the night before")
    chosen = _train_and_decide(project, home, last, row, facts)
    say("nightly", row.decision, **row.model_dump(exclude={"decision"}))

    # Write the version, then let it hold. If the lock is lost, another job may write one of this number.
    files = {name: out / name for name in _FILES if (out / name).exists()}
    lease.check()
    update: dict[str, Any] = {"number": row.version, "facts": facts}
    if chosen is not None:
        update |= {"ranker": home.add_ranker(chosen), "identity": identities_of(chosen)[0], "reranker": ""}
    version = last.model_copy(update=update)
    home.write(version, files)
    lease.check()
    home.point(row.version, row, config.nightly.keep, after=last.number)
    say("nightly", f"version {row.version} holds; it deploys {home.directory}/{version.deployed}")
    return row


def _leave_page(out: Path, home: Home) -> None:
    """Write the page of the night, with the history, into the work folder and into the home."""
    write_json(out / NIGHTS, {"nights": [each.model_dump() for each in home.history()]})
    page = leave_page(out)
    if page is not None:
        home.directory.write(page.name, page.read_bytes())


def _recorded(section: Section, config: Config) -> dict[str, Any]:
    """Return settings as a version records them; earlier releases recorded more of them."""
    return section.model_dump(mode="json") | {"seed": config.seed}


def _refuse_what_would_stop(project: Project) -> None:
    """Refuse at once what would stop a night after hours: a model that cannot be had, data that cannot be divided."""
    train = project.config.train
    denoise_model(project.config.guards)
    rule_to_follow(project.config)
    _ = project.splits
    if (train.lora is not None and train.lora.keep == "adapter") or adapter_base(resolve(train.model)) is not None:
        raise ConfigError(
            "a night deploys whole models, and an adapter's base lies elsewhere: set train.lora.keep=merged, or begin "
            "with a train.model that is no adapter"
        )


def _compare_documents(project: Project, last: Path | None, row: Row) -> Int64:
    """Count the documents that came, changed and went by id; return the rows with a text that no document had.

    Writes OUT/documents.parquet, with which the next night compares.
    """
    documents = project.collection.documents
    keys = pa.array(list(map(bytes, keys_of(documents.texts))), pa.binary(KEY_BYTES))
    table = pa.table({"id": pa.array(documents.ids, pa.string()), "text_key": keys})
    project.run.write_table(_DOCUMENTS, table)
    tonight = table.to_pandas()
    before = tonight[:0] if last is None else pq.read_table(last).to_pandas()
    both = tonight.merge(before, on="id", suffixes=("", "_before"))
    row.added, row.removed = len(tonight) - len(both), len(before) - len(both)
    row.changed = int((both["text_key"] != both["text_key_before"]).sum())
    say("nightly", f"documents: {row.added:,} added, {row.changed:,} changed, {row.removed:,} removed")
    return np.flatnonzero(~tonight["text_key"].isin(before["text_key"]))


def _end_of_epoch(project: Project, facts: Facts, fused: Fused, basis: Basis | None, new_rows: Int64) -> str | None:
    """Return why basis and lexical fits of the last night do not serve tonight; None if they do."""
    config, documents = project.config, len(project.collection.documents)

    # Other vectors, another way to reduce them, or another corpus.
    if facts.fused != list(fused.identity):
        return "other encoders"
    if not _recorded(config.reduce, config).items() <= facts.reduce.items():
        return "other settings of reduce"
    if basis is None and config.reduce.variance is not None:
        return "no whole basis is kept"
    if (basis or facts.fits) and facts.came > config.nightly.refit_share * documents:
        return f"{facts.came:,} documents came since the basis was fitted, of {documents:,}"

    # A basis that misses much of the new documents. Precomputed vectors may all be new: nothing tells what made them.
    precomputed = any(encoder.precomputed for encoder in config.encoders)
    rows = np.arange(documents) if precomputed else new_rows
    if basis is None or not len(rows):
        return None
    sample = np.sort(np.random.default_rng(config.seed).permutation(rows)[:HELD_OUT_ROWS])
    kept = captured(basis, fused.take("document", sample))
    kind = "" if precomputed else "new "
    say("nightly", f"the last basis captures {kept:.1%} of the variance of {len(rows):,} {kind}documents")
    return f"less than {config.nightly.refit_variance:.1%}" if kept < config.nightly.refit_variance else None


def _count_changed_pairs(last: Path | None, out: Path) -> int:
    """Count the pairs with other negatives (as texts) than the night before; pairs that came or went count too."""
    before, after = {} if last is None else _negatives_by_pair(last), _negatives_by_pair(out / _TRIPLETS)
    return sum(after.get(pair) != before.get(pair) for pair in after.keys() | before.keys())


def _negatives_by_pair(path: Path) -> dict[tuple[str, str], list[str]]:
    """Return the texts of the negatives of every (query, positive), in the order of their ranks."""
    rows = pq.read_table(path, columns=["query", "positive", "negative"]).to_pandas()
    return dict(rows.groupby(["query", "positive"])["negative"].agg(list))


def _train_and_decide(project: Project, home: Home, last: Version, row: Row, facts: Facts) -> Path | None:
    """Train if enough pairs changed; return the folder of the ranker to deploy, None if the last one stays.

    Figures and decision are filled into the night's row, and the facts are renewed.
    """
    # Measure what is deployed, and leave it at that if too little has changed.
    config, run = project.config, project.run
    sections = {"evaluate": config.evaluate, "ranker": config.ranker, "encoders": config.encoders}
    settings = _recorded(config.train, config) | {name: digest(str(each)) for name, each in sections.items()}
    before, deployed = None, home.deployed(last, run.out) if last.number else None
    if deployed is not None:
        try:
            before = _reciprocal_ranks(project, "deployed", deployed, {} if last.ranker else facts.reads)
        except ModelError as error:  # its files are whole: another release counts other words, or a hub's model is gone
            say("nightly", f"what is deployed cannot rank here any more, and is replaced: {error}", level="warning")
            deployed = None
    if before is not None:
        row.mrr, share = float(before.mean()), facts.pairs_changed / row.pairs
        if facts.train == settings and (share < config.nightly.train_share or not facts.pairs_changed):
            row.decision = f"not trained: {share:.1%} of pairs changed since the last training"
            return None

    # Train, and let dev choose between what was made and what is deployed.
    train_step(project, earlier=False)
    chosen = run.out / RANKER
    run.claim(RANKER)
    shutil.rmtree(chosen, ignore_errors=True)  # of an earlier night, which may have been rejected
    if deployed is not None and last.ranker:
        shutil.copytree(deployed, chosen, ignore=shutil.ignore_patterns("files.json"))
    evaluate_step(project, margin=config.nightly.promote_margin)
    if not (chosen / RANKER_FILE).is_file():
        raise DataError("the first stage finds no document for any dev query, so nothing can choose what is deployed")
    facts.pairs_changed, facts.train = 0, settings
    kind = RankerSpec.read(chosen).kind
    if deployed is not None and last.ranker and ranks_as(chosen, deployed):
        row.mrr_trained, row.decision = row.mrr, f"unchanged: {kind}, dev chooses what is deployed"
        return None
    after = _reciprocal_ranks(project, "chosen", chosen, {})
    row.mrr_trained = float(after.mean())

    # Decide.
    rejected, is_better = home.is_rejected(chosen), True
    compared = "the one before cannot be loaded" if last.number else "the first"
    if before is not None:
        test = paired(after, before, config.seed)
        is_better = not_worse(test, config.nightly.promote_margin)
        compared = f"{MAIN_METRIC} {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}), p = {test.p:.2g}"
    deploy = is_better and not rejected
    row.decision = f"{'' if deploy else 'not '}deployed: {kind}, {'it was rolled back from, ' * rejected}{compared}"
    if not deploy:
        return None
    facts.reads = {}
    return chosen


def not_worse(test: Paired, margin: float) -> bool:
    """Whether a re-ranker may be deployed: its mean is lower by `margin` at most, and if lower, not surely so."""
    return test.difference >= 0 or (test.difference >= -margin and test.high >= 0)


def _reciprocal_ranks(project: Project, name: str, folder: Path, reads: dict[str, Any]) -> Float64:
    """Return the held-out queries' MRR@10 (Q,) of a ranker, or of a re-ranker, which `reads` says how to load."""
    run, task = project.run, project.evaluator.test
    with run.timed("evaluate"):
        if reads:
            (scores_QK,) = KeptScores(run, reads["kind"], reads["max_tokens"]).of_folder({name: task}, folder)
        else:
            scores_QK = Ranker.load(folder, device=project.config.device).scores_of_task(task)
            run.write_table(scores_file(name), scores_table(task, scores_QK))
    return measure(task, scores_QK)[MAIN_METRIC]
