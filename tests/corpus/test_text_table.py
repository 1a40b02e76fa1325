"""What one document may cost: the beginning of a very long one is read, which is said, in bounded memory and time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.text_rows import MOST_CHARACTERS
from tests.builders.collections import append_lines, write_collection

_READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from hnmine.config.steps import SourcesConfig
from hnmine.corpus.analyzer import words
from hnmine.corpus.identity import identity
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.text_keys import keys_of
from hnmine.runs.memory import peak_memory
documents = read_collection(sys.argv[1], SourcesConfig()).documents
keys_of(documents.texts)
for text in documents.texts:
    words(text), identity(text)
print(max(map(len, documents.texts)), peak_memory())
"""


@pytest.mark.parametrize("unit", ["word ", "語彙、"], ids=["ascii", "han"])
def test_a_document_of_a_hundred_megabytes_is_read_in_bounded_memory(unit: str, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    with (data / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "long", "text": "')
        for _ in range(100):
            file.write(unit * (10**6 // len(unit.encode())))
        file.write('"}\n')
    command = [sys.executable, "-c", _READ, str(data), str(3 * 2**30)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    longest, used = map(int, done.stdout.split())
    assert longest == MOST_CHARACTERS
    assert used < 8 * 100e6, f"{used / 1e6:.0f} MB"
    assert (
        "1 document(s) have more than 2,000,000 characters and are cut there, the first: 'long' in line" in done.stderr
    )


def test_a_text_that_is_just_not_too_long_stays_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_collection(tmp_path / "data")
    append_lines(data / "corpus.jsonl", f'{{"_id": "long", "title": "", "text": "{"x" * MOST_CHARACTERS}"}}')
    documents = read_collection(data, SourcesConfig()).documents
    assert len(documents.texts[documents.row_of["long"]]) == MOST_CHARACTERS
    assert "cut there" not in capsys.readouterr().err
