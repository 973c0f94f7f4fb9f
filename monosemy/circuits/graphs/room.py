"""What attribution graphs add to the program: a command."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="graphs",
    commands=(
        Command(
            "graph",
            "draw what computes what on a prompt, from tokens over transcoders' latents to logits, and check it",
            "monosemy.circuits.graphs.command:run_graph",
            continues=False,
            purpose="circuits",
        ),
    ),
)
