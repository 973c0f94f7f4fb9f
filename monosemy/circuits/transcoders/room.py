"""What transcoders add to the program: settings, dictionaries to train, their names for readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monosemy.rooms import Room

if TYPE_CHECKING:
    from monosemy.circuits.transcoders.settings import TranscodersConfig


def trains_transcoders(settings: TranscodersConfig) -> bool:
    """Whether a run with these settings trains transcoders."""
    return bool(settings.architectures)


ROOM = Room(
    name="transcoders",
    settings="monosemy.circuits.transcoders.settings:TranscodersConfig",
    takes_part=trains_transcoders,
    requirements="monosemy.circuits.transcoders.requirements:REQUIREMENTS",
    units="monosemy.circuits.transcoders.build:build_transcoders",
    planned_units="monosemy.circuits.transcoders.build:planned_transcoders",
    labels={"transcoder_": "Transcoder, ", "skip_transcoder_": "Skip transcoder, "},
)
