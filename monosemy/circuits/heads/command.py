"""`monosemy circuits TASK --model …`: the command, and its tables in the terminal.

Place on the path: words of the command line → `find_circuit` → ranked heads and a table of methods in the terminal, and
the page (`page.py`).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from monosemy.circuits.heads.room import ROOM
from monosemy.config import SEED
from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.support.arguments import Parser, whole
from monosemy.support.files import require_writable
from monosemy.support.numbers import rounded_text
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.circuits.heads.circuit import Circuit

EXAMPLES = (
    "monosemy circuits ioi                                    on the embedded SmolLM2-135M, about a minute",
    "monosemy circuits induction --model gpt2 --prompts 128",
    "monosemy circuits mine.jsonl --compare eap eap-ig codes  your own prompts, other methods beside",
    "monosemy circuits --list                                 tasks and methods",
)


def run_circuits(words: list[str]) -> None:
    """Runs `monosemy circuits` with the words that follow it.

    Raises UserError for bad input, before the model is loaded where that is possible.
    """
    options = _parser().parse_args(words)
    from monosemy.circuits.heads.methods import METHODS, all_methods, check_methods, check_seed
    from monosemy.circuits.heads.tasks import TASKS, check_name

    if options.list:
        print("tasks:   " + ", ".join(TASKS) + ", or a .jsonl file\nmethods: " + ", ".join(METHODS))
        return
    if not options.task:
        raise UserError(f"which task? give one of: {', '.join(TASKS)}, or a .jsonl file of your own prompts")
    check_name(options.task)
    compare = all_methods(options.ablation, options.method) if options.compare == ["all"] else options.compare
    check_methods([options.method, *compare])
    check_seed(options.seed)
    if options.examples is not None and options.examples < options.prompts:
        raise UserError(
            f"--examples ({options.examples}) must be at least --prompts ({options.prompts}), which are taken from them"
        )
    if options.examples is not None and options.task.endswith(".jsonl"):
        raise UserError(
            f"--examples ({options.examples}) says how many prompts of a task of the library to make; {options.task} "
            "is read whole: leave it out, or give a shorter file"
        )
    require_writable(Path(options.out or "runs"), "--out", folder=True)
    from monosemy.circuits.heads.circuit import find_circuit
    from monosemy.models.sources import load_model

    model = load_model(options.model, revision=options.revision, dtype=options.dtype, device=options.device)
    with _warnings_in_a_line():
        circuit = find_circuit(
            model,
            options.task,
            method=options.method,
            compare=compare,
            n_prompts=options.prompts,
            n_examples=options.examples,
            ablation=options.ablation,
            edges=not options.no_edges,
            seed=options.seed,
        )
    from monosemy.circuits.heads.page import write_circuit

    folder = Path(options.out or Path("runs") / f"circuit-{circuit.task.name}").expanduser()
    _print_tables(circuit)
    print(f"page: {write_circuit(circuit, folder)}")


def _parser() -> argparse.ArgumentParser:
    """The flags of `monosemy circuits`."""
    parser = Parser("monosemy circuits", ROOM.commands[0].summary, examples=EXAMPLES)
    add = parser.add_argument
    add("task", nargs="?", help="A task's name, or a .jsonl file of your own prompts.")
    add("--list", action="store_true", help="List tasks and methods, and end.")
    add("--model", default="embedded", help="`embedded`, a hub id, a folder, or a .gguf file.")
    add("--revision", help="Commit or branch on the hub.")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="Number format of the model.")
    add("--device", default="auto", help="Where the model runs: `auto`, `cpu`, `cuda` or `cuda:1`.")
    add("--method", default="combined", help="The method that ranks the heads.")
    add("--compare", nargs="+", default=[], metavar="METHOD", help="Further methods in the table; `all` for every one.")
    add(
        "--prompts",
        type=whole(Range(5, 1_000_000, example=64)),
        default=64,
        help="Number of prompts that causal methods run on.",
    )
    add(
        "--examples",
        type=whole(Range(1, 1_000_000, example=250)),
        help="Number of positives to make, and of negatives. (default: 250 where codes are counted)",
    )
    add("--ablation", default="resample", choices=("resample", "mean", "zero"), help="What replaces a head's output.")
    add("--no-edges", action="store_true", help="Find heads only, and no edges between them.")
    add("--seed", type=whole(SEED), default=0, help="Seed of the task's prompts and of all draws.")
    add(
        "--out",
        metavar="FOLDER",
        help="Folder for circuit.html, .svg, .png and .json. (default: runs/circuit-TASK)",
    )
    return parser


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Prints warnings as they come, one line each, without the line of code that raised them."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"monosemy: {message}", file=sys.stderr)
        yield


# --- terminal ---------------------------------------------------------------------------------------------------------


def _print_tables(circuit: Circuit) -> None:
    """Prints the summary, and the tables of heads, edges and methods."""
    from rich.console import Console
    from rich.table import Table

    from monosemy.circuits.heads.page import (
        N_SHOWN,
        edge_rows,
        edges_heading,
        head_rows,
        heads_heading,
        method_heading,
        method_rows,
        summary,
    )

    console = Console()
    headline = visible(f"{circuit.task.name} on {circuit.model}: {circuit.accuracy}")
    console.print(headline, highlight=False, markup=False)
    console.print(
        f"{circuit.task.metric}: {rounded_text(circuit.m_clean)} on {circuit.n_prompts} prompts, "
        f"{rounded_text(circuit.m_corrupt)} on their counterparts; {summary(circuit)}",
        highlight=False,
    )
    table = Table(*heads_heading(circuit), title=f"heads by {circuit.heads.method}", title_justify="left")
    for row in head_rows(circuit):
        table.add_row(*row)
    console.print(table)
    if rows := edge_rows(circuit):
        measured = circuit.edges is not None
        title = "strongest edges" if measured else "strongest edges by codes that occur together"
        columns = slice(0, 3) if measured else slice(0, None)
        table = Table(*edges_heading(circuit)[columns], title=title, title_justify="left")
        for row in rows[:N_SHOWN]:
            table.add_row(*row[columns])
        console.print(table)
    if circuit.no_edges:
        console.print(f"no edges: {circuit.no_edges}", highlight=False)
    if circuit.skipped_layers:
        console.print(circuit.skipped_layers, highlight=False)
    if circuit.compared or circuit.published:
        table = Table(*method_heading(circuit), title="methods", title_justify="left")
        for row in method_rows(circuit):
            table.add_row(*row)
        console.print(table)
