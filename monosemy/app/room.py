"""The app room: registers the commands `monosemy browse`, `trace` and `probe`."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="app",
    report="monosemy.app.report_section:read_section",
    commands=(
        Command(
            "browse",
            "look at a run's latents in a web browser, offline: search, compare, test texts, steer",
            "monosemy.app.server:run_browse",
            continues=False,
            purpose="read latents",
        ),
        Command(
            "trace",
            "show which latents fire in a text or a chat's transcript, compare two, export the evidence",
            "monosemy.app.trace_command:run_trace",
            continues=False,
            purpose="read latents",
        ),
        Command(
            "probe",
            "train a probe on a few latents from labelled texts, beside raw activations and a control",
            "monosemy.app.probe_command:run_probe",
            continues=False,
            purpose="read latents",
        ),
    ),
)
