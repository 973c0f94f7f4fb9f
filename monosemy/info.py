"""`monosemy info`: what is here, what a run holds, and the options of an architecture.

Place on the path: the command line → registry, recipes or a run's folder → text. Loads no weights.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from monosemy import __version__
from monosemy.cli import commands
from monosemy.errors import UserError, unknown
from monosemy.support.arguments import Parser

_COMPUTED = {"learning_rate": "chosen from the width of the activations and the batch size"}
"""Options without a fixed default, and where their value comes from."""


def run_info(words: list[str]) -> None:
    """`monosemy info [RUN | ARCHITECTURE]`: prints what is here, a run's settings, or an architecture's options."""
    parser = Parser(
        "monosemy info", commands()["info"].summary, examples=("monosemy info jumprelu", "monosemy info runs/demo")
    )
    parser.add_argument(
        "subject",
        nargs="?",
        metavar="what",
        help="A run folder (its settings and SAEs) or an architecture (its options).",
    )
    subject = parser.parse_args(words).subject
    from monosemy.recipes import RECIPES
    from monosemy.run import machine, near_runs, versions
    from monosemy.saes.registry import ARCHITECTURES

    if subject in ARCHITECTURES:
        _print_architecture(subject)
    elif subject and Path(subject).expanduser().is_dir():
        _print_run(Path(subject).expanduser())
    elif subject:
        if near := near_runs(Path(subject)):
            raise UserError(f"{subject} is neither a run folder nor an architecture; {near.rstrip('; ')}")
        raise unknown("run folder or architecture", subject, ARCHITECTURES)
    else:
        print(f"monosemy {__version__} on {machine()}")
        others = (f"{name} {version}" for name, version in versions().items() if name != "monosemy")
        print("with " + ", ".join(others))
        print("\narchitectures (monosemy info NAME lists the options of one)")
        print("  " + ", ".join(ARCHITECTURES))
        print("\nrecipes (monosemy train NAME)")
        for name, make in RECIPES.items():
            print(f"  {name:12s} {(make.__doc__ or '').strip()}")


def _print_run(folder: Path) -> None:
    from monosemy.report.terminal import run_lines
    from monosemy.run import require_weights

    print("\n".join(run_lines(folder)))
    require_weights(folder)


def _print_architecture(name: str) -> None:
    """Prints an architecture's module docstring, which describes it to users as well, and its options."""
    from monosemy.saes.registry import architecture

    cls = architecture(name)
    print((sys.modules[cls.__module__].__doc__ or "").strip())
    fields, preset = dataclasses.fields(cls.Options), cls.presets.get(name, {})
    defaults = {field.name: preset.get(field.name, field.default) for field in fields}
    example, value = next((name, value) for name, value in defaults.items() if value is not None)
    print("\noptions, with their defaults; set one by, e.g.:")
    print(f"  monosemy train quick --{name}.{example.replace('_', '-')} {value}\n")
    for option, value in defaults.items():
        text = repr(value) if value is not None else _COMPUTED.get(option, "not set")
        print(f"  {name}.{option} = {text}")
