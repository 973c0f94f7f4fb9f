"""The requirements that rooms have for a run they take part in, known before anything is loaded.

Place on the path: settings → [checks, with the requirements of the rooms that take part] → the stages. A room names its
own requirements in `Room.requirements`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from monosemy.config import RunConfig, taking_part
from monosemy.rooms import load
from monosemy.support.estimates import Cost, ModelSize


class Requirements(Protocol):
    """The requirements of one room for a run that it takes part in."""

    def architectures(self, config: RunConfig) -> Sequence[str]:
        """The architectures of the room's own SAEs. If there are any, `config.architectures` may be empty."""
        ...

    def check(self, config: RunConfig) -> None:
        """Raises UserError for settings that cannot work. Opens no file; ranges of numbers were checked before."""
        ...

    def cost(self, config: RunConfig, model: ModelSize) -> Cost:
        """The resources that the room needs in addition to those of the run's own SAEs."""
        ...


def requirements_of(config: RunConfig) -> list[Requirements]:
    """The requirements of every room that takes part in the run."""
    return [load(room.requirements) for room in taking_part(config) if room.requirements]
