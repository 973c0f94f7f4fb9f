"""The page of an attribution graph as one HTML file that opens anywhere, offline, without the run and its server.

Place on the path: page.json, and labels and contexts of the run's features where it has some → [HTML] → a browser.
The file holds the pages' own drawing code (static/graph.js) and style, which its security policy names, and the graph
as data; it loads nothing. Contexts go with the latents that the graph's own pruning keeps. Editing nodes, which needs
the model, is left out, and the page says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monosemy.app.assets import FOLDER
from monosemy.app.catalogue import Catalogue
from monosemy.app.graph_data import bare_page, graph_page, latent_contexts, transcoder_entries
from monosemy.circuits.graphs.layout import GraphFiles
from monosemy.errors import UserError
from monosemy.support import files
from monosemy.support.html import Html, document
from monosemy.support.visible import json_line

GENERATOR = "monosemy graph"


def export_graph(target: GraphFiles, out: Path, run: Path | None) -> Path:
    """Writes the page of a saved graph and returns its path; labels and contexts are those of `run`, if any.

    Raises UserError when `out` is a file that this command did not make, or cannot be written.
    """
    if out.exists():
        with out.open("rb") as file:
            ours = GENERATOR.encode() in file.read(4096)
        if not ours:
            raise UserError(f"--html {out} exists and was not made by monosemy graph; give another name or delete it")
    catalogue = None if run is None else Catalogue(run)
    data = bare_page(target) if catalogue is None else graph_page(catalogue, target)
    files.write_text(out, graph_document(data, catalogue))
    return out


def graph_document(data: dict[str, Any], catalogue: Catalogue | None) -> str:
    """The HTML of a graph (`graph_schema.GraphPage`), with contexts from the catalogue's features."""
    contexts = {} if catalogue is None else _contexts(data, catalogue)
    content = json_line(data | {"contexts": contexts}).replace("<", "\\u003c")
    body = Html('<div id="app"></div><script id="graph" type="application/json">{}</script>').format(Html(content))
    return document(
        "support/html/frame.html",
        title=data["prompt"],
        style=(FOLDER / "app.css").read_text(encoding="utf-8"),
        script=(FOLDER / "graph.js").read_text(encoding="utf-8"),
        generator=GENERATOR,
        skip="Skip to the graph",
        lede=Html("<p>Attribution graph of {}, made by monosemy.</p>").format(data["model"]),
        body=body,
        foot="",
    )


def _contexts(data: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Contexts and largest activation by node, for the latents that the graph's own share keeps."""
    saes, nodes = transcoder_entries(catalogue, data), data["nodes"]
    contexts: dict[str, Any] = {}
    for i, kind in enumerate(nodes["kind"]):
        if kind == "latent" and nodes["before"][i] < data["node_share"] and nodes["layer"][i] in saes:
            contexts[str(i)] = latent_contexts(saes[nodes["layer"][i]], nodes["number"][i])
    return contexts
