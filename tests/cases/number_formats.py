"""Formats of numbers that are written out where `monosemy/support/numbers.py` has a function; read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

OWNER = "monosemy/support/numbers.py"
"""The one module that may write such formats."""

EXEMPT = {
    "monosemy/ranges.py": "lies below the owner and writes names: different numbers need different texts",
    "monosemy/circuits/jacobian/training_pair.py": "writes the λ in an SAE's name, in full and without an exponent",
}
"""Files whose formats make no text for people, each with the reason."""

_SPECIFICATION = r"[^{}:!]*(?:[,_]|[,_]?(?:\.\d+)?[eEfFgG%])"
"""A format specification with a separator of thousands or one of the types that floats alone have: `,`, `.3g`, `+.1%`.

Widths (`>8`), zeros in front (`02d`), cut texts (`.40`) and hexadecimal numbers (`04x`) are none.
"""
_IN_TEMPLATE = re.compile(rf"\{{[^{{}}:]*:{_SPECIFICATION}\}}|%[-+ #0]*\d*(?:\.\d+)?[eEfFgG](?![A-Za-z])")
"""A gap with a format in a template for `str.format` or `%`."""
_ALONE = re.compile(r"[-+ ]?[,_]?\.\d+[eEfFgG%]")
"""A string that is a format, handed on to something that formats with it."""


def number_formats(root: Path, packages: tuple[str, ...]) -> list[str]:
    """`file:line format` of every format of a number outside of `OWNER` and `EXEMPT`, docstrings left out."""
    lines = []
    for path in sorted(file for package in packages for file in (root / package).rglob("*.py")):
        place = path.relative_to(root).as_posix()
        if place != OWNER and place not in EXEMPT:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            lines += [f"{place}:{line} {text}" for line, text in sorted(_formats(tree))]
    return lines


def _formats(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields (line, format) of the formats below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # a docstring
        if isinstance(child, ast.FormattedValue) and child.format_spec is not None:
            specification = _text(child.format_spec)
            if re.fullmatch(_SPECIFICATION, specification):
                yield child.lineno, specification
            yield from _formats(child.value)
            continue
        if isinstance(child, ast.Call) and ast.unparse(child.func) == "format" and len(child.args) == 2:
            specification = _text(child.args[1])
            if re.fullmatch(_SPECIFICATION, specification):
                yield child.lineno, specification
            yield from _formats(child.args[0])
            continue
        if isinstance(child, ast.JoinedStr) and _ALONE.fullmatch(_text(child)):
            yield child.lineno, _text(child)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str) and not isinstance(node, ast.JoinedStr):
            if _ALONE.fullmatch(child.value):
                yield child.lineno, child.value
            yield from ((child.lineno, gap) for gap in _IN_TEMPLATE.findall(child.value))
        yield from _formats(child)


def _text(node: ast.expr) -> str:
    """A string as far as the source tells it, with `0` for what an f-string fills in; empty for other expressions."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
