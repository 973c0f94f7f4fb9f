"""The attribution graphs of a run: their list, one graph with labels, its files, and edits of it in the real model.

Place on the path: RUN/graphs, feature databases → [graphs] → the pages `/graphs` and `/graph/NAME`. An address names a
graph by its folder's name, which is looked up among the run's graphs and never becomes part of a path.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from monosemy.app.answers import answer, body_of
from monosemy.app.catalogue import Catalogue, NotFoundError
from monosemy.app.graph_data import graph_page, latent_contexts, transcoder_entries
from monosemy.app.graph_export import graph_document
from monosemy.app.graph_schema import GraphContexts, GraphEdits, GraphIntervention, GraphList, GraphPage
from monosemy.app.live import LiveModel
from monosemy.app.openapi import described
from monosemy.circuits.graphs.layout import GraphFiles, graphs_of_run, slug_of
from monosemy.circuits.graphs.page_data import read_neuronpedia, read_page_data
from monosemy.errors import UserError
from monosemy.support.numbers import setting_text

if TYPE_CHECKING:
    from monosemy.circuits.graphs.transcoders import Transcoder

MAX_EDITS = 32
MAX_FACTOR = 100
N_TOKENS = 12
"""Likeliest tokens listed before and after an intervention, beside the graph's own logits."""
_ATTACHMENT = {"html": "text/html; charset=utf-8", "json": "application/json"}


def graph_files(catalogue: Catalogue, name: str) -> GraphFiles:
    """The files of the graph with this name. Raises NotFoundError, which lists the names that exist."""
    graphs = {target.folder.name: target for target in graphs_of_run(catalogue.folder)}
    if name not in graphs:
        names = ", ".join(list(graphs)[:12]) or "none yet"
        raise NotFoundError(f"this run has no graph {name[:60]!r}; it has: {names}")
    return graphs[name]


def graph_list(catalogue: Catalogue) -> dict[str, Any]:
    """The graphs of the run (`graph_schema.GraphList`), the newest first; a damaged one is listed with its problem."""
    rows = []
    for target in graphs_of_run(catalogue.folder):
        row: dict[str, Any] = {"name": target.folder.name, "written": target.page.stat().st_mtime, "problem": ""}
        try:
            data = read_page_data(target)
            row |= {key: data[key] for key in ("prompt", "n_latents", "replacement", "completeness")}
            row["n_tokens"] = len(data["tokens"])
        except (UserError, KeyError) as error:
            row |= {"prompt": target.folder.name, "n_latents": 0, "replacement": None, "completeness": None}
            row |= {"n_tokens": 0, "problem": str(error)}
        rows.append(row)
    return {"graphs": sorted(rows, key=lambda row: -float(row["written"]))}


def edit_graph(live: LiveModel, target: GraphFiles, body: GraphEdits) -> dict[str, Any]:
    """What edits do to the next token (`graph_schema.GraphIntervention`). Blocks, so run it in a thread.

    Raises UserError for no edits, too many, a factor that is not a number within ±100, and an edited node that is no
    latent of the graph; ModelError and BusyError.
    """
    if not 1 <= len(body.edits) <= MAX_EDITS:
        raise UserError(f"an intervention takes 1 to {MAX_EDITS} edits, got {len(body.edits)}")
    data = read_page_data(target)
    nodes, n_nodes = data["nodes"], len(data["nodes"]["kind"])
    for edit in body.edits:
        if not (math.isfinite(edit.factor) and abs(edit.factor) <= MAX_FACTOR):
            raise UserError(
                f"factor must be a number from −{MAX_FACTOR} to {MAX_FACTOR}, got {setting_text(edit.factor)}"
            )
        if not 0 <= edit.node < n_nodes or nodes["kind"][edit.node] != "latent":
            raise UserError(f"node {edit.node} is no latent of this graph; edit latents alone")
    import torch

    from monosemy.circuits.graphs.intervention import LatentEdit, intervene
    from monosemy.circuits.graphs.prompt import token_pieces

    edits = [
        LatentEdit(
            nodes["layer"][edit.node],
            nodes["position"][edit.node],
            nodes["number"][edit.node],
            activation=nodes["activation"][edit.node],
            factor=edit.factor,
        )
        for edit in body.edits
    ]
    model = live.model()
    transcoders = _opened(live, data, {edit.layer for edit in edits})
    began = time.perf_counter()
    with live.passes():
        result = intervene(model, transcoders, torch.tensor(data["token_ids"]), edits, frozen=body.frozen)
    before, after = (logits.double().softmax(0) for logits in (result.before, result.after))
    own = [nodes["number"][i] for i in range(n_nodes) if nodes["kind"][i] == "logit"]
    likely = [*before.topk(N_TOKENS).indices.tolist(), *after.topk(N_TOKENS).indices.tolist()]
    ids = sorted(dict.fromkeys([*own, *likely]), key=lambda token: -max(float(before[token]), float(after[token])))
    change = (result.after - result.after.mean()) - (result.before - result.before.mean())
    return {
        "seconds": time.perf_counter() - began,
        "kl": float((before * (before.clamp_min(1e-300).log() - after.clamp_min(1e-300).log())).sum()),
        "tokens": [
            {
                "id": token,
                "text": text,
                "before": float(before[token]),
                "after": float(after[token]),
                "change": float(change[token]),
            }
            for token, text in zip(ids, token_pieces(model, ids), strict=True)
        ],
    }


