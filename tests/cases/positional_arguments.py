"""Functions and calls with more positional arguments than a reader can tell apart; read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

MOST = 4
"""From the fifth on, arguments are named."""

EXEMPT_CALLS = {
    "format": "a template takes its values in the order of its gaps",
    "add_row": "rich takes the cells of a table's row one by one",
    "Table": "rich takes the headings of a table one by one",
    "Progress": "rich takes the columns of a display one by one",
    "apply": "torch hands the arguments of an autograd function to its `forward` by position",
    "_run": "the dispatcher hands its arguments on to the kernel of that name by position",
}
"""Names of calls that are positional by nature, each with the reason."""

EXEMPT_DEFINITIONS = {
    "forward": "torch calls it by position, with the arguments of `apply`",
    "evaluate_model_loss": "public: users call it with the mask `keep` in fifth place",
}
"""Names of functions whose callers pass more by position, each with the reason."""


def positional_arguments(root: Path, packages: tuple[str, ...]) -> list[str]:
    """`file:line name (count)` of every definition and every call with more than `MOST` positional arguments.

    `self` and `cls` are not counted, and a starred argument counts as one. Functions that Numba or Triton compiles are
    left out with the calls inside them, because they take no keyword-only parameters. Inside `kernels` the calls of
    compiled functions are left out too: there the arrays go through in the order that the kernel declares.
    """
    lines = []
    for path in sorted(file for package in packages for file in (root / package).rglob("*.py")):
        tree, place = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root)
        compiled = {node.name for node in ast.walk(tree) if _is_compiled(node, tree)}  # type: ignore[attr-defined]
        exempt = EXEMPT_CALLS.keys() | (compiled if "kernels" in place.parts else set())
        for node in _outside_of_compiled(tree, compiled):
            if isinstance(node, ast.Call):
                name, count = _callee(node), len(node.args)
                count = 0 if name in exempt else count
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name, count = node.name, _n_positional(node)
                count = 0 if name in EXEMPT_DEFINITIONS else count
            else:
                continue
            if count > MOST:
                lines.append(f"{place}:{node.lineno} {name} ({count})")
    return lines


def _outside_of_compiled(node: ast.AST, compiled: set[str]) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.FunctionDef) and child.name in compiled):
            yield child
            yield from _outside_of_compiled(child, compiled)


def _is_compiled(node: ast.AST, tree: ast.Module) -> bool:
    """Whether a decorator is `numba.njit`, `triton.jit`, or a name that the module gives to a call of one of them."""
    if not isinstance(node, ast.FunctionDef):
        return False
    compilers = {
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign) and _is_jit(statement.value)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return any(_is_jit(d) or (isinstance(d, ast.Name) and d.id in compilers) for d in node.decorator_list)


def _is_jit(expression: ast.expr) -> bool:
    """True for `numba.njit`, `numba.njit(…)` and `triton.jit`."""
    function = expression.func if isinstance(expression, ast.Call) else expression
    return ast.unparse(function) in ("numba.njit", "triton.jit")


def _callee(call: ast.Call) -> str:
    """The last name of the function that is called: `f` of `a.b.f(…)`, and of a Triton launch `f[grid](…)`."""
    function = call.func.value if isinstance(call.func, ast.Subscript) else call.func
    return function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)


def _n_positional(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))
