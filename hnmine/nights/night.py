"""One night: what changed since the last one is mined, and a re-ranker that is not worse is deployed.

    lock → read → encode what is new → old basis or a new one → renew the negatives → train, if enough changed
    → deployed against trained on held-out queries → publish, by one pointer

A *version* is the whole of a night: negatives, basis, what the next night compares with, and the name of the deployed
re-ranker. Nothing is seen of a night before its last write, so one that was broken off is simply done again, and finds
vectors, checkpoints and scores of the first try in its run folder.

Another basis, and other encoders or settings, begin a new *epoch*: all vectors differ, so every pair is searched in
full. Lexical encoders are fitted on the corpus when an epoch begins, and keep that fit to its end. Guards and an
approximate index are searched in full each night.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from hnmine.config.root import Config, GuardsConfig
from hnmine.corpus.text_keys import keys_of
from hnmine.embedding.ensemble import Ensemble
from hnmine.errors import ConfigError
from hnmine.mining.conditions import Search
from hnmine.mining.fuse import Fused
from hnmine.mining.whole import Judged, from_scratch, searcher
from hnmine.mining.pca import HELD_OUT_ROWS, Basis, captured
from hnmine.models.lexical import Fit, fitted
from hnmine.nights.home import Home, Row
from hnmine.nights.incremental import IDENTITY, Night, identities, renew
from hnmine.nights.lease import Lease, hold
from hnmine.pipeline import mine_into, open_first_stage, read_collection, refuse_unknown_presets, train_into
from hnmine.ranking.evaluate import TESTED, Scorer
from hnmine.ranking.significance import Paired, paired
from hnmine.ranking.splits import Splits
from hnmine.ranking.task import measure
from hnmine.runs.folder import Run, open_run
from hnmine.runs.progress import say, track
from hnmine.types import Float32, Float64, Negatives, Space, Texts

_Facts = dict[str, Any]
_NIGHT = "night.safetensors"
_DOCUMENTS = "documents.parquet"
_BASIS = "basis.safetensors"
_MINED = ("negatives.parquet", "triplets.parquet", "quarantine.jsonl", "manifest.json")


def nightly(data: str | Path, home: str | Path, config: Config | None = None) -> Row:
    """Do one night; return its line of the history.

    Raises:
        InUseError: another job works on this home.
        HnmineError: the data, the configuration, a model, a device or the home is not usable.
    """
    config = config or Config()
    refuse_unknown_presets(config)
    its = Home.at(home)
    work = config.nightly.work or (its.folder and its.folder / "work")
    if work is None:
        raise ConfigError(f"--home {its.place} is no folder: say where to work on this machine, nightly.work=DIR")
    with hold(its.place, config.nightly.lease) as lease, open_run(work, config) as run:
        return _Nightly(data, its, config, run, lease).night()


def rollback(home: str | Path, to: str | None = None, config: Config | None = None) -> Row:
    """Deploy an older version; return its line of the history. See `Home.rollback`."""
    config = config or Config()
    its = Home.at(home)
    with hold(its.place, config.nightly.lease):
        return its.rollback(to, _now())


class _EpochEndsError(Exception):
    """Tonight needs another basis, and lexical encoders that are fitted on tonight's corpus."""


