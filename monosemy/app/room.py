"""The app room: registers the command `monosemy browse`."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="app",
    commands=(
        Command(
            "browse",
            "look at a run's latents in a web browser, offline: search, compare, test texts, steer",
            "monosemy.app.server:run_browse",
            continues=False,
            purpose="read latents",
        ),
    ),
)
