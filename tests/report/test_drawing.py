"""The engine that draws charts, in a process of its own."""

from __future__ import annotations

import os
import signal
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
import vl_convert
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hnmine.report.drawing import svg

BARS: dict[str, Any] = {
    "data": {"values": [{"name": "ä </svg>\u2028", "count": 3}, {"name": "b", "count": 5}]},
    "mark": "bar",
    "encoding": {"x": {"field": "count", "type": "quantitative"}, "y": {"field": "name", "type": "nominal"}},
}


def engines() -> list[psutil.Process]:
    living = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in living if any("vl_convert" in word for word in each.cmdline())]


def test_a_chart_is_what_the_library_draws() -> None:
    config = {"bar": {"color": "var(--ink)"}}
    assert svg(BARS, config) == vl_convert.vegalite_to_svg(BARS, config=config)
    assert len(engines()) == 1


def test_what_cannot_be_drawn_is_an_error_and_the_next_chart_is_drawn() -> None:
    with pytest.raises(ValueError, match="conversion failed"):
        svg({"mark": 5}, {})
    assert svg(BARS, {}).startswith("<svg")


@settings(max_examples=25, deadline=None)
@example(name="0" * 21 + "\U0001d400\U0001d48c\U0001d48e\U0001d48e\U0001d496")
@example(name="a\x00b\x1b[0m\ufffe\uffff\ud800")
@given(name=st.text(st.characters()))
def test_names_of_any_characters_are_drawn(name: str) -> None:
    drawn = svg(BARS | {"data": {"values": [{"name": name, "count": 3}]}}, {})
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


@pytest.mark.parametrize("how", [signal.SIGABRT, signal.SIGKILL])
def test_an_engine_that_ends_is_started_again(how: signal.Signals) -> None:
    before = svg(BARS, {})
    (engine,) = engines()
    os.kill(engine.pid, how)
    engine.wait(10)
    assert svg(BARS, {}) == before


def test_an_engine_that_always_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in engines():
        engine.kill()
        engine.wait(10)
    monkeypatch.setattr("sys.executable", "/bin/true")
    with pytest.raises(ValueError, match="ended before it had drawn one"):
        svg(BARS, {})
