"""What rooms add to the whole, so that the core needs to know none of them.

A room is a folder of the package with a module `room` that holds one `ROOM`. The core reads the list `ROOMS` and asks
each room for what it adds: commands, a section of a run's settings, work in the stages of a run, a section of the
report. Whatever is slow to import is given as `module:name` and loaded when it is first needed. `monosemy --help`
imports this module and every `room.py`, so they hold named tuples: `dataclasses` alone takes a tenth of its time.

A new room is a line in `ROOMS` and its own `room.py`; `circuits/jacobian/room.py` shows all that one can add.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

ROOMS = (
    "monosemy.features.room",
    "monosemy.app.room",
    "monosemy.steering.room",
    "monosemy.circuits.jacobian.room",
    "monosemy.circuits.heads.room",
)
"""The modules that hold a `ROOM`, in the order in which commands and report sections appear."""


class Command(NamedTuple):
    """`monosemy NAME …`."""

    name: str
    summary: str
    """One line of `monosemy --help`."""
    function: str | Callable[[list[str]], object]
    """It takes the words after the command's name; as `module:function` it is loaded when the command runs."""
    continues: bool = True
    """Whether the same command, given again after an interruption, goes on from what was done."""

    def run(self, words: list[str]) -> None:
        function = load(self.function) if isinstance(self.function, str) else self.function
        function(words)


def _asks_for_nothing(settings: Any) -> bool:
    return False


class Room(NamedTuple):
    """What one room adds; everything but the name may be left out."""

    name: str
    """Also the name of its section in run.json and in front of its flags (`--jacobian.layer`)."""
    commands: tuple[Command, ...] = ()
    settings: str = ""
    """`module:class`, a frozen dataclass whose defaults ask for nothing: the room's section of `config.RunConfig`."""
    takes_part: Callable[[Any], bool] = _asks_for_nothing
    """Whether a run with these settings asks for anything of the room's. Where it does not, the settings leave the
    run's identity alone, so that a new room does not make strangers of old runs."""
    requirements: str = ""
    """`module:object`, a `pipeline.requirements.Requirements`: what must hold, and fit, before such a run begins."""
    units: str = ""
    """`module:function` from a `pipeline.prepare.Prepared` to the `training.trainer.JoinedUnit`s that the trainer
    steps beside the single SAEs of such a run."""
    report: str = ""
    """`module:function` from a run folder to a `report.sections.Section`, or None where there is nothing to report."""
    labels: Mapping[str, str] = MappingProxyType({})
    """How the names of its SAEs begin → what readers see instead: `jsae_0.2` is shown as `Pair, λ = 0.2`."""


@functools.cache
def rooms() -> tuple[Room, ...]:
    """Every room, in order."""
    return tuple(importlib.import_module(name).ROOM for name in ROOMS)


def load(place: str) -> Any:
    """The object at `module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