def _opened(live: LiveModel, data: Mapping[str, Any], layers: set[int]) -> dict[int, Transcoder]:
    """The transcoders of some layers, loaded."""
    from monosemy.circuits.graphs.transcoders import read_transcoder

    saes = transcoder_entries(live.catalogue, data)
    if missing := sorted(layers - saes.keys()):
        raise NotFoundError(f"the run no longer has the transcoder of layer {missing[0]} that this graph was made with")
    return {layer: read_transcoder(live.model(), live.sae(saes[layer])) for layer in sorted(layers)}


def add_routes(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """Routes for the list of graphs, one graph, its downloads and its edits."""

    @app.get("/api/graphs", **described("The run's attribution graphs", answers=GraphList))
    async def graphs() -> Response:
        return answer(await asyncio.to_thread(graph_list, catalogue))

    @app.get("/api/graph/{name}", **described("One of them", answers=GraphPage))
    async def graph(name: str) -> Response:
        return answer(await asyncio.to_thread(graph_page, catalogue, graph_files(catalogue, name)))

    @app.get("/api/graph/{name}/contexts/{node}", **described("Contexts of a node's latent", answers=GraphContexts))
    async def contexts(name: str, node: int) -> Response:
        data = read_page_data(graph_files(catalogue, name))
        nodes = data["nodes"]
        if not 0 <= node < len(nodes["kind"]) or nodes["kind"][node] != "latent":
            raise NotFoundError(f"node {node} is no latent of this graph")
        sae = transcoder_entries(catalogue, data).get(nodes["layer"][node])
        return answer(latent_contexts(sae, nodes["number"][node]))

    @app.get("/api/graph/{name}/html", **described("The graph as one page", answers="HTML", media_type="text/html"))
    async def html(name: str) -> Response:
        target = graph_files(catalogue, name)
        page = await asyncio.to_thread(lambda: graph_document(graph_page(catalogue, target), catalogue))
        return _download(page.encode(), f"{slug_of(name)}.html", "html")

    @app.get("/api/graph/{name}/neuronpedia", **described("The graph in Neuronpedia's form", answers="JSON"))
    async def neuronpedia(name: str) -> Response:
        target = graph_files(catalogue, name)
        return _download(read_neuronpedia(target), f"{slug_of(name)}.json", "json")

    @app.post(
        "/api/graph/{name}/edit",
        **described("Runs the model with nodes edited", body=GraphEdits, answers=GraphIntervention),
    )
    async def edit(request: Request, name: str) -> Response:
        target, body = graph_files(catalogue, name), await body_of(GraphEdits, request)
        return answer(await asyncio.to_thread(edit_graph, model, target, body))


def _download(content: bytes, name: str, kind: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=_ATTACHMENT[kind], headers=headers)
