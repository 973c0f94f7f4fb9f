"""What the search for circuits of attention heads adds to the program: a command."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="heads",
    commands=(
        Command(
            "circuits",
            "find the attention heads and edges that carry a behaviour, with intervals and a drawing",
            "monosemy.circuits.heads.command:run_circuits",
            continues=False,
            purpose="circuits",
        ),
    ),
)
