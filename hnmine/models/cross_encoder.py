"""Cross-encoders: everything that sentence-transformers' CrossEncoder loads without code of its own, with its scores.

The library loads a model and says how a pair is read: sequence classifiers with one label, modular re-rankers,
decoders that answer yes or no, adapters. Batches of like length, cut by their tokens, compute its scores faster than
its own loop. They serve where they agree with it on a few pairs when the model is loaded; otherwise each batch goes
through the library as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnmine.errors import ModelError
from hnmine.models.batches import TOKENS_PER_BATCH, batches_by_length, halved_if_too_large, lanes_on, side_by_side
from hnmine.models.folder import max_positions
from hnmine.models.last_layer import compute_one_token
from hnmine.models.openvino import CompiledNetwork, choose_engine
from hnmine.models.pair_reader import PairReader, Row
from hnmine.models.ranking_head import is_plain, load_library
from hnmine.models.scoring_network import ScoringNetwork, refuse_not_finite
from hnmine.runs import device as devices
from hnmine.runs.device import safer_dtype
from hnmine.runs.progress import say
from hnmine.types import Float32

_PAIRS_AT_ONCE = 1024  # tokenised
_LARGEST_DIFFERENCE = 1e-4
_WORD = "word "
PROBES = (
    ("how to deploy", "Deploy it in the cloud, on premises, or both."),
    ("a", ""),
    ("a longer question about the weather of tomorrow?", "Rain."),
    ("", "An answer without a question. " * 3),
)
"""Pairs on which a loaded model is compared with the library, beside one that is longer than is read."""


class CrossEncoder:
    """A loaded cross-encoder on one device; a `Reranker`."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        device: str,
        dtype: str,
        engine: str = "auto",
        seed: int = 0,
        passages: bool = False,
    ) -> None:
        """Load the model, whose weights are float32; without a ranking head it gets a fresh one, drawn with `seed`.

        Of query and document together at most `max_tokens` are read, and no more than the model declares. `dtype` and
        `engine` are of the computation; torch trains. With `passages` a long document is scored in overlapping
        passages, and the best counts (MaxP, Dai and Callan, SIGIR 2019).

        Raises:
            ModelError: the folder cannot be loaded, is no re-ranker with one score, or cannot score a pair.
        """
        self._folder, self.device, self._passages = folder, device, passages
        self.library, self._plain = load_library(folder, device=device, seed=seed), is_plain(folder)
        self.tokenizer = self.library.tokenizer
        self.model = ScoringNetwork(self.library, dtype).eval()

        # Read no more tokens than the model declares and has positions for.
        config = self.library.transformers_model.config
        positions = getattr(config, "max_position_embeddings", None)  # some call it otherwise in config.json
        readable = max_positions(config.to_dict() | {"max_position_embeddings": positions})
        self.max_tokens = int(min(max_tokens, self.library.max_seq_length or max_tokens, readable or max_tokens))
        self._reader = PairReader(self.library, self.max_tokens)

        # Choose how it computes.
        kind: devices.Kind = "cpu" if device == "cpu" else "gpu"
        self.tokens_per_pass, self.pass_cost = (2048, 32) if kind == "cpu" else (16_384, 2048)
        self._dtype, self._asked_engine = dtype, engine
        self._engine = choose_engine(engine, kind, dtype, config.model_type)
        self._lanes, self._tokens_per_batch = lanes_on(device), TOKENS_PER_BATCH[kind]
        self._compiled: CompiledNetwork | None = None  # of the weights as they are
        self._lock, self._said = Lock(), set[str]()  # number types that some pairs needed instead
        self._pads = True  # whether a batch may hold pairs of different length
        self._agree_with_library()
        if passages:
            self._reader.refuse_passages(folder)

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[Row]:
        """Return each pair as it is read, cut to `max_tokens` as the library cuts it; not padded."""
        return self._reader.rows(queries, documents)

    def length(self, row: Row) -> int:
        """Return the tokens of a row."""
        return self._reader.length(row)

    def forward(self, rows: Sequence[Row], network: Any = None) -> Tensor:
        """Return the scores (n,) of the rows before the activation, with gradients.

        `network` computes in the place of `model`.
        """
        network = network or self.model
        if self._pads:
            return self._score(rows, network)
        order = sorted(range(len(rows)), key=lambda i: self.length(rows[i]))
        parts = [list(part) for _, part in groupby(order, key=lambda i: self.length(rows[i]))]
        scores = torch.cat([self._score([rows[i] for i in part], network) for part in parts])
        return scores[torch.from_numpy(np.argsort(order)).to(scores.device)]

    def scores(
        self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None] = lambda _count: None
    ) -> Float32:
        """Return the score (n,) of each (query, document) as the library's `predict` does.

        The activation is the one that the model declares; without a declaration the library takes the sigmoid. `done`
        gets the number of pairs finished since last.
        """
        raw = torch.from_numpy(self.raw_scores(queries, documents, done))
        scores: Float32 = self.library.activation_fn(raw[:, None]).reshape(-1).numpy()
        return scores

    def raw_scores(
        self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None] = lambda _count: None
    ) -> Float32:
        """Return the score (n,) of each (query, document) before the activation, as losses and guards want it.

        Equal pairs are scored once, so that they are tied whatever the rounding of their batch is.

        Raises:
            ModelError: a score is NaN or infinite.
        """
        pairs = list(zip(queries, documents, strict=True))
        row_of = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
        if len(row_of) < len(pairs):
            distinct = self.raw_scores([query for query, _ in row_of], [text for _, text in row_of], done)
            done(len(pairs) - len(row_of))
            return distinct[[row_of[pair] for pair in pairs]]
        scores = np.full(len(queries), -np.inf, dtype=np.float32)

        def score(batch: list[int]) -> tuple[list[int], Float32]:
            return batch, halved_if_too_large(self._finite, [rows[i] for i in batch], "rerank")

        with self._for_scoring():
            for start in range(0, len(queries), _PAIRS_AT_ONCE):
                # Tokenise some pairs, and cut their rows into batches.
                chunk = slice(start, start + _PAIRS_AT_ONCE)
                read = self._reader.passages if self._passages else self._whole
                rows, pair_of_row = read(queries[chunk], documents[chunk])
                is_last = np.diff(pair_of_row, append=-1) != 0
                batches = batches_by_length(np.array([self.length(row) for row in rows]), self._tokens_per_batch)

                # Score the rows; a pair has the score of its best row, and counts with its last, which is the shortest.
                for batch, batch_scores in side_by_side(score, batches, self._lanes):
                    refuse_not_finite("re-ranker", batch_scores)
                    np.maximum.at(scores[chunk], pair_of_row[batch], batch_scores)
                    done(int(is_last[batch].sum()))
        return scores

    def train_mode(self) -> None:
        """Prepare for a training step; dropout stays off."""
        self._compiled = None
        if self.device == "cpu":  # the backward pass of fused attention is slower here than the plain one
            self.model.attend("eager")

    def save(self, folder: Path) -> None:
        """Write the model in the layout it came in; `sentence_transformers.CrossEncoder(folder)` gives these scores."""
        self.model.attend(None)
        if not self._plain:
            self.library.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
            return
        network, activation = self.library.transformers_model, type(self.library.activation_fn)
        declared = {"activation_fn": f"{activation.__module__}.{activation.__qualname__}"}
        network.config.sentence_transformers = (getattr(network.config, "sentence_transformers", None) or {}) | declared
        network.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)

    def _score(self, rows: Sequence[Row], network: Any) -> Tensor:
        scores: Tensor = network(self._reader.features(rows, self.device))
        return scores

    def _finite(self, rows: Sequence[Row]) -> Float32:
        """Return scores without gradients; those that a number type cannot hold come from the next safer one."""
        scores, dtype = np.full(len(rows), np.nan, dtype=np.float32), self._dtype
        while True:
            bad = np.flatnonzero(~np.isfinite(scores))
            network = partial(self.model, dtype=dtype)
            try:
                with torch.inference_mode():
                    scores[bad] = self.forward([rows[i] for i in bad.tolist()], network).cpu().numpy()
            except RuntimeError as error:  # some architectures mask by a number that the type does not hold
                if "overflow" not in str(error):
                    raise
            safer = safer_dtype(dtype)
            if np.isfinite(scores).all() or safer is None or self._compiled is not None:
                return scores
            with self._lock:
                if safer not in self._said:
                    self._said.add(safer)
                    say("rerank", f"{self._folder.name}: pairs that {dtype} cannot hold are computed in {safer}")
            dtype = safer

    def _whole(self, queries: Sequence[str], documents: Sequence[str]) -> tuple[list[Row], Any]:
        return self.tokenize(queries, documents), np.arange(len(queries))

    @contextmanager
    def _for_scoring(self) -> Iterator[None]:
        """Compute without gradients by the engine, in this context."""
        self.model.attend(None)
        if self._engine == "openvino" and self._compiled is None and self._reader.as_tokens:
            queries, documents = zip(*PROBES, strict=True)
            first, second = (
                self._reader.features(self.tokenize(queries[part], documents[part]), self.device)
                for part in (slice(2), slice(2, None))
            )
            try:
                self._compiled = self.model.compiled(first, second, self._dtype, self._lanes)
            except ModelError as error:
                if self._asked_engine == "openvino":
                    raise
                say("rerank", f"{self._folder.name} is computed by torch: {error}")
                self._engine = "torch"
        with self.model.computed_by(self._compiled):
            yield

    def _is_read_alike(self, pair: tuple[str, str]) -> bool:
        """Whether a pair alone has the same tokens here as in the library, padding included."""
        (row,) = self.tokenize(*([text] for text in pair))
        theirs = self._reader.features_of_library([pair])["input_ids"][0].tolist()
        return bool(row["input_ids"] == theirs)

    def _probe(self) -> Tensor:
        """Return the scores of the probes in float32, without gradients."""
        with torch.inference_mode():
            return self.forward(self.tokenize(*zip(*PROBES, strict=True)), partial(self.model, dtype="float32")).cpu()

    def _agree_with_library(self) -> None:
        """Read and batch as here if the library gives the same scores for some pairs, else as the library does.

        Raises:
            ModelError: the library itself cannot score a pair.
        """
        # Ask the library, one by one.
        try:
            identity = torch.nn.Identity()
            settings: dict[str, Any] = {"activation_fn": identity, "convert_to_tensor": True}
            expected = torch.cat([self.library.predict([pair], **settings).reshape(-1) for pair in PROBES]).cpu()
        except ModelError:
            raise
        except Exception as error:  # what is raised depends on the template, the tokenizer and the modules
            reason = f"{type(error).__name__}: {error}"
            raise ModelError(f"re-ranker {self._folder} cannot score a pair: {reason}") from None

        # Compare all in one batch, then in batches without padding; and the tokens of a short and an over-long pair,
        # since a library's padding to a fixed length may change scores by less than shows here.
        for self._pads in (True, False):
            with suppress(Exception):
                found = self._probe()
                is_read_alike = all(map(self._is_read_alike, (PROBES[0], (_WORD, _WORD * (self.max_tokens + 9)))))
                if is_read_alike and torch.allclose(found, expected, atol=_LARGEST_DIFFERENCE, equal_nan=True):
                    compute_one_token(self.library.transformers_model, self._probe)
                    return
        self._reader.as_tokens, self._pads = False, True
        say("rerank", f"{self._folder.name} is read and computed batch by batch as sentence-transformers does it")
