"""An attribution graph as its page reads it, with labels and contexts from the features of the run's transcoders.

Place on the path: page.json, feature databases → [graph_data] → the server's routes and the exported page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.app.pages import latent_page
from monosemy.circuits.graphs.layout import GraphFiles
from monosemy.circuits.graphs.page_data import read_page_data

N_CONTEXTS, WINDOW = 5, 12
"""Contexts of a latent, and their tokens on each side of the peak."""


def graph_page(catalogue: Catalogue, target: GraphFiles) -> dict[str, Any]:
    """One graph with the labels of its latents (`graph_schema.GraphPage`)."""
    data = bare_page(target)
    saes, nodes = transcoder_entries(catalogue, data), data["nodes"]
    labels = nodes["label"]
    for layer, sae in saes.items():
        places = [
            i for i, node_layer in enumerate(nodes["layer"]) if node_layer == layer and nodes["kind"][i] == "latent"
        ]
        for i, label in zip(places, sae.labels([nodes["number"][i] for i in places]), strict=True):
            labels[i] = label
    data["with_features"] = [layer for layer, sae in saes.items() if sae.database is not None]
    return data


def bare_page(target: GraphFiles) -> dict[str, Any]:
    """One graph without labels."""
    data = read_page_data(target)
    data["nodes"]["label"] = [""] * len(data["nodes"]["kind"])
    return data | {"name": target.folder.name, "with_features": []}


def transcoder_entries(catalogue: Catalogue, data: Mapping[str, Any]) -> dict[int, Dictionary]:
    """The transcoders of a graph that the run still has, by layer."""
    by_key = {(sae.site, sae.name): sae for sae in catalogue.saes()}
    places = {int(entry["layer"]): (entry["site"], entry["name"]) for entry in data["transcoders"]}
    return {layer: by_key[place] for layer, place in places.items() if place in by_key}


def latent_contexts(sae: Dictionary | None, latent: int) -> dict[str, Any]:
    """The strongest contexts of a latent (`graph_schema.GraphContexts`); none without features."""
    if sae is None or sae.database is None:
        return {"examples": [], "max": None}
    page = latent_page(sae, latent, WINDOW)
    examples = [example for example in page["examples"] if example["group"] == "top"][:N_CONTEXTS]
    return {"examples": examples, "max": page["stats"].get("max")}
