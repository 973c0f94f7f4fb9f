"""Pieces of the circuits benchmark on disk: one file each, named after the code that made it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from monosemy.circuits import heads
from monosemy.config import fingerprint
from monosemy.run import machine
from monosemy.support.files import read_json, write_json

PARTS = (
    "run",
    "cost",
    "rows",
    "sensitivity",
    "compiled",
    "edge_search",
    "faithfulness",
    "member_graph",
    "reference",
    "symbolic",
    "trained",
)
"""The files of this benchmark that pieces depend on."""


class SkippedError(Exception):
    """A piece that cannot be made now; the message says why."""


@cache
def settings() -> str:
    """What finished pieces are named after: all code of circuits and of this benchmark, comments and docstrings left
    out (tables and figures are made of the pieces, so theirs is not in it)."""
    own = [Path(__file__).with_name(f"{name}.py") for name in PARTS]
    files = [*sorted(Path(heads.__file__).parent.rglob("*.py")), *own]
    return fingerprint([code_of(file.read_text(encoding="utf-8")) for file in files])[:10]


def code_of(text: str) -> str:
    """What a file does: its syntax tree without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = [part for part in node.body if not _is_text(part)]
            node.body = body or [ast.Pass()]
    return ast.dump(tree)


def _is_text(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def load_or_make(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The piece, from its file or now. One that is skipped is not kept: it may succeed another time."""
    if path.is_file():
        return dict(read_json(path))
    try:
        piece = make()
    except SkippedError as error:
        print(f"{path.stem}: skipped, {error}", flush=True)
        return {"skipped": str(error)}
    made_on = {"machine": machine(), "threads": torch.get_num_threads()}
    write_json(path, piece | {"made_on": made_on})
    return piece | {"made_on": made_on}


def brief(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What the record holds of every piece: all of cost, sensitivity and speed; of a model's its sizes, the circuit of
    `combined`, and each method's AUC. Scores, intervals and edges of single models stay in --work; `summary` has them
    put together."""
    whole = ("speed", "cost-", "sensitivity-")
    left = ("methods", "differences", "edges", "head_pairs")
    brief_parts = {}
    for name, part in parts.items():
        if name.startswith(whole) or "methods" not in part:
            brief_parts[name] = dict(part)
            continue
        methods = {
            method: {key: row[key] for key in ("auc", "n_checked") if key in row}
            for method, row in part["methods"].items()
        }
        codes = {
            key: part["differences"][key] for key in ("combined − combined-no-codes",) if key in part["differences"]
        }
        brief_parts[name] = {key: value for key, value in part.items() if key not in left}
        brief_parts[name] |= {"methods": methods, "differences": codes}
    return brief_parts
