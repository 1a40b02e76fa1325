"""README and docs/: links lead somewhere, commands and settings exist."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from hnmine.cli import command_parser
from hnmine.config.load import load
from tests.builders.browsers import started_chromium
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


def code(page: Path) -> list[str]:
    """Every line of a block of code, and every piece of code in a sentence, on one line."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    sentences = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", sentences)]
    return [*(line.removeprefix("$ ").partition("  #")[0] for block in blocks for line in block.splitlines()), *inline]


@cache
def options_of(command: str) -> set[str]:
    """The options that a command of hnmine has, as its help says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as stop:
        command_parser().parse_args([command, "--help"])
    assert stop.value.code == 0, said.getvalue()
    return set(re.findall(r"--[a-z-]+", said.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_in_sentences_exist_with_their_options(page: Path) -> None:
    for line in code(page):
        if match := re.match(r"hnmine ([a-z]+)\b(.*)", line):
            named = {word.partition("=")[0] for word in match[2].split() if word.startswith("--")}
            assert named <= options_of(match[1]), line


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_other_commands_name_targets_scripts_and_extras_that_are_there(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in code(page):
        if match := re.match(r"make ([a-z]+)\b", line):
            assert match[1] in targets, line
        for script in re.findall(r"\bpython ([\w./-]+\.py)\b", line):
            assert (REPOSITORY / script).is_file(), line
        for listed in re.findall(r"(?:hnmine|\.)\[([\w,]+)\]", line) if "pip install" in line else ():
            assert set(listed.split(",")) <= set(extras), line


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_settings_that_are_named_exist(page: Path) -> None:
    settings, endings = load().model_dump(), {"json", "jsonl", "md", "parquet", "py", "toml", "tsv", "yaml"}
    named = re.findall(r"`([a-z]+)\.([a-z_]+)\b[^`]*`", page.read_text())
    sections = {section: known for section, known in settings.items() if isinstance(known, dict)}
    unknown = [f"{section}.{key}" for section, key in named if key not in {*sections.get(section, [key]), *endings}]
    assert unknown == []


# The site and the pages that are made


def tool(name: str) -> ModuleType:
    """A script of docs/tools."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "docs" / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def settings_page() -> ModuleType:
    """The script that makes docs/settings.md."""
    return tool("settings_page")


def test_figures_are_those_of_the_tables_and_small(tmp_path: Path) -> None:
    figures, words = tool("figures"), re.compile(r"<text[^>]*>([^<]*)</text>")
    figures.draw(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        kept = figures.IMAGES / path.name
        assert words.findall(kept.read_text()) == words.findall(path.read_text()), "run: python docs/tools/figures.py"
        assert kept.stat().st_size < 50_000
        assert f"(images/{path.name})" in (REPOSITORY / "docs" / "results.md").read_text()
    best = figures.unseen_arms()[0]
    assert (best["mrr"], best["low"], best["high"]) == (0.524, 0.495, 0.553)
    assert len(figures.hidden()) == 22
    assert {each["pairs"] for each in figures.pairs()} == {100, 300, 1000}


def test_the_page_of_settings_is_current(settings_page: ModuleType) -> None:
    made = settings_page.page()
    assert settings_page.PAGE.read_text() == made, "run: python docs/tools/settings_page.py"
    for key, default in (
        ("select.negatives", "1"),
        ("encoders.lexical.width", "256"),
        ("guards.denoise.margin", "0.0"),
    ):
        (row,) = (line for line in made.splitlines() if line.startswith(f"| `{key}` |"))
        assert f"| `{default}` |" in row
    assert "whole number from 16 to 8,192 |" in made, "a range is said"


def test_of_every_setting_it_is_said_who_turns_it_and_of_nothing_else(settings_page: ModuleType) -> None:
    users = yaml.safe_load(settings_page.USERS.read_text())
    assert set(users) == set(settings_page.keys()), "see docs/tools/settings_users.yaml"
    assert all(users.values())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-c", "docs/tools", "-d", out / "doctrees", "-W", "--keep-going", "-q"]
    done = subprocess.run([*command, "docs", out / "site"], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, f"a link, heading or list of pages is wrong:\n{done.stderr}"
    return out / "site"


def test_the_site_has_every_page_and_asks_no_other_machine(site: Path) -> None:
    pages = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"([^\"]*)\"", path.read_text())
        assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []
    for path in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", path.read_text()) == []


def test_what_is_searched_lies_in_a_script_that_a_browser_reads_from_a_file(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    assert index.startswith("Search.setIndex(")
    assert '"certif' in index, "a word of docs/method.md, by its stem"
    assert 'src="searchindex.js"' in (site / "search.html").read_text()


def test_a_browser_searches_the_site_without_a_server_and_asks_nobody(site: Path) -> None:
    with started_chromium() as browser:
        page, heard = browser.new_page(viewport={"width": 420, "height": 900}), []
        page.on("request", lambda request: heard.append(request.url))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.goto(f"{(site / 'search.html').as_uri()}?q=certificate")
        page.wait_for_selector("#search-results li a")
        links = [link.get_attribute("href") for link in page.query_selector_all("#search-results li a")]
    assert "method.html" in {re.split("[#?]", link)[0] for link in links}
    assert [each for each in heard if not each.startswith("file:")] == []


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("# A page\n\n[one](nowhere.md) and [another](#no-heading)\n")
    command = [sys.executable, "-m", "sphinx", "-c", "docs/tools", "-d", tmp_path / "trees", "-W", "--keep-going", "-q"]
    done = subprocess.run([*command, tmp_path, tmp_path / "site"], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr
    assert "no-heading" in done.stderr
