"""Tables: columns stand under their headers, and cells are printed as they are."""

from __future__ import annotations

import pytest

from hnmine.runs.tables import text_table, three_figures


def test_columns_are_aligned_under_their_headers() -> None:
    rows = [["first stage", ".512", "."], ["blend", ".5", "-.012"]]
    assert text_table(rows, ["", "MRR@10", "change"], left=(0, 2)).split("\n") == [
        "             MRR@10  change",
        "first stage    .512  .",
        "blend            .5  -.012",
    ]


def test_the_first_column_alone_is_aligned_to_the_left_unless_others_are_named() -> None:
    rows = [["a", "1", "x"], ["long", "100", "yy"]]
    assert text_table(rows, ["n", "v", "w"]).split("\n") == ["n       v   w", "a       1   x", "long  100  yy"]
    assert text_table(rows, ["n", "v", "w"], left=()).split("\n") == ["   n    v   w", "   a    1   x", "long  100  yy"]


def test_cells_that_look_like_numbers_are_printed_as_they_are() -> None:
    cells = ["1e5", "0x10", "007", "1.10", "1_000", "nan", "1,234", "+.5", "True", "-0"]
    lines = text_table([[cell] for cell in cells], ["v"]).split("\n")
    assert lines == ["v", *cells]


def test_a_row_may_be_short_and_no_line_ends_in_spaces() -> None:
    lines = text_table([["a", "1", "2"], ["b"], [], ["", "3"]], ["name", "x", "y"]).split("\n")
    assert lines == ["name  x  y", "a     1  2", "b", "", "      3"]


def test_a_table_may_have_no_headers() -> None:
    assert text_table([["a", "1", "x"], ["bb", "10", "yy"]], (), left=(0, 2)).split("\n") == ["a    1  x", "bb  10  yy"]


def test_a_table_without_rows_is_its_headers() -> None:
    assert text_table([], ["name", "value"]) == "name  value"
    assert text_table([], []) == ""


def test_letters_of_all_scripts_and_odd_spaces_keep_their_columns_and_lines() -> None:
    lines = text_table([["é", "1"], ["Größe", "2"], ["a\u2028b", "3"], ["  deep", "4"]], ["name", "v"]).split("\n")
    assert lines == ["name    v", "é       1", "Größe   2", "a\u2028b     3", "  deep  4"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.01234, "0.0123"),
        (1.0, "1"),
        (1.768, "1.77"),
        (99.96, "100"),
        (497.2, "497"),
        (1481.3, "1,481"),
        (2e6, "2,000,000"),
    ],
)
def test_numbers_have_three_figures_and_no_exponent(number: float, text: str) -> None:
    assert three_figures(number) == text
