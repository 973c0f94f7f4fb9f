"""Which files a module reads itself, found from its source: those whose path reaches a reading function."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping

READING = {
    "read_json",
    "json.load",
    "json.loads",
    "read_text",
    "read_bytes",
    "open",
    "load_file",
    "np.load",
    "sqlite3.connect",
    "safe_open",
}
"""Functions and methods that read the file they are called with or on."""

PARAMETER = "parameter "

Names = Mapping[str, set[str]]
"""Local name → the properties and parameters that its value was made from."""


def files_read(source: str, properties: Collection[str]) -> set[str]:
    """The `properties` (names such as `evaluation`, each the path of one file) whose files the module reads.

    A function of the module that reads a path which is passed to it counts as a reading function.
    """
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    calls = {function: list(_calls(function, properties)) for function in functions}
    reading = set(READING)
    while True:
        files, helpers = set(), set()
        for function in functions:
            origins = set().union(*(passed for names, passed in calls[function] if names & reading))
            files |= origins & set(properties)
            if any(origin.startswith(PARAMETER) for origin in origins):
                helpers.add(function.name)
        if helpers <= reading:
            return files
        reading |= helpers


def _calls(function: ast.FunctionDef, properties: Collection[str]) -> Iterator[tuple[set[str], set[str]]]:
    """Every call: the called function's name without and with what stands before it; the origins of what it gets."""
    arguments = function.args.args + function.args.kwonlyargs
    names = {argument.arg: {PARAMETER + argument.arg} for argument in arguments if argument.arg != "self"}
    nodes = list(ast.walk(function))
    for _ in range(2):  # ast.walk goes by depth, not by line, and a name may be made from another
        for target, value in _bindings(nodes):
            bound = [
                node for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            ]
            if bound and (origins := _origins(value, properties, names)):
                for name in (node.id for node in bound):
                    names[name] = names.get(name, set()) | origins
    for call in (node for node in nodes if isinstance(node, ast.Call) and not _writes(node)):
        passed: list[ast.expr] = [*call.args, *(keyword.value for keyword in call.keywords)]
        called = {ast.unparse(call.func)}
        if isinstance(call.func, ast.Attribute):
            passed.append(call.func.value)
            if not ast.unparse(call.func.value)[0].isupper():  # `Database.open` opens what belongs to that class
                called.add(call.func.attr)
        if origins := set().union(*(_origins(value, properties, names) for value in passed)):
            yield called, origins


def _bindings(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Every target of an assignment or a loop, with its value."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, ast.NamedExpr):
            yield node.target, node.value
        elif isinstance(node, ast.For | ast.comprehension):
            yield node.target, node.iter


def _writes(call: ast.Call) -> bool:
    """Whether a call opens a file with a mode for writing."""
    return any(isinstance(value, ast.Constant) and value.value in {"w", "wb", "a", "ab"} for value in call.args)


def _belongs_to_files(path: ast.Attribute) -> bool:
    """Whether `path` may be a path of the layout's classes, by what stands before the dot."""
    match path.value:
        case ast.Name():
            return True
        case ast.Attribute(attr=name):
            return name.endswith("files")
        case ast.Call(func=ast.Name(id=name)):
            return name.endswith("Files")
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in {"sae", "features", "pair", "of_run", "at"}
    return False


def _origins(value: ast.expr, properties: Collection[str], names: Names) -> set[str]:
    origins: set[str] = set()
    for node in ast.walk(value):
        if isinstance(node, ast.Attribute) and node.attr in properties and _belongs_to_files(node):
            origins.add(node.attr)
        elif isinstance(node, ast.Name):
            origins |= names.get(node.id, set())
    return origins
