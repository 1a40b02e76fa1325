"""The shape of the house: who may import whom, how long things are, which names are not used.

Each rule is checked on the whole tree, and each message lists every violation as `file:line`, to be worked through.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.builders.commands import REPOSITORY
from tests.builders.source_code import Import, imports_between, imports_in_circles, sources

FLOORS = (
    ("hnmine",),
    ("cli",),
    ("nights", "demo", "explaining", "take_away"),
    ("pipeline",),
    ("comparison",),
    ("report", "ranker"),
    ("arms",),
    ("training",),
    ("project",),
    ("mining", "ranking"),
    ("embedding",),
    ("models",),
    ("corpus",),
    ("runs",),
    ("config",),
    ("types", "errors", "command_words"),
    ("text_column", "mapped"),
    ("redaction",),
)
"""Packages and top-level modules from the roof down. Imports lead to a lower floor, never along a floor or up.

`hnmine` is `hnmine/__init__.py`, which nothing below imports from.
"""

MODULE_LINES = 400
ALL_LINES = 26_400
FUNCTION_LINES = 60
LINES_WITHOUT_STAGES = 30
"""A longer function has at least two lines of comments, one a stage."""

VAGUE_NAMES = {"its", "of", "told", "own", "what"}
UNDERSCORED_BUT_PUBLIC = {"os._exit"}
WITHOUT_MODULE = {
    "test_docs",
    "test_written_files",
    "test_package",
    "test_python",
    "test_architecture",
    "test_jobs",
    "test_cluster",
    "test_benchmarks",
}
"""Test modules of the package as a whole, and of the folders beside it."""


def house(root: Path) -> list[Import]:
    """Return the imports between the modules of the package."""
    return imports_between(sources(root, "hnmine"))


def room_of(module: str) -> str:
    """Return the package, or the top-level module, that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def wrong_directions(root: Path) -> list[str]:
    """List the imports between rooms that do not lead down, and what has no floor."""
    floor = {room: at for at, rooms in enumerate(FLOORS) for room in rooms}
    homeless = [
        f"{file.at(1)} {room_of(file.module)} has no floor"
        for file in sources(root, "hnmine")
        if room_of(file.module) not in floor
    ]
    if homeless:
        return homeless
    ends = [(each, room_of(each.importer.module), room_of(each.imported)) for each in house(root)]
    return [str(each) for each, above, below in ends if above != below and floor[above] >= floor[below]]


def circles(root: Path) -> list[str]:
    """List the imports inside a package that are part of a circle."""
    inside = [each for each in house(root) if room_of(each.importer.module) == room_of(each.imported)]
    return [str(each) for each in imports_in_circles(inside)]


def long_modules(root: Path) -> list[str]:
    """List the modules with too many lines."""
    return [f"{file.at(1)} {file.lines} lines" for file in sources(root, "hnmine") if file.lines > MODULE_LINES]


def long_functions(root: Path) -> list[str]:
    """List the functions with too many lines."""
    functions = (function for file in sources(root, "hnmine") for function in file.functions())
    return [str(function) for function in functions if function.lines > FUNCTION_LINES]


def functions_without_stages(root: Path) -> list[str]:
    """List the functions that are long enough to need a comment a stage and have fewer than two."""
    functions = (function for file in sources(root, "hnmine") for function in file.functions())
    return [str(each) for each in functions if each.lines > LINES_WITHOUT_STAGES and each.comments < 2]


def vague_names(root: Path) -> list[str]:
    """List the variables, arguments, attributes and aliases that say nothing to a stranger."""
    files = sources(root, "hnmine", "jobs", "benchmarks", "cluster", "tests")
    return [f"{file.at(line)} {name}" for file in files for line, name in file.bound_names() if name in VAGUE_NAMES]


def private_uses(root: Path) -> list[str]:
    """List the places where a test reaches into a private name."""
    uses = ((file.at(line), name) for file in sources(root, "tests") for line, name in file.private_uses("hnmine"))
    return [f"{place} {name}" for place, name in uses if name not in UNDERSCORED_BUT_PUBLIC]


