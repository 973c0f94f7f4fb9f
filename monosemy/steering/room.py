"""The steering room: registers the commands `monosemy steer` and `monosemy bias`."""

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
        Command(
            "bias",
            "measure a bias on texts of your own, and what changing latents does to it",
            "monosemy.steering.bias_command:run_bias",
            continues=False,
            purpose="steer",
        ),
    ),
)
