"""Mutants: a module's functions with one small fault each, made in the syntax tree and put into the running process.

A mutant is a site of the tree and a replacement. It is put in place by exchanging the code of the live function
(`put_in_place`), so nothing is imported again and decorators, such as `torch.no_grad` and `property`, stay as they are.
Left alone: messages of errors (`raise`, `assert`, f-strings), annotations, defaults, and code outside functions.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
}
COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_PAIRS = (("min", "max"), ("any", "all"), ("sum", "mean"), ("floor", "ceil"), ("amin", "amax"), ("argmin", "argmax"))
EXCHANGED = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
DROPPED = {"abs", "sqrt", "square", "exp", "log", "log2", "log10", "relu", "sort", "flip", "t"}
"""Methods without arguments that are left out of a chain: x.sqrt() becomes x."""
_SKIPPED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Step = tuple[str, int | None]
"""One step down the tree: a field, and the place in it where it is a list."""


@dataclass(frozen=True)
class Mutant:
    """One fault: where it is, and how the code reads before and after."""

    module: str
    """The module's path below the repository."""
    function: str
    """The qualified name of the outermost function that holds the site."""
    line: int
    kind: str
    before: str
    after: str
    path: tuple[Step, ...]
    """The steps from the module's tree to the site."""

    @property
    def key(self) -> str:
        """The mutant's name in records, unique within a tree."""
        return f"{self.module}:{self.line} {self.path_text} {self.kind} {self.after}"

    @property
    def path_text(self) -> str:
        return ".".join(f"{field}{'' if place is None else place}" for field, place in self.path)


def mutants_of(root: Path, module: str) -> list[Mutant]:
    """All mutants of a module, in the order of its source."""
    tree = ast.parse((root / module).read_text(encoding="utf-8"))
    mutants: list[Mutant] = []
    for name, function, path in _functions(tree, (), ""):
        for node, steps in _sites(function, path):
            for kind, replacement in _replacements(node):
                before, after = ast.unparse(node), ast.unparse(ast.fix_missing_locations(replacement))
                line: int = getattr(node, "lineno", function.lineno)
                mutants.append(Mutant(module, name, line, kind, before=before, after=after, path=steps))
    return mutants


def mutated(root: Path, mutant: Mutant) -> CodeType:
    """The code of the mutant's function with the fault in it."""
    source = (root / mutant.module).read_text(encoding="utf-8")
    tree: ast.AST = ast.parse(source)
    *parents, (field, place) = mutant.path
    node = tree
    for step_field, step_place in parents:
        child = getattr(node, step_field)
        node = child if step_place is None else child[step_place]
    target = getattr(node, field) if place is None else getattr(node, field)[place]
    replacement = next(
        new for kind, new in _replacements(target) if kind == mutant.kind and _unparsed(new) == mutant.after
    )
    ast.copy_location(replacement, target)
    if place is None:
        setattr(node, field, replacement)
    else:
        getattr(node, field)[place] = replacement
    module = compile(ast.fix_missing_locations(tree), str(root / mutant.module), "exec")  # type: ignore[call-overload]
    return next(code for code in _codes(module) if code.co_qualname == mutant.function)


def put_in_place(root: Path, mutant: Mutant) -> None:
    """Gives the live function the mutant's code. Raises ValueError where the fault changes what a closure holds."""
    live_function(mutant.module, mutant.function).__code__ = mutated(root, mutant)


def live_function(module: str, name: str) -> FunctionType:
    """The innermost function of that name, below decorators, properties and static methods."""
    value: object = importlib.import_module(module.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        value = inspect.getattr_static(value, part)
    while True:
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif hasattr(value, "__wrapped__"):
            value = value.__wrapped__
        else:
            assert isinstance(value, FunctionType), (module, name)
            return value


def _unparsed(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node))


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _functions(
    node: ast.AST, path: tuple[Step, ...], prefix: str
) -> Iterator[tuple[str, ast.FunctionDef, tuple[Step, ...]]]:
    """The module's functions and its classes' methods, with qualified names; overloads and stubs left out."""
    for place, child in enumerate(getattr(node, "body", [])):
        steps = (*path, ("body", place))
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child, steps
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, steps, f"{prefix}{child.name}.")


def _sites(function: ast.FunctionDef, path: tuple[Step, ...]) -> Iterator[tuple[ast.AST, tuple[Step, ...]]]:
    for place, statement in enumerate(function.body):
        yield from _below(statement, (*path, ("body", place)))


def _below(node: ast.AST, path: tuple[Step, ...]) -> Iterator[tuple[ast.AST, tuple[Step, ...]]]:
    if isinstance(node, ast.FunctionDef):  # a function within a function: its body alone
        yield from _sites(node, path)
        return
    if isinstance(node, _SKIPPED):
        return
    yield node, path
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "ctx", "op", "ops"):
            continue
        if isinstance(value, ast.AST):
            yield from _below(value, (*path, (field, None)))
        elif isinstance(value, list):
            for place, child in enumerate(value):
                if isinstance(child, ast.AST):
                    yield from _below(child, (*path, (field, place)))


def _replacements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The faults of one site: (kind, new node)."""
    new = copy.deepcopy(node)
    match new:
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            new.op = ARITHMETIC[type(op)]()
            yield "arithmetic", new
        case ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            new.op = ARITHMETIC[type(op)]()
            yield "arithmetic", new
        case ast.Compare(ops=[op, *_]) if type(op) in COMPARISON:
            new.ops[0] = COMPARISON[type(op)]()
            yield "comparison", new
        case ast.BoolOp(op=op):
            new.op = ast.And() if isinstance(op, ast.Or) else ast.Or()
            yield "boolean", new
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "boolean", operand
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield "sign", operand
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield "constant", ast.Constant(2 * value or 1.0)
        case ast.If(test=test) | ast.IfExp(test=test):
            if not isinstance(test, ast.Compare) and not (isinstance(test, ast.UnaryOp)):
                new.test = ast.UnaryOp(ast.Not(), test)
                yield "condition", new
        case ast.Expr(value=ast.Call()):
            yield "statement", ast.Pass()
        case ast.Call():
            yield from _changed_calls(new)
        case _:
            return


def _changed_calls(call: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    match call.func:
        case ast.Attribute(attr=name, value=value) if name in DROPPED and not call.args and not call.keywords:
            yield "call", value
        case ast.Attribute(attr=name) if name in EXCHANGED:
            new = copy.deepcopy(call)
            assert isinstance(new.func, ast.Attribute)
            new.func.attr = EXCHANGED[name]
            yield "call", new
        case ast.Name(id=name) if name in EXCHANGED and name not in ("sum",):
            new = copy.deepcopy(call)
            assert isinstance(new.func, ast.Name)
            new.func.id = EXCHANGED[name]
            yield "call", new
        case _:
            pass
    for place, keyword in enumerate(call.keywords):
        if keyword.arg not in (None, "device"):  # without a device, a test on the CPU cannot tell
            new = copy.deepcopy(call)
            del new.keywords[place]
            yield "keyword", new
