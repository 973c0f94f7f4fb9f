"""The publishing room: registers the commands that write an SAE for other libraries, and put it on the hub."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="publishing",
    commands=(
        Command(
            "export",
            "write an SAE as sae-lens and other libraries read it",
            "monosemy.publishing.commands:run_export",
            continues=False,
        ),
        Command(
            "push",
            "put an SAE on the Hugging Face hub, with a card",
            "monosemy.publishing.commands:run_push",
            continues=False,
        ),
    ),
)
