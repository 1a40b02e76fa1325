"""An encoder whose vectors are finite: what one number type cannot hold is computed in the next safer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ModelError
from hnmine.models.plan import Encoder, Plan
from hnmine.runs.device import safer_dtype
from hnmine.runs.progress import say
from hnmine.types import Float32


class FiniteEncoder:
    """A `plan.Encoder`, loaded when it is first asked, and once more for each safer number type that texts need.

    The vector of a text depends on the text alone, whichever others are encoded beside it.
    """

    def __init__(self, plan: Plan, lanes: int | None = None) -> None:
        """On a CPU the encoder computes `lanes` batches at a time, None: by the cores."""
        self._plan, self._lanes = plan, lanes
        self._loaded: dict[str, Encoder] = {}  # by number type

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text (n, width).

        Raises:
            ModelError: the encoder cannot be loaded, or gives NaN or infinity in float32 too.
        """
        plan = self._plan
        vectors = self._load(plan).encode(texts, reading)
        while len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
            found = f"encoder {plan.name} ({plan.dtype}) gives NaN or infinity for {len(bad)} texts"
            dtype = safer_dtype(plan.dtype)
            if dtype is None:
                remedy = "its weights are broken: get the folder anew, or use another model"
                raise ModelError(f"{found}, first {texts[int(bad[0])][:80]!r}; {remedy}")
            if dtype not in self._loaded:
                say("embed", f"{found}; such texts are computed in {dtype}")
            plan = replace(plan, dtype=dtype)
            vectors[bad] = self._load(plan).encode([texts[i] for i in bad.tolist()], reading)
        return vectors

    def _load(self, plan: Plan) -> Encoder:
        if plan.dtype not in self._loaded:
            self._loaded[plan.dtype] = plan.build(self._lanes)
        return self._loaded[plan.dtype]
