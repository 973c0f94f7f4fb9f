"""The publishing room: registers the commands that find published SAEs, and publish one for other libraries."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="publishing",
    commands=(
        Command(
            "catalogue",
            "list families of published SAEs, and how to open one",
            "monosemy.publishing.catalogue:run_catalogue",
            continues=False,
            purpose="share and use published SAEs",
        ),
        Command(
            "export",
            "write an SAE as sae-lens and other libraries read it",
            "monosemy.publishing.commands:run_export",
            continues=False,
            purpose="share and use published SAEs",
        ),
        Command(
            "push",
            "put an SAE on the Hugging Face hub, with a card",
            "monosemy.publishing.commands:run_push",
            continues=False,
            purpose="share and use published SAEs",
        ),
    ),
)
