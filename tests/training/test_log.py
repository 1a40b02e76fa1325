"""What a restarted worker logs again counts once, and what is shown of it."""

from __future__ import annotations

import pytest

from hnmine.training.log import Event, EventPrinter, TrainingLog, shown
from tests.builders.training import quick_recipe


def test_what_is_logged_again_after_a_restart_counts_once() -> None:
    log = TrainingLog()
    for event in (
        Event("evaluated", 0, 0.1),
        Event("begun", 0),
        Event("trained", 1, 0.9),
        Event("evaluated", 1, 0.2),
        Event("trained", 2, 0.8),
    ):
        log.add(event)
    assert [(event.kind, event.step) for event in log.read()][-2:] == [("evaluated", 1), ("trained", 2)]
    for event in (
        Event("resumed", 1),
        Event("evaluated", 0, 0.1),
        Event("evaluated", 1, 0.2),
        Event("trained", 2, 0.8),
        Event("trained", 3, 0.7),
    ):
        log.add(event)
    assert [(event.kind, event.step) for event in log.read()] == [("resumed", 1), ("trained", 3)]
    assert log.read() == []
    assert log.history() == {0: 0.1, 1: 0.2}


def test_events_are_shown_and_tracked(capsys: pytest.CaptureFixture[str]) -> None:
    tracked: list[tuple[str, float, int]] = []

    def track(name: str, value: float, step: int) -> None:
        tracked.append((name, value, step))

    log, recipe = TrainingLog(), quick_recipe(epochs=1)
    with shown(log.read, EventPrinter("name", recipe, 16, track)):
        for event in (
            Event("resumed", 1),
            Event("evaluated", 1, 0.25),
            Event("begun", 1),
            Event("trained", 2, 0.5, 8, 0.1),
        ):
            log.add(event)
    said = capsys.readouterr().err
    assert "name: goes on from the checkpoint of step 1" in said
    assert "name: step 1: MRR@10 0.250 on dev" in said
    assert "name: 8 lists in " in said
    assert "loss 0.500, 10.0% padding" in said
    rate = recipe.rate(1, 2)
    assert tracked == [("MRR@10", 0.25, 1), ("loss", 0.5, 2), ("learning_rate", rate, 2), ("padding", 0.1, 2)]
