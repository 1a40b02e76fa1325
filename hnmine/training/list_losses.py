"""The losses of one step's lists on one worker, in parts that fit into the memory.

Lists go together as far as there is room for their activations. Within such a group texts of like length do, so that
little is padded. A list that alone is too much is scored twice: first without a gradient, for the slope of its loss at
each score, then pass by pass with it (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup", arXiv 2101.06983). How lists and texts are grouped changes nothing but rounding.

Letters: B lists in a group, L documents in the longest of them, n texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hnmine.models.reranker import Reranker
from hnmine.training.lists import Lists, TrainingList
from hnmine.training.losses import Loss
from hnmine.training.memory import MOST_TOKENS, Room
from hnmine.types import Int64

_NO_LIST = TrainingList(query="", documents=("", ""), teacher=(0.0, 0.0))


class ListLosses:
    """Iterates over the losses; each is to be propagated back before the next is asked for."""

    padding = 0.0
    """How much of what was read was padding, once all losses were asked for; a bi-encoder's tokens are estimates."""
    longest = 0
    """The tokens of the longest text, once a loss was asked for."""

    def __init__(
        self,
        model: Reranker,
        lists: Lists,
        loss_of: Loss,
        *,
        share: float,
        room: Room | None = None,
    ) -> None:
        """Take this worker's lists of a step; of none the loss is 0.

        `share` is a factor of each list's loss; `room` says what fits into the memory, None: as many tokens as ever.
        """
        self._model, self._loss_of = model, loss_of
        self._lists, self._share = (lists, share) if lists else ((_NO_LIST,), 0.0)
        self._room = Room(MOST_TOKENS["cpu"]) if room is None else room
        self._tokens_read = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Yield losses, scalars, whose sum is that of all lists; anew, with the room that there is by then."""
        # Tokenise the lists, and group them by what they take.
        model, room = self._model, self._room
        rows = [model.tokenize([each.query] * len(each.documents), each.documents) for each in self._lists]
        lengths = [np.array([model.length(row) for row in rows_of_list]) for rows_of_list in rows]
        self.longest, self._tokens_read = max(int(each.max()) for each in lengths), 0
        taken = [float(room.taken(each).sum()) for each in lengths]
        for group in _groups(taken, room.budget):
            # Score a group of lists, or what alone is too much in parts.
            flat, flat_lengths = [row for i in group for row in rows[i]], np.concatenate([lengths[i] for i in group])
            lists, sizes = [self._lists[i] for i in group], [len(rows[i]) for i in group]
            passes = self._passes(flat_lengths)
            if len(passes) > 1 and sum(taken[i] for i in group) > room.budget:
                yield from self._in_parts(flat, passes, lists, sizes)
            else:
                yield self._loss(self._scores(flat, passes), lists, sizes)
        self.padding = 1 - sum(int(each.sum()) for each in lengths) / self._tokens_read

    def _passes(self, lengths_n: Int64) -> list[list[int]]:
        """Cut texts into passes of like length that fit into the memory, and count what they read."""
        model, longest = self._model, int(lengths_n.max())
        passes = cut_into_passes(lengths_n, min(model.tokens_per_pass, self._room.tokens(longest)), model.pass_cost)
        self._tokens_read += sum(len(part) * int(lengths_n[part].max()) for part in passes)
        return passes

    def _scores(self, rows: list[Any], passes: list[list[int]]) -> Tensor:
        """Return the scores (n,) of tokenised texts, in their order."""
        with torch.autocast(self._model.device, enabled=False):  # the passes inside share the weights that they round
            scores = torch.cat([self._model.forward([rows[i] for i in part]) for part in passes])
        return scores[torch.from_numpy(np.argsort(np.concatenate(passes))).to(scores.device)]

    def _loss(self, scores_n: Tensor, lists: list[TrainingList], sizes: list[int]) -> Tensor:
        """Return the share of the loss of lists whose texts, so many a list, have these scores."""
        scores_BL = pad_sequence(list(torch.split(scores_n, sizes)), batch_first=True)
        mask_BL = (torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]).to(scores_BL.device)
        return self._loss_of(scores_BL, mask_BL, *_teacher(lists, scores_BL.device)).sum() * self._share

    def _in_parts(
        self, rows: list[Any], passes: list[list[int]], lists: list[TrainingList], sizes: list[int]
    ) -> Iterator[Tensor]:
        """Yield a loss a pass, with the gradient that the pass has in the loss of the lists; their sum is that loss."""
        with torch.no_grad():
            scores_n = self._scores(rows, passes)
        scores_n.requires_grad_()
        loss = self._loss(scores_n, lists, sizes)
        slopes_n = torch.autograd.grad(loss, scores_n)[0]
        for number, part in enumerate(passes):
            linear = (self._scores([rows[i] for i in part], [list(range(len(part)))]) * slopes_n[part]).sum()
            yield linear - linear.detach() + (loss.detach() if number == 0 else 0.0)


def _teacher(lists: list[TrainingList], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Return the teacher's scores (B, L), and which lists are lessons (B,); None where no list has a teacher."""
    if not any(each.teacher for each in lists):
        return None, None
    scores = [torch.tensor(each.teacher or (0.0,) * len(each.documents)) for each in lists]
    lesson_B = torch.tensor([each.is_lesson for each in lists])
    return pad_sequence(scores, batch_first=True).to(device), lesson_B.to(device)


def _groups(sizes: list[float], most: float) -> list[list[int]]:
    """Cut positions, in order, into groups whose sizes add up to `most` at most, if one alone does."""
    groups: list[list[int]] = []
    room = 0.0
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
