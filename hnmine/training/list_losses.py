"""The losses of one step's lists on one worker, in parts that fit into the memory.

Lists go together as far as the memory for activations allows. Within such a group texts of like length do, so that
little is padded. How lists and texts are grouped changes nothing but rounding.

Letters: B lists in a group, L documents in the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hnmine.models.batches import TOKENS_PER_BACKWARD
from hnmine.models.reranker import Reranker
from hnmine.training.lists import Lists, TrainingList
from hnmine.training.losses import Loss
from hnmine.types import Int64

_NO_LIST = TrainingList(query="", documents=("", ""), teacher=(0.0, 0.0))


class ListLosses:
    """Iterates over the losses; each is to be propagated back before the next is asked for."""

    padding = 0.0
    """How much of what was read was padding, once all losses were asked for; a bi-encoder's tokens are estimates."""

    def __init__(
        self,
        model: Reranker,
        network: Any,
        lists: Lists,
        loss_of: Loss,
        *,
        share: float,
        tokens_per_backward: int = TOKENS_PER_BACKWARD["cpu"],
    ) -> None:
        """Take this worker's lists of a step; of none the loss is 0.

        `network` is the model's, perhaps wrapped for several workers; `share` is a factor of each list's loss; the
        activations of `tokens_per_backward` tokens fit into the memory.
        """
        self._model, self._network, self._loss_of, self._most = model, network, loss_of, tokens_per_backward
        self._lists, self._share = (lists, share) if lists else ((_NO_LIST,), 0.0)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the loss of every group of lists, a scalar."""
        model = self._model
        rows = [model.tokenize([each.query] * len(each.documents), each.documents) for each in self._lists]
        tokens = [sum(model.length(row) for row in rows_of_list) for rows_of_list in rows]
        groups = _groups(tokens, self._most)
        tokens_read = 0
        for number, group in enumerate(groups, 1):
            # Exchange gradients with the other workers once a step, in the last group's backward pass.
            exchange = number == len(groups) or not hasattr(self._network, "no_sync")
            with nullcontext() if exchange else self._network.no_sync():
                scores_BL, mask_BL, read = self._scores([rows[i] for i in group])
                loss_B = self._loss_of(scores_BL, mask_BL, *_teacher([self._lists[i] for i in group], scores_BL.device))
                tokens_read += read
                self.padding = 1 - sum(tokens) / tokens_read
                yield loss_B.sum() * self._share

    def _scores(self, rows: list[list[Any]]) -> tuple[Tensor, Tensor, int]:
        """Return the scores (B, L) of tokenised lists, which of them count, and the tokens read, padding included."""
        model = self._model
        # Score all rows in passes of like length, then put the scores back into the rows' order.
        flat = [row for rows_of_list in rows for row in rows_of_list]
        lengths = np.array([model.length(row) for row in flat])
        passes = cut_into_passes(lengths, model.tokens_per_pass, model.pass_cost)
        scores = torch.cat([model.forward([flat[i] for i in part], self._network) for part in passes])
        back = torch.from_numpy(np.argsort(np.concatenate(passes))).to(scores.device)
        # Lay the scores out as one row a list.
        sizes = [len(rows_of_list) for rows_of_list in rows]
        scores_BL = pad_sequence(list(torch.split(scores[back], sizes)), batch_first=True)
        mask_BL = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
        tokens_read = sum(len(part) * int(lengths[part].max()) for part in passes)
        return scores_BL, mask_BL.to(scores.device), tokens_read


def _teacher(lists: list[TrainingList], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Return the teacher's scores (B, L), and which lists are lessons (B,); None where no list has a teacher."""
    if not any(each.teacher for each in lists):
        return None, None
    scores = [torch.tensor(each.teacher or (0.0,) * len(each.documents)) for each in lists]
    lesson_B = torch.tensor([each.is_lesson for each in lists])
    return pad_sequence(scores, batch_first=True).to(device), lesson_B.to(device)


def _groups(sizes: list[int], most: int) -> list[list[int]]:
    """Cut positions, in order, into groups whose sizes add up to `most` at most, if one alone does."""
    groups: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if size > room or not groups:
            groups.append([])
            room = most
        groups[-1].append(position)
        room -= size
    return groups


def cut_into_passes(lengths: Int64, most_tokens: int, pass_cost: int) -> list[list[int]]:
    """Cut positions, longest first, into passes of `most_tokens` at most, if one alone has no more.

    Of all such cuts it is the one with the fewest tokens, padding included, where a pass costs `pass_cost` more: the
    best cut of the first n positions ends with some pass, and before it comes the best cut of what is left.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = np.arange(len(order))
    longest = lengths[order].astype(np.float64)
    least, begin = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        tokens = (end - starts[:end]) * longest[:end]
        allowed = (tokens <= most_tokens) | (starts[:end] == end - 1)
        total = np.where(allowed, least[:end] + tokens + pass_cost, np.inf)
        begin[end] = total.argmin()
        least[end] = total[begin[end]]
    passes: list[list[int]] = []
    end = len(order)
    while end:
        passes.append(order[begin[end] : end].tolist())
        end = int(begin[end])
    return passes[::-1]
