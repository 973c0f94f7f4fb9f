"""The serving room: registers the command `monosemy serve`."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="serving",
    commands=(
        Command(
            "serve",
            "serve the model to OpenAI clients: steered by recipes, with latents and monitors in its answers",
            "monosemy.serving.command:run_serve",
            continues=False,
            purpose="steer",
        ),
    ),
)
