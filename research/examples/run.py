"""What the commands of README, docs/start.md and docs/steering.md print on the demo's run: the examples shown there.

Run: python -m research.examples.run runs/demo --log FILE [--only find bias]        # FILE: what `make demo` printed

Every command is run as it stands in the documents, in the folder above `runs/`, and what it prints is kept as it is; of
columns of text, the words without the lines of the table. What the documents show of it is cut in `tables.py`. The
latents to silence are those of the ablation study (research/steering/ablation.py), for the behaviour that it took
furthest.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.support.files import read_json
from research import common, run_folders
from research.records import ROOT, record_path

WIDTH = 94
"""Letters a line of the terminal: three columns of 28."""
N_LINES = 6
"""Lines of the columns' texts that are kept: what follows them says no more of the example."""
RUN = "runs/demo"
FIND = f'monosemy steer {RUN} --find Python function --prompt "How can I sleep better?"'
BIAS = f"monosemy bias {RUN} occupations.csv --words she he"
OCCUPATIONS = ROOT / "steering" / "occupations.csv"
LOG_LINES = {
    "tokenise": r"tokenise: .*took .*",
    "harvest": r"harvest: .*left in all",
    "training": r"training the first SAE: .*",
    "features": r"features: reading the text: .*took .*",
    "address": r"look at it now: .*",
}
"""Lines that the first minutes of the demo print; of each the first, of training the last."""


def printed(command: str, run: Path, names: dict[str, Path] | None = None) -> tuple[list[str], list[str]]:
    """(lines printed, lines said beside) by a command of the documents. `names`: files by the names they have there.

    Raises UserError where the command fails, with what it said last.
    """
    words = [str((names or {}).get(word, word)) for word in shlex.split(command)]
    folder = run.resolve().parents[1]
    words = [run.resolve().relative_to(folder).as_posix() if word == RUN else word for word in words]
    python = [sys.executable, "-c", "from monosemy.cli import main; main()", *words[1:]]
    environment = {**os.environ, "COLUMNS": str(WIDTH), "MONOSEMY_QUIET": "1", "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(python, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{command} ended with status {done.returncode}: {(done.stderr.splitlines() or [''])[-1]}")
    return done.stdout.splitlines(), done.stderr.splitlines()


def column_lines(lines: Sequence[str]) -> dict[str, list[list[str]]]:
    """The lines of the first table as their cells: its headings, and its texts to `N_LINES`."""
    cells: dict[str, list[list[str]]] = {"┃": [], "│": []}
    for line in lines:
        if line.startswith("└"):
            break
        if line[:1] in cells:
            cells[line[0]].append([cell.strip() for cell in line.split(line[0])[1:-1]])
    return {"headings": from_the_top(cells["┃"]), "texts": cells["│"][:N_LINES]}


def from_the_top(lines: list[list[str]]) -> list[list[str]]:
    """The lines of headings, which the terminal sets above the texts' first line, with each column begun at the top."""
    columns = [[cell for cell in column if cell] for column in zip(*lines, strict=True)]
    return [[column[i] if i < len(column) else "" for column in columns] for i in range(len(lines))]


def steered(command: str, run: Path) -> dict[str, Any]:
    """The columns that a steering command prints, and what it said of its search."""
    lines, notes = printed(command, run)
    of_search = [line for line in notes if " latents tried, " in line]
    return {"command": command, "said": of_search, **column_lines(lines)}


def find(run: Path, log: Path | None) -> dict[str, Any]:
    return steered(FIND, run)


def ablate(run: Path, log: Path | None) -> dict[str, Any]:
    """The steering command that silences the latents of the behaviour that fell most, on the study's own example."""
    study = read_json(record_path("steering", "ablation"))
    name, row = min(study["behaviours"].items(), key=lambda item: item[1]["change"]["mean"])
    edits = " ".join(f"--edit {entry['latent']}:ablate" for entry in row["latents"])
    plain = "" if row["chat"] else " --plain"
    prompt = f'{plain} --prompt "{row["example"]["prompt"]}" --tokens {study["n_tokens"]}'
    return {"behaviour": name, **steered(f"monosemy steer {RUN} {edits}{prompt}", run)}


def bias(run: Path, log: Path | None) -> dict[str, Any]:
    lines, _ = printed(BIAS, run, {OCCUPATIONS.name: OCCUPATIONS})
    return {"command": BIAS, "lines": [line.rstrip() for line in lines]}


def start(run: Path, log: Path | None) -> dict[str, Any]:
    """Lines of the demo's first minutes. Raises UserError without a log, or for one that lacks a line."""
    if log is None:
        raise UserError("the example of the demo's first minutes needs what it printed: --log FILE")
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = {}
    for name, pattern in LOG_LINES.items():
        matches = re.findall(rf"(?:^|\s)({pattern})\s*$", text, re.MULTILINE)
        if not matches:
            raise UserError(f"{log} has no line {pattern!r}; give what `monosemy demo` printed to a file")
        lines[name] = matches[-1 if name == "training" else 0]
    return {"lines": list(lines.values())}


EXAMPLES: dict[str, Callable[[Path, Path | None], dict[str, Any]]] = {
    "start": start,
    "find": find,
    "ablate": ablate,
    "bias": bias,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the demo's run folder")
    parser.add_argument("--log", type=Path, help="what the demo printed")
    parser.add_argument("--only", nargs="+", default=list(EXAMPLES), choices=list(EXAMPLES))
    parser.add_argument("--out", type=Path, default=record_path("examples"))
    options = parser.parse_args()
    record: dict[str, Any] = dict(read_json(options.out)) if options.out.exists() else {}
    for name in options.only:
        record[name] = EXAMPLES[name](options.run, options.log)
        print(f"{name}: done", flush=True)
        common.save(options.out, record)


if __name__ == "__main__":
    run_folders.run(main)
