"""Who imports whom in a tree of Python files, and the circles in it; read from the source, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

Graph = Mapping[str, Mapping[str, int]]
"""importing module → imported module → line of the import."""


def import_graph(root: Path, packages: tuple[str, ...]) -> Graph:
    """Every import between the modules of `packages` below `root`, in functions and under TYPE_CHECKING too."""
    files = {_module_name(root, path): path for package in packages for path in (root / package).rglob("*.py")}
    return {module: _imports(module, path, files) for module, path in files.items()}


def _module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(module: str, path: Path, files: Mapping[str, Path]) -> dict[str, int]:
    lines: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        for name in _imported_names(node, module, is_package=path.name == "__init__.py"):
            while name and name not in files:  # `from package.module import function` names more than a module
                name = name.rpartition(".")[0]
            if name and name != module:
                lines.setdefault(name, node.lineno)  # type: ignore[attr-defined]
    return lines


def _imported_names(node: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            parents = module.split(".") if is_package else module.split(".")[:-1]
            base = parents[: len(parents) - node.level + 1]
            source = ".".join([*base, source] if source else base)
        yield from (f"{source}.{alias.name}" for alias in node.names)


def first_circle(graph: Graph) -> list[str]:
    """A circle of imports, one line an import (`a → b (line 12)`), or an empty list where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        backwards: list[str] = error.args[1]  # every module is imported by the next one
        circle = backwards[::-1]
        return [
            f"{importer} → {imported} (line {graph[importer][imported]})" for importer, imported in pairwise(circle)
        ]
    return []
