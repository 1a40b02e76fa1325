"""The losses of a step: passes against every possible cut, the gradient against a plain loop, the share of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.errors import ModelError
from hnmine.models.reranker import CrossEncoder
from hnmine.training import losses
from hnmine.training.gradient import Optimizer
from hnmine.training.list_losses import ListLosses, cut_into_passes
from hnmine.training.lists import Lists, TrainingList, step_lists
from hnmine.training.memory import Room
from tests.builders.models import load_cross_encoder, tiny_cross_encoder
from tests.builders.training import quick_recipe, yes_no_lists


def least_by_trying_all(lengths: list[int], most: int, cost: int) -> int:
    """The fewest tokens of all cuts of the sorted lengths into passes."""
    if not lengths:
        return 0
    cuts = [at for at in range(1, len(lengths) + 1) if at == 1 or at * lengths[0] <= most]
    return min(at * lengths[0] + cost + least_by_trying_all(lengths[at:], most, cost) for at in cuts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=10), st.integers(1, 200), st.integers(0, 80))
def test_no_other_cut_into_passes_reads_fewer_tokens(lengths: list[int], most: int, cost: int) -> None:
    passes = cut_into_passes(np.array(lengths), most, cost)
    assert sorted(i for part in passes for i in part) == list(range(len(lengths)))
    read = [len(part) * max(lengths[i] for i in part) for part in passes]
    assert all(tokens <= most or len(part) == 1 for tokens, part in zip(read, passes, strict=True))
    assert sum(read) + cost * len(passes) == least_by_trying_all(sorted(lengths, reverse=True), most, cost)


def test_texts_of_unlike_length_are_padded_less_than_one_in_twenty_tokens() -> None:
    lengths = np.random.default_rng(0).lognormal(4.1, 0.5, 80).astype(np.int64).clip(20, 256)  # as of single sentences
    read = sum(len(part) * int(lengths[part].max()) for part in cut_into_passes(lengths, 4096, 32))
    assert 1 - lengths.sum() / read < 0.05


@pytest.fixture
def reranker(tmp_path: Path) -> CrossEncoder:
    model = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"), max_tokens=32)
    model.train_mode()
    return model


def gradient(reranker: CrossEncoder) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in reranker.model.parameters() if weight.grad is not None])


def backward(
    reranker: CrossEncoder, given: Lists, name: str, share: float, room: Room | None = None
) -> tuple[float, torch.Tensor]:
    reranker.model.zero_grad()
    parts = ListLosses(reranker, given, losses.make(name, 1.0), share=share, room=room)
    total = 0.0
    for loss in parts:
        torch.autograd.backward(loss)
        total += loss.item()
    assert 0 <= parts.padding < 0.5
    return total, gradient(reranker)


def by_loop(reranker: CrossEncoder, given: Lists, name: str) -> tuple[float, torch.Tensor]:
    """The mean loss, one list at a time, one text at a time."""
    reranker.model.zero_grad()
    total = 0.0
    for each in given:
        scores = torch.cat([reranker.forward(reranker.tokenize([each.query], [text])) for text in each.documents])
        teacher = torch.tensor(each.teacher)[None] if each.teacher else None
        loss_name = "kl" if each.is_lesson else name
        loss = losses.make(loss_name, 1.0)(scores[None], torch.ones(1, len(scores), dtype=torch.bool), teacher)[0]
        (loss / len(given)).backward()
        total += loss.item() / len(given)
    return total, gradient(reranker)


def given_lists(name: str, lessons: int = 0) -> Lists:
    rng, plain = np.random.default_rng(1), yes_no_lists(7)
    taught = tuple(replace(each, teacher=tuple(rng.normal(0, 1, len(each.documents)).tolist())) for each in plain)
    judged = taught if name in losses.TAUGHT else plain
    reversed_lists = (replace(each, documents=each.documents[::-1], is_lesson=True) for each in taught[:lessons])
    return (*judged[: 7 - lessons], *reversed_lists)


@pytest.mark.parametrize("lessons", [0, 3, 7])
@pytest.mark.parametrize("name", ["infonce", "margin", "marginmse", "kl"])
def test_the_gradient_of_a_step_is_that_of_a_plain_loop_and_the_mean_of_its_shares(
    reranker: CrossEncoder, name: str, lessons: int
) -> None:
    many = given_lists(name, lessons)
    assert len(many) == 7
    loss, whole = backward(reranker, many, name, 1 / 7)
    expected, slow = by_loop(reranker, many, name)
    assert loss == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(whole, slow, rtol=1e-3, atol=1e-5)
    shares = [backward(reranker, many[rank::2], name, 2 / 7)[1] for rank in range(2)]
    torch.testing.assert_close((shares[0] + shares[1]) / 2, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 40, 100, 250, 1000])
@pytest.mark.parametrize("name", ["infonce", "kl", "lambda"])
def test_however_little_fits_the_gradient_of_a_step_is_that_of_one_big_pass(
    reranker: CrossEncoder, name: str, budget: int
) -> None:
    many = given_lists(name)
    loss, whole = backward(reranker, many, name, 1 / 7)
    in_parts, sum_of_parts = backward(reranker, many, name, 1 / 7, Room(budget))
    assert in_parts == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(sum_of_parts, whole, rtol=1e-3, atol=1e-6)
    sizes: list[int] = []
    forward = reranker.forward
    reranker.forward = lambda rows: (sizes.append(sum(map(reranker.length, rows))), forward(rows))[1]  # type: ignore[method-assign]
    backward(reranker, many, name, 1 / 7, Room(budget))
    assert all(size <= budget for size in sizes) or budget == 1, "a pass of one text may be larger"
    assert len(sizes) > 7 * (budget < 40)


@pytest.mark.parametrize("most", [30, 60, 150])
def test_a_step_whose_memory_runs_out_is_taken_anew_in_smaller_passes_with_the_same_gradient(
    reranker: CrossEncoder, most: int
) -> None:
    many, loss_of = given_lists("infonce"), losses.make("infonce", 1.0)
    _, expected = backward(reranker, many, "infonce", 1 / 7)
    # A device that holds so many tokens at once: what a loss keeps until it is propagated back counts.
    forward, held = reranker.forward, 0

    def limited(rows: list[object]) -> torch.Tensor:
        nonlocal held
        held += torch.is_grad_enabled() * sum(map(reranker.length, rows))
        if held > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(rows)

    class Freed(ListLosses):
        def __iter__(self) -> Iterator[torch.Tensor]:
            nonlocal held
            held = 0
            for loss in super().__iter__():
                yield loss
                held = 0

    reranker.forward = limited  # type: ignore[method-assign]
    room, halved = Room(4096), []
    given = Freed(reranker, many, loss_of, share=1 / 7, room=room)
    found: list[torch.Tensor] = []

    def make_room() -> None:
        assert all(weight.grad is None for weight in reranker.model.parameters()), "of what failed nothing is left"
        room.halve(given.longest)
        halved.append(room.budget)

    optimizer = Optimizer(reranker.model, quick_recipe(), 5)
    optimizer.step(0, given, average=lambda: found.append(gradient(reranker).clone()), make_room=make_room)
    assert halved == [4096 / 2**i for i in range(1, len(halved) + 1)]
    assert halved[-1] > most / 4, "no smaller than needed, but for the padding"
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-6)


def test_where_not_even_one_text_fits_the_remedy_is_named(reranker: CrossEncoder) -> None:
    def never(_rows: list[object]) -> torch.Tensor:
        raise MemoryError

    reranker.forward = never  # type: ignore[method-assign]
    room = Room(4096)
    given = ListLosses(reranker, yes_no_lists(3), losses.make("bce", 1.0), share=1.0, room=room)
    optimizer = Optimizer(reranker.model, quick_recipe(), 5)
    with pytest.raises(ModelError, match=r"out of memory: one query with one document, \d+ tokens, .*max_tokens.*lora"):
        optimizer.step(0, given, make_room=lambda: room.halve(given.longest))


def test_a_student_that_is_its_own_teacher_has_loss_0(reranker: CrossEncoder) -> None:
    plain = yes_no_lists(5)
    reranker.model.eval()
    itself = tuple(
        replace(each, teacher=tuple(reranker.raw_scores([each.query] * len(each.documents), each.documents).tolist()))
        for each in plain
    )
    reranker.train_mode()
    loss, slope = backward(reranker, itself, "marginmse", 0.2)
    assert loss == pytest.approx(0, abs=1e-9)
    assert slope.abs().max() < 1e-4
    indifferent = tuple(replace(each, teacher=(0.0,) * len(each.documents)) for each in plain)
    assert backward(reranker, indifferent, "marginmse", 0.2)[0] > 1e-4


def test_a_worker_without_lists_adds_nothing(reranker: CrossEncoder) -> None:
    loss, slope = backward(reranker, (), "marginmse", 1.0)
    assert loss == 0
    assert (slope == 0).all()


def test_shares_of_a_step_draw_from_the_whole_batch() -> None:
    names = tuple(f"name {i}" for i in range(6))
    bare = tuple(TrainingList(query=name, documents=(name,), never_negative=frozenset({name})) for name in names)
    whole = step_lists(bare, range(6), 5, (0, 1))
    assert all(set(each.documents) == set(names) for each in whole), "the other worker's positives as well"
