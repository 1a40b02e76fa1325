"""Calls made by tasks of Ray: their answers in order, their errors as what they are."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from hnmine.errors import DataError
from hnmine.runs.ray_tasks import in_order

pytestmark = pytest.mark.ray


def late(number: int, seconds: float) -> tuple[int, int]:
    time.sleep(seconds)
    return number, os.getpid()


def refused(number: int) -> int:
    if number == 3:
        raise DataError(f"number {number} is none of ours")
    return number


def broken(number: int) -> float:
    return 1 / number


def test_answers_come_in_the_order_of_the_calls_from_other_processes() -> None:
    answers = list(in_order(late, [(number, 0.3 * (number % 2 == 0)) for number in range(9)]))
    assert [number for number, _ in answers] == list(range(9))
    assert os.getpid() not in {process for _, process in answers}
    assert list(in_order(late, [])) == []


def test_an_error_of_ours_arrives_as_itself_and_another_as_what_ray_makes_of_it() -> None:
    answers = in_order(refused, [(number,) for number in range(5)])
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^number 3 is none of ours$"):
        next(answers)
    with pytest.raises(ZeroDivisionError):
        list(in_order(broken, [(0,)]))


def test_calls_are_made_ahead_but_not_all_of_them() -> None:
    made = []

    def calls() -> Iterator[tuple[int, float]]:
        for number in range(1000):
            made.append(number)
            yield number, 0.0

    answers = in_order(late, calls())
    assert next(answers)[0] == 0
    assert 1 < len(made) < 500
