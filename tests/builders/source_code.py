"""The code of this repository as data: who imports whom, how long functions are, which names they use."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DIRECTIVE = re.compile(r"#\s*(noqa|type:|fmt:|pragma)")


@dataclass(frozen=True)
class Import:
    """One module of the package imports another; `line` is where."""

    importer: Source
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.importer.at(self.line)} {self.importer.module} -> {self.imported}"


@dataclass(frozen=True)
class Function:
    """A function or method, from its `def` line to its last line."""

    source: Source
    name: str
    first: int
    last: int

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return self.last - self.first + 1

    @property
    def comments(self) -> int:
        """How many of them are comments, alone on their line."""
        return sum(self.first < line <= self.last for line in self.source.comment_lines)

    def __str__(self) -> str:
        return f"{self.source.at(self.first)} {self.name}: {self.lines} lines, {self.comments} lines of comments"


@dataclass(frozen=True)
class Source:
    """A Python file below `root`."""

    root: Path
    path: Path

    def at(self, line: int) -> str:
        """Return the address of a line, as an editor opens it."""
        return f"{self.path.relative_to(self.root)}:{line}"

    @cached_property
    def text(self) -> str:
        """The file as it lies."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The file, parsed."""
        return ast.parse(self.text, str(self.path))

    @property
    def lines(self) -> int:
        """How many lines the file has."""
        return len(self.text.splitlines())

    @property
    def module(self) -> str:
        """Its dotted name; that of a package is without `__init__`."""
        parts = self.path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def comment_lines(self) -> list[int]:
        """Lines that hold a comment and no code; what is written for a tool does not count."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [
            token.start[0]
            for token in tokens
            if token.type == tokenize.COMMENT
            and not token.line[: token.start[1]].strip()
            and not _DIRECTIVE.match(token.string)
        ]

    def functions(self) -> Iterator[Function]:
        """Yield every function, methods and inner ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, FUNCTIONS):
                yield Function(self, node.name, node.lineno, node.end_lineno or node.lineno)

    def imports(self, modules: set[str]) -> Iterator[Import]:
        """Yield the imports of `modules`, wherever in the file they stand, and modules that a string names."""
        package = self.module if self.path.name == "__init__.py" else self.module.rpartition(".")[0]
        for node in ast.walk(self.tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
                base = ".".join(part for part in (above, node.module) if part)
                whole = (f"{base}.{alias.name}" for alias in node.names)
                names = [name if name in modules else base for name in whole]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
                names = [node.value]  # for importlib
            for name in dict.fromkeys(names):
                if name in modules:
                    yield Import(self, node.lineno, name)

    def bound_names(self) -> Iterator[tuple[int, str]]:
        """Yield every variable, argument, attribute and alias that the file names, with its line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.lineno, node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.lineno, node.attr
            elif isinstance(node, ast.arg):
                yield node.lineno, node.arg
            elif isinstance(node, ast.alias) and node.asname:
                yield node.lineno, node.asname
            elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                yield node.lineno, node.name

    def private_uses(self, package: str) -> Iterator[tuple[int, str]]:
        """Yield every use of a private name of another object: imported, after a dot, or in a string to patch."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
                yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
            elif isinstance(node, ast.Attribute) and is_private(node.attr):
                if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                    yield node.lineno, ast.unparse(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.fullmatch(rf"{package}(\.\w+)+", node.value) and any(map(is_private, node.value.split("."))):
                    yield node.lineno, node.value
            elif isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("setattr", "getattr", "delattr", "hasattr", "object"):
                    texts = (arg.value for arg in node.args if isinstance(arg, ast.Constant))
                    yield from ((node.lineno, text) for text in texts if isinstance(text, str) and is_private(text))

    def strings(self) -> Iterator[tuple[int, str]]:
        """Yield every string of the file, with its line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.lineno, node.value


def is_private(name: str) -> bool:
    """Say whether a name begins with an underscore and is not a dunder."""
    return name.startswith("_") and name != "_" and not (name.startswith("__") and name.endswith("__"))


def sources(root: Path, *folders: str) -> list[Source]:
    """Return the Python files below folders of `root`, in the order of their names."""
    return [Source(root, path) for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def imports_between(files: list[Source]) -> list[Import]:
    """Return all imports of one of these files by another."""
    modules = {file.module for file in files}
    found = [each for file in files for each in file.imports(modules) if each.imported != file.module]
    return sorted(found, key=lambda each: (str(each.importer.path), each.line))


def imports_in_circles(imports: list[Import]) -> list[Import]:
    """Return the imports from whose end a chain of imports leads back to their beginning."""
    following: dict[str, set[str]] = {}
    for each in imports:
        following.setdefault(each.importer.module, set()).add(each.imported)

    def reachable(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            for module in following.get(ahead.pop(), set()) - seen:
                seen.add(module)
                ahead.append(module)
        return seen

    leads_to = {module: reachable(module) for each in imports for module in (each.imported,)}
    return [each for each in imports if each.importer.module in leads_to[each.imported]]
