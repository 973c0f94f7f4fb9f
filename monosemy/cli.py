"""The command line: `monosemy COMMAND …`; `commands` lists them, those of the rooms (`rooms.Room`) included.

Bad input ends in one line on standard error and status 2; an interrupted training run saves a checkpoint and ends with
status 130. Imports are lazy, so that `--help` answers at once: the commands of a run are in `commands`, and each room
has its own.
"""

from __future__ import annotations

import functools
import io
import os
import sys

from monosemy import __version__
from monosemy.errors import Interrupted, UserError, unknown
from monosemy.rooms import Command, rooms


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exits with 0, 2 (bad input), 130 (interrupted, checkpoint written) or 141 (nobody reads on)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its notices on slower paths are no news of ours
    # Threads that wait sleep rather than spin: as fast on a free machine, many times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no name of a file or token may end a command that did its work
            stream.reconfigure(errors="backslashreplace")
    try:
        dispatch(words)
    except UserError as error:
        from monosemy.support.visible import visible

        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        command = commands().get(words[0]) if words else None
        continues = "; run the same command to continue" if command and command.continues else ""
        print(f"interrupted{continues}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `monosemy … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Interrupted as error:
        print(f"{error}; run the same command to continue", file=sys.stderr)
        sys.exit(130)


def dispatch(words: list[str]) -> None:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        listed = "\n".join(f"  {name:23s}{command.summary}" for name, command in commands().items())
        print(f"usage: monosemy COMMAND …\n\n{listed}\n\nmonosemy COMMAND --help tells more; version {__version__}")
        return
    if words[0] == "--version":
        print(__version__)
        return
    if words[0] not in commands():
        raise unknown("command", words[0], commands())
    commands()[words[0]].run(words[1:])


@functools.cache
def commands() -> dict[str, Command]:
    """Every command by its name, in the order of `monosemy --help`."""
    of_rooms = [command for room in rooms() for command in room.commands]
    return {command.name: command for command in (*RUN_COMMANDS, *of_rooms, INFO)}


RUN_COMMANDS = (
    Command(
        "demo",
        "train and compare 15 SAEs on SmolLM2-135M, offline; ends with a table and a report",
        "monosemy.commands:run_demo",
    ),
    Command(
        "train",
        "train, evaluate and report a run: a recipe or run.json, and flags that override it",
        "monosemy.commands:run_train",
    ),
    Command("evaluate", "measure the SAEs of a run on validation documents", "monosemy.commands:run_evaluate"),
    Command("report", "write a run's report.html and figures again", "monosemy.commands:run_report"),
    Command(
        "features",
        "find out what the latents of an SAE respond to: contexts, labels, neighbours",
        "monosemy.commands:run_features",
    ),
)
INFO = Command(
    "info", "what is here: architectures and their options, recipes, a run's settings", "monosemy.commands:run_info"
)

if __name__ == "__main__":
    main()
