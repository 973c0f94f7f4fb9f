"""The command-line flags of the commands that show and export features.

Place on the data's path: `cli.py` hands the words after the command's name to one of the `run_…` functions here.
Exporters are imported only when they are called, so that an error such as a missing latent appears at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from monosemy.features.room import ROOM
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import GROUPS
from monosemy.features.view.selection import open_selected, parse_latents
from monosemy.ranges import Range
from monosemy.run import require_weights
from monosemy.saes.listing import print_warnings, saved_saes
from monosemy.support.arguments import Parser, whole
from monosemy.support.subjects import Subject, add_subject, open_subject

SUMMARIES = {command.name: command.summary for command in ROOM.commands}
EXAMPLES = {
    "show": "runs/demo 12",
    "export-html": "runs/demo 12 40-45 --out latents.html",
    "export-neuronpedia": "runs/demo --out neuronpedia",
    "export-circuit-tracer": "runs/demo --out circuit-tracer",
    "export-parquet": "runs/demo --out tables",
}


def run_show(words: list[str]) -> None:
    """`monosemy show RUN LATENT [--sae SITE/NAME] [-n 6] [--group top …] [--whole]`"""
    parser = _parser("show")
    parser.add_argument("latent", type=whole(Range(0, example=12)), help="Number of the latent, from 0.")
    parser.add_argument(
        "-n",
        type=whole(Range(1, example=6)),
        default=6,
        help="Strongest examples at most, and a third as many of the others.",
    )
    parser.add_argument(
        "--group", action="append", choices=list(GROUPS), help="Show only this group of examples; may be repeated."
    )
    parser.add_argument("--whole", action="store_true", help="Show whole examples, uncut.")
    options = parser.parse_args(words)
    subject = open_subject(options, moved=())
    database = _database(subject)
    database.check(options.latent)
    from rich.console import Console

    from monosemy.features.view.show import latent_page

    # elsewhere than on a terminal: 100 columns whatever the caller's window, and plain text
    page = latent_page(
        database, options.latent, n=options.n, groups=options.group or tuple(GROUPS), whole=options.whole
    )
    if sys.stdout.isatty():
        Console(highlight=False).print(page)
    else:
        console = Console(file=io.StringIO(), width=100, highlight=False)
        with console.capture() as captured:
            console.print(page)
        _write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))  # rich pads lines
    require_weights(subject.folder, (database.info["site"], database.info["name"]))


def run_export_html(words: list[str]) -> None:
    """`monosemy export-html RUN LATENT … [--sae SITE/NAME] --out FILE.html [-n 8]`"""
    parser = _parser("export-html")
    parser.add_argument("latents", nargs="+", help="Numbers and ranges of latents, e.g. 12 40-45.")
    parser.add_argument("--out", required=True, metavar="FILE", help="The file to write, e.g. latents.html.")
    parser.add_argument("-n", type=whole(Range(1, example=8)), default=8, help="Examples in each group at most.")
    options = parser.parse_args(words)
    database = _open(options)
    from monosemy.features.export.html import export_html

    latents = parse_latents(options.latents, database)
    print(f"written: {export_html(database, latents, Path(options.out), n=options.n)}")


def run_export_neuronpedia(words: list[str]) -> None:
    """`monosemy export-neuronpedia RUN [LATENT …] [--sae SITE/NAME] --out FOLDER [--layout bulk|upload]
    [--model-id …] [--source-set …]`"""
    parser = _export_parser("export-neuronpedia")
    from monosemy.features.export.neuronpedia import CONTEXT, CREATOR, export_neuronpedia

    parser.add_argument(
        "--layout",
        choices=("bulk", "upload"),
        default="bulk",
        help="What to write: files for the site's importer, or bodies of its upload call.",
    )
    parser.add_argument("--context", type=whole(Range(1, example=32)), default=CONTEXT, help="Tokens in each example.")
    parser.add_argument("--model-id", metavar="NAME", help="The model's name on the site. (default: from the run)")
    parser.add_argument("--source-set", metavar="NAME", help="The set's name on the site. (default: from site and SAE)")
    parser.add_argument(
        "--creator-id", metavar="NAME", default=CREATOR, help="The user that the import is filed under."
    )
    options = parser.parse_args(words)
    database = _open(options)
    written = export_neuronpedia(
        database,
        Path(options.out),
        _latents(options, database),
        layout=options.layout,
        context=options.context,
        model=options.model_id,
        source_set=options.source_set,
        creator=options.creator_id,
    )
    print(f"written: {written}")


def run_export_circuit_tracer(words: list[str]) -> None:
    """`monosemy export-circuit-tracer RUN [LATENT …] [--sae SITE/NAME] --out FOLDER [--context 32]`"""
    parser = _export_parser("export-circuit-tracer")
    from monosemy.features.export.circuit_tracer import CONTEXT, export_circuit_tracer

    parser.add_argument("--context", type=whole(Range(1, example=32)), default=CONTEXT, help="Tokens in each example.")
    options = parser.parse_args(words)
    database = _open(options)
    written = export_circuit_tracer(database, Path(options.out), _latents(options, database), context=options.context)
    print(f"written: {written}")


def run_export_parquet(words: list[str]) -> None:
    """`monosemy export-parquet RUN [LATENT …] [--sae SITE/NAME] --out FOLDER`"""
    options = _export_parser("export-parquet").parse_args(words)
    database = _open(options)
    from monosemy.features.export.parquet import export_parquet

    print(f"written: {export_parquet(database, Path(options.out), _latents(options, database))}")


def _write(text: str) -> None:
    """Writes to standard output; a reader that stops early (`| head`) is not an error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit succeeds


def _parser(command: str) -> Parser:
    parser = Parser(f"monosemy {command}", SUMMARIES[command], examples=(f"monosemy {command} {EXAMPLES[command]}",))
    add_subject(parser)
    parser.add_argument("--sae", metavar="SITE/NAME", help="The SAE; needed when features of several are built.")
    return parser


def _open(options: argparse.Namespace) -> FeatureDatabase:
    """The feature database that the words name. Raises UserError as `open_selected` does."""
    return _database(open_subject(options, moved=()))


def _database(subject: Subject) -> FeatureDatabase:
    database = open_selected(subject.folder, subject.sae)
    print_warnings(
        sae for sae in saved_saes(subject.folder) if sae.key == (database.info["site"], database.info["name"])
    )
    return database


def _export_parser(command: str) -> argparse.ArgumentParser:
    parser = _parser(command)
    parser.add_argument("latents", nargs="*", help="Numbers and ranges of latents, e.g. 12 40-45. (default: all)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="The folder to make; it must be new or empty.")
    return parser


def _latents(options: argparse.Namespace, database: FeatureDatabase) -> list[int] | None:
    return parse_latents(options.latents, database) if options.latents else None
