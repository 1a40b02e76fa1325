"""Lines of a stream, of which none fills the memory."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from hnmine.corpus.rows import bounded


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.booleans())
def test_long_lines_are_given_by_their_beginnings_and_the_others_as_they_are(lines: list[bytes], ends: bool) -> None:
    content = b"\n".join(lines) + b"\n" * ends
    found = list(bounded(io.BufferedReader(io.BytesIO(content)), most=8))
    expected = (
        content.splitlines(keepends=True) if b"\r" not in content else content.replace(b"\r", b"x").splitlines(True)
    )
    assert len(found) == len(expected)
    for given_line, whole in zip(found, expected, strict=True):
        assert given_line.replace(b"\r", b"x") == whole.replace(b"\r", b"x")[:9]
