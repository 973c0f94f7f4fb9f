"""The features room: registers the commands that show, explain and export the features of latents."""

from __future__ import annotations

from monosemy.rooms import Command, Room

ROOM = Room(
    name="features",
    commands=(
        Command(
            "show",
            "show a latent's page in the terminal",
            "monosemy.features.commands:run_show",
            continues=False,
            purpose="read latents",
        ),
        Command(
            "explain",
            "have a chat model explain latents, and score the explanations",
            "monosemy.features.explain.command:run_explain",
            purpose="read latents",
        ),
        Command(
            "export-html",
            "write a few latents as one HTML file that opens anywhere",
            "monosemy.features.commands:run_export_html",
            purpose="share and use published SAEs",
        ),
        Command(
            "export-neuronpedia",
            "write features in Neuronpedia's import or upload format",
            "monosemy.features.commands:run_export_neuronpedia",
            purpose="share and use published SAEs",
        ),
        Command(
            "export-circuit-tracer",
            "write features as circuit-tracer's frontend reads them",
            "monosemy.features.commands:run_export_circuit_tracer",
            purpose="share and use published SAEs",
        ),
        Command(
            "export-parquet",
            "write features as Parquet tables",
            "monosemy.features.commands:run_export_parquet",
            purpose="share and use published SAEs",
        ),
    ),
)
