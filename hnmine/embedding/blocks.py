"""Blocks of texts: the unit of work, of storage and of recovery.

The distinct texts of a call are sorted by length and cut into blocks. The cut depends on the texts alone, so a run that
was killed encodes the same missing blocks again. Vectors never travel: the process that makes them writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnmine.corpus.text_keys import KEY_BYTES, Keys
from hnmine.embedding.store import VectorStore
from hnmine.errors import HnmineError, ModelError
from hnmine.models.plan import Encoder, Plan
from hnmine.runs.counters import TEXTS
from hnmine.types import Role, Texts

BLOCK_TEXTS = 512
"""Texts in a block."""


def missing_blocks(
    plan: Plan,
    texts: Mapping[Role, Texts],
    all_keys: Keys,
    found: NDArray[np.bool_],
    block_texts: int = BLOCK_TEXTS,
) -> list[pa.Table]:
    """Cut all distinct texts into blocks, and leave out the texts that the store has.

    Args:
        plan: of the encoder.
        texts: by role.
        all_keys: keys of all these texts, role after role (n, 2).
        found: whether the store has them (n,).
        block_texts: texts in a block.

    Returns:
        One table of one row a block; columns keys, roles and texts, each a list.
    """
    # Sort by length, longest first; keys break ties
    labelled = [(role, text) for role in texts for text in texts[role].texts]
    _, first = np.unique(all_keys, axis=0, return_index=True)
    prompts = {role: len(plan.reading(role).prompt) for role in texts}
    lengths = np.array([-prompts[labelled[i][0]] - len(labelled[i][1]) for i in first])
    order = first[np.lexsort((all_keys[first, 1], all_keys[first, 0], lengths))]
    # Cut, then leave out what is there
    blocks = []
    for start in range(0, len(order), block_texts):
        rows = [int(i) for i in order[start : start + block_texts] if not found[i]]
        if rows:
            columns = {
                "keys": pa.array([[all_keys[i].tobytes() for i in rows]], pa.list_(pa.binary(KEY_BYTES))),
                "roles": [[labelled[i][0] for i in rows]],
                "texts": [[labelled[i][1] for i in rows]],
            }
            blocks.append(pa.table(columns))
    return blocks


def keys_in(block: pa.Table) -> Keys:
    """Return the keys of a block's texts (n, 2)."""
    return _joined(block["keys"][0].as_py())


class BlockEncoder:
    """Loads an encoder once, then encodes and stores block after block; in this process, or as an actor."""

    def __init__(self, plan: Plan, store: VectorStore, lanes: int | None) -> None:
        """Load the encoder; on a CPU it computes `lanes` batches at a time, None: by the cores."""
        self._plan, self._store = plan, store
        self._encoder: Encoder | None = None
        self._failure = ""
        try:
            self._encoder = plan.build(lanes)
        except HnmineError as error:
            self._failure = str(error)

    def __call__(self, blocks: pa.Table) -> pa.Table:
        """Encode every row of `blocks`; return how many texts each held, and what failed.

        A failure that a user can mend travels as a row: as an exception Ray would retry it, log it in full and lose
        its type.
        """
        counts, failures = [], []
        for block in blocks.to_pylist():
            try:
                self._encode(block)
            except HnmineError as error:
                self._failure = str(error)
            counts.append(len(block["texts"]))
            failures.append(self._failure)
        return pa.table({"count": counts, "failure": failures})

    def _encode(self, block: dict[str, Any]) -> None:
        if self._encoder is None:
            return
        readings = [self._plan.reading(role) for role in block["roles"]]
        keys = _joined(block["keys"])
        for reading in dict.fromkeys(readings):
            chosen = [i for i, other in enumerate(readings) if other == reading]
            vectors = self._encoder.encode([block["texts"][i] for i in chosen], reading)
            bad = ~np.isfinite(vectors).all(axis=1)
            if bad.any():
                text = block["texts"][chosen[int(np.flatnonzero(bad)[0])]]
                raise ModelError(
                    f"encoder {self._plan.name} ({self._plan.dtype}) gives NaN or infinity for {int(bad.sum())} texts, "
                    f"first {text[:80]!r}; try dtype: float32"
                )
            self._store.write(keys[chosen], vectors)
        for role, count in Counter(block["roles"]).items():
            TEXTS.add(count, encoder=self._plan.name, role=role)


def _joined(keys: list[bytes]) -> Keys:
    return np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)
