"""README and docs/: links lead somewhere, commands and settings exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hnmine.cli import command_parser
from hnmine.config.load import load
from tests.builders.commands import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def names(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    named = re.findall(r"\b((?:docs|benchmarks|jobs|cluster|tests|hnmine)/[\w./-]+\.\w+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if "package" not in name and not (REPOSITORY / name).exists()]
    assert missing == []


def commands(page: Path) -> list[str]:
    """The lines of code blocks that call hnmine, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.split(r"  #| > ", line)[0] for line in lines if line.startswith("hnmine ")]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_are_understood(page: Path) -> None:
    for line in commands(page):
        options = command_parser().parse_args(shlex.split(line)[1:])
        load(overrides=getattr(options, "set", None) or [])


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_settings_that_are_named_exist(page: Path) -> None:
    settings, endings = load().model_dump(), {"json", "jsonl", "md", "parquet", "py", "toml", "tsv", "yaml"}
    named = re.findall(r"`([a-z]+)\.([a-z_]+)\b[^`]*`", page.read_text())
    sections = {section: known for section, known in settings.items() if isinstance(known, dict)}
    unknown = [f"{section}.{key}" for section, key in named if key not in {*sections.get(section, [key]), *endings}]
    assert unknown == []