def imported_tests(root: Path) -> list[str]:
    """List the imports of test modules, also those in code that a test gives to an interpreter."""
    files = [file for file in sources(root, "tests") if file.path != Path(__file__)]
    imported = [str(each) for each in imports_between(files) if re.search(r"\.test_\w+$", each.imported)]
    quoted = re.compile(r"\b(from|import)\s+tests\.(\w+\.)*test_\w+")
    strings = ((file.at(line), text) for file in files for line, text in file.strings())
    return imported + [f"{place} {found.group()}" for place, text in strings if (found := quoted.search(text))]


def misplaced_tests(root: Path) -> list[str]:
    """List the test modules that have no module to test where their name says."""
    missing = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(root / "tests")
        module = root / "hnmine" / folder / f"{path.stem.removeprefix('test_')}.py"
        if not module.is_file() and not (folder == Path() and path.stem in WITHOUT_MODULE):
            missing.append(f"{path.relative_to(root)}:1 tests nothing: no {module.relative_to(root)}")
    return missing


RULES = {
    "imports lead down": wrong_directions,
    "no circle inside a package": circles,
    f"no module over {MODULE_LINES} lines": long_modules,
    f"no function over {FUNCTION_LINES} lines": long_functions,
    f"a comment a stage in functions over {LINES_WITHOUT_STAGES} lines": functions_without_stages,
    "names that say something": vague_names,
    "tests use public names": private_uses,
    "tests do not import tests": imported_tests,
    "tests mirror packages": misplaced_tests,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rule(rule: str) -> None:
    violations = RULES[rule](REPOSITORY)
    assert not violations, f"{rule}: {len(violations)} violations\n" + "\n".join(violations)


def test_the_house_is_small() -> None:
    lines = {file.at(1): file.lines for file in sources(REPOSITORY, "hnmine")}
    longest = sorted(lines.items(), key=lambda each: -each[1])[:20]
    shown = "\n".join(f"{count:5} {name}" for name, count in longest)
    assert sum(lines.values()) <= ALL_LINES, f"{sum(lines.values())} lines, {ALL_LINES} at most; longest:\n{shown}"


def test_the_files_that_contributors_are_sent_to_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:hnmine|tests)/[\w/]+\.py\b", text))
    assert named
    missing = [name for name in sorted(named) if not (REPOSITORY / name).is_file()]
    assert not missing, f"CONTRIBUTING.md names {missing}"


