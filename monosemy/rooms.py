"""Rooms: parts of the package that add to the core without the core knowing them.

A room is a folder of the package with a module `room` that defines a `ROOM`. The core reads the list `ROOMS` and asks
each room what it adds: commands, a section of a run's settings, work in the stages of a run, a section of the report.
Objects that are slow to import are given as `module:name` and loaded when first needed. `monosemy --help` imports this
module and every `room.py`, so they use named tuples: importing `dataclasses` alone takes a tenth of its time.

Adding a room takes a line in `ROOMS` and a `room.py`; `circuits/jacobian/room.py` shows everything that one can add.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

ROOMS = (
    "monosemy.rows.room",
    "monosemy.features.room",
    "monosemy.app.room",
    "monosemy.steering.room",
    "monosemy.serving.room",
    "monosemy.publishing.room",
    "monosemy.circuits.transcoders.room",
    "monosemy.circuits.jacobian.room",
    "monosemy.circuits.heads.room",
    "monosemy.circuits.graphs.room",
)
"""The modules that define a `ROOM`, in the order in which commands and sections of the report appear."""


PURPOSES = ("start", "train and measure", "read latents", "steer", "circuits", "share and use published SAEs", "more")
"""What people want of commands: the groups of `monosemy --help`, in its order."""


class Command(NamedTuple):
    """A command of the command line, `monosemy NAME …`."""

    name: str
    summary: str
    """Its line in `monosemy --help`."""
    function: str | Callable[[list[str]], object]
    """A function of the words after the command's name; as `module:function`, it is loaded when the command runs."""
    continues: bool = True
    """Whether the same command, given again after an interruption, continues the work."""
    purpose: str = "more"
    """Its group in `monosemy --help`, one of `PURPOSES`."""

    def run(self, words: list[str]) -> None:
        function = load(self.function) if isinstance(self.function, str) else self.function
        function(words)


def _asks_for_nothing(settings: Any) -> bool:
    return False


class Room(NamedTuple):
    """A room's additions to the core; all fields except the name are optional."""

    name: str
    """The room's name, also that of its section in run.json and the prefix of its flags (`--jacobian.layer`)."""
    commands: tuple[Command, ...] = ()
    settings: str = ""
    """`module:class` of a frozen dataclass, the room's section of `config.RunConfig`; its defaults ask for nothing."""
    takes_part: Callable[[Any], bool] = _asks_for_nothing
    """Whether a run with these settings uses the room. If not, the settings do not enter the run's identity, so that
    existing runs keep theirs when a room is added."""
    requirements: str = ""
    """`module:object` of a `pipeline.requirements.Requirements`: what must hold before a run with the room begins."""
    activations: str = ""
    """`module:function` from an open `run.Run` to the `pipeline.training_data.TrainingData` that takes the place of the
    activations of a model and a text."""
    features: str = ""
    """`module:function` from these activations and a `pipeline.feature_source.FeatureRequest` to the `FeatureSource`
    that takes the place of the training text when features are built."""
    descriptive: tuple[str, ...] = ()
    """Names of settings of the room that change nothing that is computed: they do not enter the run's identity, and may
    change when a run is opened again."""
    units: str = ""
    """`module:function` from a `pipeline.prepare.Prepared` to the `training.trainer.JoinedUnit`s that the trainer
    steps beside the single SAEs of a run with the room."""
    planned_units: str = ""
    """`module:function` from the same to the (keys, cost) of each of these units before any is built: the (site, name)
    of its SAEs, and its step's cost as a multiple of theirs alone. `units` then builds those whose keys
    `TrainingData.trains`."""
    report: str = ""
    """`module:function` from a run folder to a `report.sections.Section`, or None when there is nothing to report."""
    labels: Mapping[str, str] = MappingProxyType({})
    """Prefixes of the names of its SAEs, with the text that readers see instead: `jsae_0.2` becomes `Pair, λ = 0.2`."""


@functools.cache
def rooms() -> tuple[Room, ...]:
    """Every room, in order."""
    return tuple(importlib.import_module(name).ROOM for name in ROOMS)


def load(place: str) -> Any:
    """The object at `module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
