"""What a command is about: a run folder, or an SAE, for which a run is found or made.

Place on the data's path: words of the command line → [a run folder, and one of its SAEs] → the command. An SAE's model,
site and text are given by the flags that, for a run, say where its model and text have been moved.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from monosemy.config import TextConfig
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.ranges import Range
from monosemy.rooms import load
from monosemy.support import ranks
from monosemy.support.arguments import amount
from monosemy.support.moved import Kind, Moved

_RUN_OF_SAE = "monosemy.pipeline.sae_runs:run_of_sae"
_SETTINGS = "monosemy.pipeline.imported:ImportSettings"
# Named as text, as commands are: the pipeline stands above what reads a run.

_MOVED: tuple[Kind, ...] = ("model", "text", "rows")


@dataclass(frozen=True)
class Subject:
    """The run that a command is about."""

    folder: Path
    sae: str | None
    """`SITE/NAME` of the SAE that was named, by itself or as one of the run; None where none was."""
    moved: Moved


def add_subject(parser: argparse.ArgumentParser, *, rows: bool = False, several: bool = False) -> None:
    """Adds the run or SAE, and the flags of its model, site and text; `rows` where the command reads activations.

    `several` takes one or more, each of which is then opened by itself.
    """
    about = "A run folder, or an SAE (its folder, file or name on the hub), e.g. runs/demo."
    parser.add_argument("run", nargs="+" if several else None, help=about)
    group = parser.add_argument
    group(
        "--model",
        "--model.source",
        dest="moved_model",
        metavar="MODEL",
        default="",
        help="Of an SAE: its model. (default: the one it names) Of a run: where its model is now, if it was moved.",
    )
    group(
        "--text",
        "--text.source",
        dest="moved_text",
        metavar="TEXT",
        default="",
        help="Of an SAE: the text to read. (default: embedded) Of a run: where its text is now, if it was moved.",
    )
    group("--site", default="", help="Of an SAE: the site that it reads. (default: the one it names)")
    for flag, default in (("n-tokens", TextConfig.n_tokens), ("n-validation-tokens", TextConfig.n_validation_tokens)):
        use = "features" if flag == "n-tokens" else "evaluation"
        group(
            f"--text.{flag}",
            type=amount(Range(1, example=default)),
            help=f"Of an SAE: tokens of the text for {use}. (default: {default})",
        )
    if rows:
        group(
            "--activations",
            "--rows.source",
            dest="moved_rows",
            metavar="NEWPATH",
            default="",
            help="Of a run: where its file of activations is now, if it was moved.",
        )


def open_subject(options: argparse.Namespace, *, moved: tuple[Kind, ...] = _MOVED) -> Subject:
    """The run that the words name. `moved` are the kinds whose present place the command can use.

    Raises UserError for flags that do not belong to what was named, and as the import of an SAE does.
    """
    path = Path(options.run).expanduser()
    label = getattr(options, "sae", None)
    places = {kind: getattr(options, f"moved_{kind}", "") for kind in _MOVED}
    sizes = {
        name: value
        for name in ("n_tokens", "n_validation_tokens")
        if (value := getattr(options, f"text.{name}", None)) is not None
    }
    if RunFiles(path).run_json.is_file():
        own = {"site": options.site, **{f"text.{name}": value for name, value in sizes.items()}}
        own |= {kind: place for kind, place in places.items() if kind not in moved}
        for flag in (flag for flag, value in own.items() if value):
            raise UserError(
                f"--{flag.replace('_', '-')} says what an SAE without a run reads, and {options.run} is a run that has "
                "its own; leave it out"
            )
        return Subject(path, label, Moved(**places))
    if label:
        raise UserError(f"--sae chooses among the SAEs of a run, but {options.run!r} is none; leave it out")
    settings = load(_SETTINGS)(model=places["model"], site=options.site, text=places["text"], **sizes)
    folder, sae = load(_RUN_OF_SAE)(options.run, settings)
    if ranks.is_first():
        print(f"run: {folder}, with the SAE as {sae}", file=sys.stderr)
    return Subject(folder, sae, Moved())