LONG_BODY = "".join(f"    x = {i}\n" for i in range(31))
VIOLATIONS = {
    "imports lead down": (
        {
            "hnmine/mining/pca.py": "from hnmine.ranking import task\n",
            "hnmine/ranking/task.py": "def f():\n    import hnmine.pipeline\n",
            "hnmine/pipeline.py": "from hnmine import load_config\nfrom .runs.cache import Cache\n",
            "hnmine/runs/cache.py": "if TYPE_CHECKING:\n    from ..corpus.beir import read\n",
            "hnmine/corpus/beir.py": "from hnmine.runs.cache import Cache\nimport_module('hnmine.cli')\n",
            "hnmine/cli.py": "from hnmine import pipeline\n",
            "hnmine/__init__.py": "",
        },
        [
            "hnmine/corpus/beir.py:2 hnmine.corpus.beir -> hnmine.cli",
            "hnmine/mining/pca.py:1 hnmine.mining.pca -> hnmine.ranking.task",
            "hnmine/pipeline.py:1 hnmine.pipeline -> hnmine",
            "hnmine/ranking/task.py:2 hnmine.ranking.task -> hnmine.pipeline",
            "hnmine/runs/cache.py:2 hnmine.runs.cache -> hnmine.corpus.beir",
        ],
    ),
    "no circle inside a package": (
        {
            "hnmine/runs/a.py": "from hnmine.runs.b import x\n",
            "hnmine/runs/b.py": "def f():\n    from . import c\n",
            "hnmine/runs/c.py": "from hnmine.runs import a, d\n",
            "hnmine/runs/d.py": "",
        },
        [
            "hnmine/runs/a.py:1 hnmine.runs.a -> hnmine.runs.b",
            "hnmine/runs/b.py:2 hnmine.runs.b -> hnmine.runs.c",
            "hnmine/runs/c.py:1 hnmine.runs.c -> hnmine.runs.a",
        ],
    ),
    "no module over 400 lines": ({"hnmine/cli.py": "x = 1\n" * 401}, ["hnmine/cli.py:1 401 lines"]),
    "no function over 60 lines": (
        {"hnmine/cli.py": "class A:\n    def f(self):\n" + "        x = 1\n" * 60 + "def g():\n" + "    y = 1\n" * 59},
        ["hnmine/cli.py:2 f: 61 lines, 0 lines of comments"],
    ),
    "a comment a stage in functions over 30 lines": (
        {
            "hnmine/a.py": "def f():\n    # One.\n    # Two.\n" + LONG_BODY,
            "hnmine/b.py": "def f():\n    # One.\n    # noqa\n    '# two'\n    y = 1  # three\n" + LONG_BODY,
        },
        ["hnmine/b.py:1 f: 36 lines, 1 lines of comments"],
    ),
    "names that say something": (
        {
            "hnmine/cli.py": "def of(a, *, told):\n    self.own = [what for what in a]\n    return a.its, f(of=1)\n",
            "tests/test_x.py": "import numpy as its\nTask.of(of)\n",
        },
        ["hnmine/cli.py:1 told", "hnmine/cli.py:2 own", "hnmine/cli.py:2 what", "tests/test_x.py:1 its"],
    ),
    "tests use public names": (
        {
            "tests/test_x.py": (
                "from hnmine.mining.pca import _floor, fit\nfrom numpy import _core\n"
                "self._x, cls._y, x.__doc__, os._exit(1)\nx._y\nmonkeypatch.setattr(pca, '_FLOOR', 1)\n"
                "monkeypatch.setattr('hnmine.mining.pca._FLOOR', 1)\nmonkeypatch.setattr(pca, 'FLOOR', '_')\n"
            )
        },
        [
            "tests/test_x.py:1 _floor",
            "tests/test_x.py:4 x._y",
            "tests/test_x.py:5 _FLOOR",
            "tests/test_x.py:6 hnmine.mining.pca._FLOOR",
        ],
    ),
    "tests do not import tests": (
        {
            "tests/test_x.py": "from tests.builders import models\nfrom tests.runs.test_y import f\n",
            "tests/runs/test_y.py": "def f():\n    from tests import test_x\n'a; from tests.test_x import f'\n",
            "tests/builders/models.py": "",
        },
        [
            "tests/runs/test_y.py:2 tests.runs.test_y -> tests.test_x",
            "tests/runs/test_y.py:3 from tests.test_x",
            "tests/test_x.py:2 tests.test_x -> tests.runs.test_y",
        ],
    ),
    "tests mirror packages": (
        {
            "hnmine/mining/pca.py": "",
            "tests/mining/test_pca.py": "",
            "tests/test_pca.py": "",
            "tests/test_jobs.py": "",
            "tests/mining/test_jobs.py": "",
        },
        [
            "tests/mining/test_jobs.py:1 tests nothing: no hnmine/mining/jobs.py",
            "tests/test_pca.py:1 tests nothing: no hnmine/pca.py",
        ],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_every_violation_and_nothing_else(rule: str, tmp_path: Path) -> None:
    files, expected = VIOLATIONS[rule]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(RULES[rule](tmp_path)) == expected


def test_a_room_without_a_floor_is_named(tmp_path: Path) -> None:
    (tmp_path / "hnmine").mkdir()
    (tmp_path / "hnmine" / "helpers.py").touch()
    assert wrong_directions(tmp_path) == ["hnmine/helpers.py:1 helpers has no floor"]
