"""The steering room: registers the command `monosemy steer`."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="steering",
    commands=(
        Command(
            "steer",
            "write text with latents changed, beside the unchanged model and controls",
            "monosemy.steering.command:run_steer",
            continues=False,
            purpose="steer",
        ),
    ),
)
