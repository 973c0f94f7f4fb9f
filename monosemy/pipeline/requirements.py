"""What a room that takes part in a run asks of it, before anything is loaded.

Place on the path: settings → [checks, with the requirements of the rooms that take part] → the stages. A room names its
own in `Room.requirements`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from monosemy.config import RunConfig, taking_part
from monosemy.rooms import load
from monosemy.support.estimates import Cost, ModelSize


class Requirements(Protocol):
    """Of one room, for a run that it takes part in."""

    def architectures(self, config: RunConfig) -> Sequence[str]:
        """The architectures of its own SAEs; where there are any, `config.architectures` may be empty."""
        ...

    def check(self, config: RunConfig) -> None:
        """Raises UserError for settings that cannot work. Opens nothing; ranges of numbers are checked before."""
        ...

    def cost(self, config: RunConfig, model: ModelSize) -> Cost:
        """What its work takes beside that of the single SAEs."""
        ...


def requirements_of(config: RunConfig) -> list[Requirements]:
    """Those of every room that takes part in the run."""
    return [load(room.requirements) for room in taking_part(config) if room.requirements]
