"""The command line, `monosemy COMMAND …`; `commands` lists the commands, including those of the rooms (`rooms.Room`).

Bad input ends with one line on standard error and status 2. An interrupted training run saves a checkpoint and ends
with status 130. Imports are lazy, so that `--help` answers at once: the commands of a run are in `commands.py`, and
each room has its own.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from typing import NoReturn

from monosemy import __version__
from monosemy.errors import Interrupted, UserError, unknown
from monosemy.rooms import PURPOSES, Command, rooms


def main(arguments: list[str] | None = None) -> None:
    """The entry point. Exits with 0, 2 (bad input), 130 (interrupted) or 141 (the reader of its output is gone)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Set before torch and transformers are imported, which read these variables once.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its notices on slower paths do not concern users
    # Waiting threads sleep instead of spinning: as fast on a free machine, and many times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        # The name of a file or a token that the terminal cannot encode must not end a command that did its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        dispatch(words)
    except UserError as error:
        from monosemy.support import ranks
        from monosemy.support.visible import visible

        if (line := ranks.speaks(error)) is not None:
            print(f"error: {visible(line)}", file=sys.stderr)
        ranks.end(ranks.status_of(error))
    except KeyboardInterrupt:
        command = commands().get(words[0]) if words else None
        continues = "; run the same command to continue" if command and command.continues else ""
        _end_interrupted(f"interrupted{continues}")
    except BrokenPipeError:  # `monosemy … | head`: the reader has ended
        # Python flushes standard output at exit; into the closed pipe, that would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Interrupted as error:
        _end_interrupted(str(error))


def _end_interrupted(line: str) -> NoReturn:
    from monosemy.support import ranks

    # One of several processes is also interrupted when another one has failed, which then has said why.
    if ranks.speaks_of_interruption():
        print(line, file=sys.stderr)
    ranks.end(130)


def dispatch(words: list[str]) -> None:
    """Runs the command that the words name, or prints help or version. Raises UserError for an unknown command."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: monosemy COMMAND …\n\n{_grouped()}\n\nmonosemy COMMAND --help tells more; version {__version__}")
        return
    if words[0] == "--version":
        print(__version__)
        return
    if words[0] not in commands():
        raise unknown("command", words[0], commands())
    commands()[words[0]].run(words[1:])


def _grouped() -> str:
    """The commands with their summaries, under what one wants of them."""
    groups = []
    for purpose in PURPOSES:
        own = [command for command in commands().values() if command.purpose == purpose]
        if own:
            groups.append("\n".join([purpose, *(f"  {command.name:23s}{command.summary}" for command in own)]))
    return "\n\n".join(groups)


@functools.cache
def commands() -> dict[str, Command]:
    """All commands by name, in the order of `monosemy --help`."""
    of_rooms = [command for room in rooms() for command in room.commands]
    return {command.name: command for command in (*RUN_COMMANDS, *of_rooms, INFO)}


RUN_COMMANDS = (
    Command(
        "try",
        "look at the first latents of SmolLM2-135M within minutes, offline; demo goes on from there",
        "monosemy.commands:run_try",
        purpose="start",
    ),
    Command(
        "demo",
        "compare 15 SAEs and 3 controls on SmolLM2-135M, offline; shows the first latents within minutes",
        "monosemy.commands:run_demo",
        purpose="start",
    ),
    Command(
        "train",
        "train, evaluate and report a run: a recipe or run.json, and flags that override it",
        "monosemy.commands:run_train",
        purpose="train and measure",
    ),
    Command(
        "plan",
        "say before a run starts what memory, disk and time it needs, and what to change if it does not fit",
        "monosemy.commands:run_plan",
        continues=False,
        purpose="train and measure",
    ),
    Command(
        "evaluate",
        "measure the SAEs of a run on validation documents",
        "monosemy.commands:run_evaluate",
        purpose="train and measure",
    ),
    Command(
        "import",
        "make a published SAE a run, or add it to one, to measure and show it beside others",
        "monosemy.commands:run_import",
        continues=False,
        purpose="share and use published SAEs",
    ),
    Command(
        "report",
        "write a run's report.html and figures again",
        "monosemy.commands:run_report",
        purpose="train and measure",
    ),
    Command(
        "features",
        "find out what the latents of an SAE respond to: examples, labels, neighbours",
        "monosemy.commands:run_features",
        purpose="read latents",
    ),
)
INFO = Command(
    "info",
    "say what is here: architectures and their options, recipes, a run's settings",
    "monosemy.info:run_info",
    purpose="train and measure",
)

if __name__ == "__main__":
    main()