class _Nightly:
    """One night, and the night before."""

    def __init__(self, data: str | Path, home: Home, config: Config, run: Run, lease: Lease) -> None:
        self._data, self._home, self._config, self._run, self._lease = data, home, config, run, lease
        self._number = home.next_number()
        self._last, last = home.current() or ("", None)
        self._last_files = last.files if last else []
        self._deployed = last.reranker if last else ""
        self._facts: _Facts = dict(last.facts) if last else {"epoch": 0, "pairs_changed": 0}
        self._before = dict(self._facts)
        self._night, self._searched, self._reason = Night.first(), 0, ""
        self._fits: dict[str, Any] = {}  # of the epoch, in use tonight

    def night(self) -> Row:
        """Mine, perhaps train and deploy, and publish."""
        say("nightly", f"night {self._number} of {self._home.place}" + (f", after {self._last}" if self._last else ""))
        collection = read_collection(self._data, self._config, self._run)
        searched_by, seed = self._config, self._config.sources.seed
        splits = Splits(
            collection,
            self._config.sources,
            self._config.evaluate,
            seed,
            lambda: open_first_stage(collection, searched_by, self._run),
        )
        self._keys = keys_of(collection.documents.texts)
        added, changed, removed = self._compare(collection.documents)
        guarded = self._config.guards != GuardsConfig() or self._config.search.index != "flat"
        if guarded:
            say("nightly", "guards or an approximate index: every pair is searched in full")
        select = self._anew if guarded else self._renewed
        try:
            whole = self._pinned()
            mined = mine_into(collection, self._data, whole, self._run, basis=self._basis, selection=select)
        except _EpochEndsError:
            self._fits, whole = {}, self._config
            mined = mine_into(collection, self._data, self._config, self._run, basis=self._basis, selection=select)
        if self._config.evaluate.first_stage == "dense":
            searched_by = self._space_of_tonight(whole, reduced=mined.ensemble.basis is not None)
        self._facts["fits"] = self._fits or self._own_fits(collection.documents)
        pairs, others = len(mined.pairs), self._negatives_changed()
        self._facts["pairs_changed"] += others
        told = f"{others:,} of {pairs:,} pairs have other negatives than the night before"
        say("nightly", told, pairs=pairs, negatives_changed=others)
        decision, mrr, trained = self._promotion(splits, pairs, whole)
        row = Row(
            when=_now(),
            version=self._number,
            added=added,
            changed=changed,
            removed=removed,
            pairs=pairs,
            searched=self._searched,
            negatives_changed=others,
            epoch=self._facts["epoch"],
            mrr=mrr,
            mrr_trained=trained,
            decision=decision,
        )
        say("nightly", decision, epoch=row.epoch, mrr_at_10=mrr, mrr_at_10_trained=trained)
        self._publish(mined.ensemble.basis is not None, collection.documents, row)
        return row

    def _space_of_tonight(self, whole: Config, *, reduced: bool) -> Config:
        """Return the configuration by which the texts stand in the space that was mined in."""
        basis = str(self._run.out / _BASIS) if reduced else None
        return whole.model_copy(update={"reduce": whole.reduce.model_copy(update={"basis": basis})})

    def _compare(self, documents: Texts) -> tuple[int, int, int]:
        """Return how many documents came, have another text, and went, by id; keep which texts are new."""
        tonight = dict(zip(documents.ids, map(bytes, self._keys), strict=True))
        last: dict[str, bytes] = {}
        if self._last:
            known = pq.read_table(self._file(_DOCUMENTS))
            last = dict(zip(known["id"].to_pylist(), known["text_key"].to_pylist(), strict=True))
        texts = set(last.values())
        self._new = np.array([row for row, key in enumerate(tonight.values()) if key not in texts], dtype=np.int64)
        both = tonight.keys() & last.keys()
        changed = sum(tonight[name] != last[name] for name in both)
        added, removed = len(tonight) - len(both), len(last) - len(both)
        told = f"documents: {added:,} added, {changed:,} changed, {removed:,} removed"
        say("nightly", told, added=added, changed=changed, removed=removed)
        return added, changed, removed

    def _pinned(self) -> Config:
        """Return the configuration with the lexical encoders as they were fitted when the epoch began.

        Fitted on tonight's corpus, they would give every text another vector.
        """
        fits: dict[str, Any] = self._facts.get("fits", {})
        encoders = list(self._config.encoders)
        for at, encoder in enumerate(encoders):
            its, lexical = fits.get(encoder.name, {}), encoder.lexical
            if lexical is None or its.get("settings") != lexical.model_dump():
                continue
            if Fit(self._store, its["fit"]).read() is not None:
                self._fits[encoder.name] = its
                pinned = lexical.model_copy(update={"fit": its["fit"]})
                encoders[at] = encoder.model_copy(update={"lexical": pinned})
        return self._config.model_copy(update={"encoders": tuple(encoders)})

    def _own_fits(self, documents: Texts) -> dict[str, Any]:
        """Return the fits that the epoch has begun with."""
        return {
            encoder.name: {
                "fit": fitted(encoder.lexical, documents, self._store)[1].name,
                "settings": encoder.lexical.model_dump(),
            }
            for encoder in self._config.encoders
            if encoder.lexical is not None
        }

    @property
    def _store(self) -> str | Path:
        return self._config.embed.store or self._run.out / "store"

    def _basis(self, fused: Fused) -> Basis | None:
        """Return the basis of the last night, or None where a new epoch begins, or where none is used.

        Raises:
            _EpochEndsError: a new epoch begins, and the lexical encoders are those of the old one.
        """
        before = self._before
        made = {"fused": list(fused.identity), "reduce": self._config.reduce.model_dump(mode="json")}
        came = before.get("came", 0) + len(self._new)
        self._facts = before | made | {"came": came}
        basis = Basis.load(self._file(_BASIS)) if _BASIS in self._last_files else None
        reason = "the first night" if not self._last else self._outdated(before, made, basis, fused, came)
        if reason is None:
            return basis
        if not self._reason:
            say("nightly", f"epoch {before['epoch'] + 1} begins: {reason}")
        self._reason = reason
        if self._fits:
            raise _EpochEndsError
        self._facts |= {"epoch": before["epoch"] + 1, "came": 0}
        return None

    def _outdated(self, before: _Facts, made: _Facts, basis: Basis | None, fused: Fused, came: int) -> str | None:
        """Return why the space of the last night does not serve any more, if so."""
        if before["fused"] != made["fused"]:
            return "other encoders"
        if before["reduce"] != made["reduce"]:
            return "other settings of reduce"
        fitted = basis is not None or bool(before["fits"])
        if fitted and came > self._config.nightly.refit_share * len(self._keys):
            return f"{came:,} documents came since the basis was fitted, of {len(self._keys):,}"
        given = any(encoder.precomputed for encoder in self._config.encoders)
        rows = np.arange(len(self._keys)) if given else self._new  # nobody says what made vectors that are given
        if basis is None or not len(rows):
            return None
        sample = np.sort(np.random.default_rng(0).permutation(rows)[:HELD_OUT_ROWS])
        kept = captured(basis, fused.take("document", sample))
        which = "" if given else "new "
        say("nightly", f"the last basis captures {kept:.1%} of the variance of {len(rows):,} {which}documents")
        return (
            f"less than {self._config.nightly.refit_variance:.1%}"
            if kept < self._config.nightly.refit_variance
            else None
        )

    def _anew(self, ensemble: Ensemble, judged: Judged) -> tuple[Negatives, _Facts]:
        self._searched = len(judged.pairs)
        return from_scratch(self._config, self._run)(ensemble, judged)

    def _renewed(self, ensemble: Ensemble, judged: Judged) -> tuple[Negatives, _Facts]:
        space, config = ensemble.space, self._config
        record: _Facts = {}
        with ExitStack() as searching, track("select", "two conditions", len(judged.pairs), "pairs") as progress:

            def index(docs_NR: Float32) -> Search:
                searching.close()  # of the new documents, where all are searched next: a shard holds its GPU
                part = Space(docs_NR=docs_NR, queries_QR=space.queries_QR)
                search, facts = searching.enter_context(searcher(part, config.search))
                record.update(facts)
                return search

            found, self._night, work = renew(
                _load(self._file(_NIGHT)) if self._last else Night.first(),
                space,
                judged.pairs,
                judged.positives,
                judged.groups_N,
                identities(self._keys, space.docs_NR),
                identities(keys_of(judged.texts["query"].texts), space.queries_QR),
                index,
                negatives=config.select.negatives,
                candidates=config.search.candidates,
                done=progress.advance,
            )
        self._searched = work.searched
        say("select", f"pairs: {work.kept:,} as before, {work.mended:,} mended, {work.searched:,} searched in full")
        return found, record | {"work": vars(work)}

    def _negatives_changed(self) -> int:
        """Return the pairs whose negatives' texts are others than the night before, or that came or went."""
        tonight = _lists(self._run.out / "triplets.parquet")
        last = _lists(self._file("triplets.parquet")) if self._last else {}
        return sum(tonight.get(pair) != last.get(pair) for pair in tonight.keys() | last.keys())

    def _promotion(self, splits: Splits, pairs: int, whole: Config) -> tuple[str, float | None, float | None]:
        """Train if enough has changed, and deploy what is not worse; return the decision and both MRR@10.

        `whole` is the configuration that the night was mined with.
        """
        settings, before = self._config.nightly, None
        if self._deployed:
            reads = self._facts["reads"]
            before = self._measured(splits, "deployed", self._home.reranker(self._deployed, self._run.out), reads)
            share = self._facts["pairs_changed"] / pairs
            same = self._facts["train"] == self._config.train.model_dump(mode="json")
            if same and (share < settings.train_share or not self._facts["pairs_changed"]):
                told = f"not trained: {share:.1%} of pairs changed since the last training"
                return told, float(before.mean()), None
        train_into(splits, self._data, whole, self._run)
        self._facts |= {"pairs_changed": 0, "train": self._config.train.model_dump(mode="json")}
        trained = (self._run.out / "reranker").resolve()
        reads = {name: self._run.manifest["training"][name] for name in ("kind", "max_tokens")}
        after = self._measured(splits, "trained", trained, reads)
        if before is None:
            self._deploy(trained, reads)
            return "deployed, the first", None, float(after.mean())
        test = paired(after, before, self._config.evaluate.seed)
        told = f"{TESTED} {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}), p = {test.p:.2g}"
        refused = self._home.rejected(trained)
        better = not refused and not_worse(test, settings.promote_margin)
        if better:
            self._deploy(trained, reads)
        why = "it was rolled back from, " if refused else ""
        decision = f"deployed: {told}" if better else f"not deployed: {why}{told}"
        return decision, float(before.mean()), float(after.mean())

    def _deploy(self, folder: Path, reads: _Facts) -> None:
        self._deployed = self._home.add_reranker(folder)
        self._facts["reads"] = reads

    def _measured(self, splits: Splits, name: str, folder: Path, reads: _Facts) -> Float64:
        """Return the held-out queries' MRR@10 of a re-ranker."""
        settings = self._config.evaluate
        task = splits.task(splits.test, settings.queries, settings.seed)
        scorer = Scorer(task, self._config, reads["kind"], reads["max_tokens"], self._run)
        return measure(task, scorer.scores(name, folder))[TESTED]

    def _publish(self, reduced: bool, documents: Texts, row: Row) -> None:
        run = self._run
        keys = pa.array(list(map(bytes, self._keys)), pa.binary(self._keys.itemsize * 2))
        run.write_table(_DOCUMENTS, pa.table({"id": pa.array(documents.ids, pa.string()), "text_key": keys}))
        _save(self._night, run.out / _NIGHT)
        names = [*_MINED, _DOCUMENTS, _NIGHT, *([_BASIS] if reduced else [])]
        files = {name: run.out / name for name in names}
        self._lease.check()  # else another job may write a version of this number
        self._home.write(self._number, files, self._deployed, self._facts)
        self._lease.check()
        self._home.point(self._number, row, self._config.nightly.keep)
        say("nightly", f"version {self._number} holds; its re-ranker is {self._home.place}/rerankers/{self._deployed}")

    def _file(self, name: str) -> Path:
        """Return a file of the version that held until now."""
        return self._home.file(self._last, name, self._run.out)


def not_worse(test: Paired, margin: float) -> bool:
    """Whether a re-ranker may be deployed: its mean is lower by `margin` at most, and if lower, not surely so."""
    return test.difference >= 0 or (test.difference >= -margin and test.high >= 0)


def _lists(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the negatives of every (query, positive), as texts."""
    columns = pq.read_table(path, columns=["query", "positive", "negative"]).to_pydict()
    lists: dict[tuple[str, str], tuple[str, ...]] = {}
    for query, positive, negative in zip(columns["query"], columns["positive"], columns["negative"], strict=True):
        lists[query, positive] = (*lists.get((query, positive), ()), negative)
    return lists


def _save(night: Night, path: Path) -> None:
    arrays = {name: getattr(night, name) for name in night.__dataclass_fields__}
    save_file({name: each.view(np.uint8) if each.dtype.kind == "S" else each for name, each in arrays.items()}, path)


def _load(path: Path) -> Night:
    arrays = load_file(path)
    return Night(**{name: each.view(IDENTITY) if each.dtype == np.uint8 else each for name, each in arrays.items()})


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())
