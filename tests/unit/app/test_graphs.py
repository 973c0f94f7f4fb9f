"""Attribution graphs over HTTP: the list, a graph against the graph itself, its files, edits in the real model."""

from __future__ import annotations

import json
import re

import pytest
import torch
from app_cases import Server, page_run
from graph_cases import TEXT
from graph_runs import GRAPH, LAYERS, NAME, graph_run

import monosemy
from monosemy.app import graph_schema
from monosemy.circuits.graphs.ablation import ablate
from monosemy.circuits.graphs.influence import prune
from monosemy.errors import UserError

BASE = f"/api/graph/{GRAPH}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return graph_run(tmp_path_factory.mktemp("graphs") / "run")


@pytest.fixture(scope="module")
def server(run):
    with Server(run) as running:
        yield running


@pytest.fixture(scope="module")
def graph(run):
    model = monosemy.load_model(str(run / "model"), device="cpu")
    return monosemy.attribute(model, run, TEXT, max_latents=60)


@pytest.fixture(scope="module")
def page(server):
    return server.get(BASE)


def check(kind, value):
    kind.model_validate_json(json.dumps(value))


def latents(page):
    return [i for i, kind in enumerate(page["nodes"]["kind"]) if kind == "latent"]


def test_answers_are_what_the_models_say(server, page):
    check(graph_schema.GraphPage, page)
    check(graph_schema.GraphList, server.get("/api/graphs"))
    check(graph_schema.GraphContexts, server.get(f"{BASE}/contexts/{latents(page)[0]}"))
    body = {"edits": [{"node": latents(page)[0], "factor": 0}]}
    check(graph_schema.GraphIntervention, server.send("POST", f"{BASE}/edit", body))


def test_graphs_are_listed_with_their_prompt(server):
    (entry,) = server.get("/api/graphs")["graphs"]
    assert (entry["name"], entry["prompt"], entry["n_tokens"]) == (GRAPH, TEXT, 14)
    assert server.get("/api/run")["has_graphs"] is True


def test_a_run_without_transcoders_has_no_graphs(tmp_path):
    with Server(page_run(tmp_path / "run")) as server:
        assert server.get("/api/run")["has_graphs"] is False
        assert server.get("/api/graphs") == {"graphs": []}
        assert server.refusal("GET", BASE) == (404, f"this run has no graph '{GRAPH}'; it has: none yet")


def test_nodes_and_links_are_the_graphs(page, graph):
    """At the widest share, the nodes are those that pruning keeps, and links hold every effect between them."""
    nodes, links = page["nodes"], page["links"]
    wide = prune(graph.effects, graph.probabilities, n_tokens=graph.n_tokens, node_share=0.95, edge_share=1.0)
    rows = list(zip(nodes["kind"], nodes["layer"], nodes["position"], nodes["number"], strict=True))
    place = {tuple(node): i for i, node in enumerate(graph.nodes)}
    numbers = [place[row] for row in rows]
    assert set(wide.sources.nonzero()[:, 0].tolist()) <= set(numbers)
    assert page["links_share"] == 1.0
    effects = {
        (numbers[source], numbers[target]): effect
        for source, target, effect in zip(links["source"], links["target"], links["effect"], strict=True)
    }
    for (source, target), effect in effects.items():
        row = target if target < graph.n_latents else target - graph.n_sources + graph.n_latents
        assert effect == pytest.approx(float(graph.effects[row, source]), rel=1e-4)
    sources = [number for number in numbers if number < graph.n_sources]
    targets = [number for number in sources if number < graph.n_latents]
    within = graph.effects[targets + list(range(graph.n_latents, len(graph.effects)))][:, sources]
    assert len(effects) == int((within != 0).sum())


def test_a_node_is_kept_at_shares_above_what_stands_before_it(page, graph):
    """`before` decides as `influence.prune` does which sources are kept, at any share that the page offers."""
    nodes = page["nodes"]
    place = {tuple(node): i for i, node in enumerate(graph.nodes)}
    rows = zip(nodes["kind"], nodes["layer"], nodes["position"], nodes["number"], strict=True)
    numbers = [place[row] for row in rows]
    ordered = graph.influence.double().sort(descending=True)
    for share in (0.3, 0.8, 0.95):
        running = ordered.values.cumsum(0) / ordered.values.sum()
        n = int((running < share).sum()) + 1
        expected = set(ordered.indices[:n].tolist())
        by_page = {
            number
            for number, before in zip(numbers, nodes["before"], strict=True)
            if before is not None and before < share
        }
        assert by_page == expected


def test_latents_have_labels_and_contexts_from_the_features(server, page):
    nodes = page["nodes"]
    assert page["with_features"] == [2]
    of_layer = [i for i in latents(page) if nodes["layer"][i] == 2]
    assert of_layer
    site = f"layers.2.mlp_out/{NAME}"
    for i in of_layer:
        assert nodes["label"][i] == server.get(f"/api/f/{site}/latent/{nodes['number'][i]}")["label"]["text"]
    fired = next(i for i in of_layer if nodes["number"][i] == 0)
    contexts = server.get(f"{BASE}/contexts/{fired}")
    assert contexts["examples"]
    assert all(example["group"] == "top" for example in contexts["examples"])
    bare = next(i for i in latents(page) if nodes["layer"][i] == LAYERS[0])
    assert nodes["label"][bare] == ""
    assert server.get(f"{BASE}/contexts/{bare}") == {"examples": [], "max": None}


def test_an_ablation_moves_the_logits_as_much_as_was_measured(server, page, graph):
    """Σ_k p_k |Δ(z_k − mean z)| of the answer is what `ablate` measures, free and with attention held."""
    nodes = page["nodes"]
    node = max(latents(page), key=lambda i: nodes["influence"][i])
    number = next(
        i
        for i, row in enumerate(graph.latents.tolist())
        if row == [nodes["layer"][node], nodes["position"][node], nodes["number"][node]]
    )
    measured = ablate(graph, [number])
    weights = dict(zip(graph.logit_ids.tolist(), graph.probabilities.tolist(), strict=True))
    for frozen, effect in ((False, measured.free), (True, measured.frozen)):
        body = {"edits": [{"node": node, "factor": 0}], "frozen": frozen}
        tokens = server.send("POST", f"{BASE}/edit", body)["tokens"]
        moved = sum(weights[token["id"]] * abs(token["change"]) for token in tokens if token["id"] in weights)
        assert moved == pytest.approx(float(effect[0]), rel=1e-3)
        assert nodes["frozen" if frozen else "free"][node] == pytest.approx(float(effect[0]), rel=1e-3)


def test_probabilities_before_are_the_models_and_factor_one_changes_nothing(server, page, graph):
    body = {"edits": [{"node": node, "factor": 1} for node in latents(page)[:3]]}
    result = server.send("POST", f"{BASE}/edit", body)
    logits = graph.context.model.logits(graph.tokens[None])[0, -1]
    probabilities = logits.float().softmax(0)
    assert result["kl"] == pytest.approx(0, abs=1e-9)
    for token in result["tokens"]:
        assert token["before"] == pytest.approx(float(probabilities[token["id"]]), rel=1e-4)
        assert token["after"] == pytest.approx(token["before"], rel=1e-6)


def test_several_edits_are_those_of_the_model_with_all_of_them(server, page, graph):
    nodes = page["nodes"]
    pair = [next(i for i in latents(page) if nodes["layer"][i] == layer) for layer in LAYERS]
    body = {"edits": [{"node": pair[0], "factor": -1.5}, {"node": pair[1], "factor": 3}]}
    result = server.send("POST", f"{BASE}/edit", body)
    context = graph.context
    edits = {}
    for node, factor in zip(pair, (-1.5, 3), strict=True):
        layer, position, number = (nodes[name][node] for name in ("layer", "position", "number"))
        write = context.transcoders[layer].sae.W_dec[number] * nodes["activation"][node] * (factor - 1)

        def change(y, write=write, position=position):
            y = y.clone()
            y[:, position] += write
            return y

        edits[f"layers.{layer}.mlp_out"] = change
    expected = context.model.logits(graph.tokens[None], edits)[0, -1].float().softmax(0)
    for token in result["tokens"]:
        assert token["after"] == pytest.approx(float(expected[token["id"]]), rel=1e-3)


def test_bad_edits_are_one_line(server, page):
    error = next(i for i, kind in enumerate(page["nodes"]["kind"]) if kind == "error")
    node = latents(page)[0]
    for body, message in (
        ({"edits": []}, "an intervention takes 1 to 32 edits, got 0"),
        ({"edits": [{"node": node, "factor": 0}] * 33}, "takes 1 to 32 edits, got 33"),
        ({"edits": [{"node": error, "factor": 0}]}, f"node {error} is no latent of this graph"),
        ({"edits": [{"node": -1, "factor": 0}]}, "node -1 is no latent"),
        ({"edits": [{"node": node, "factor": 1e9}]}, "factor must be a number from −100 to 100, got 1"),
        ({"edits": [{"node": node}]}, "edits.0.factor"),
        ({}, "edits must be"),
    ):
        status, line = server.refusal("POST", f"{BASE}/edit", body)
        assert (status, line.count("\n")) == (400, 0)
        assert message in line


def test_files_of_a_graph_are_downloads(server, run):
    status, headers, content = server.ask("GET", f"{BASE}/neuronpedia")
    assert status == 200
    assert headers["content-disposition"] == f'attachment; filename="{GRAPH}.json"'
    assert content == (run / "graphs" / GRAPH / "graph.json").read_bytes()
    status, headers, content = server.ask("GET", f"{BASE}/html")
    assert headers["content-disposition"] == f'attachment; filename="{GRAPH}.html"'
    text = content.decode()
    data = json.loads(re.search(r'<script id="graph" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    page = server.get(BASE)
    assert {key: data[key] for key in page} == page
    assert data["contexts"]


def test_names_are_looked_up_and_never_paths(server):
    for name in ("..%2F..", "nothing", "%2e%2e"):
        assert server.ask("GET", f"/api/graph/{name}")[0] == 404


def test_a_damaged_graph_is_named_and_the_others_stay(tmp_path):
    folder = graph_run(tmp_path / "run")
    damaged = folder / "graphs" / "broken"
    damaged.mkdir()
    (damaged / "page.json").write_text("{")
    newer = folder / "graphs" / "newer"
    newer.mkdir()
    (newer / "page.json").write_text(json.dumps({"format": "monosemy-graph", "version": 99}))
    with Server(folder) as server:
        problems = {entry["name"]: entry["problem"] for entry in server.get("/api/graphs")["graphs"]}
        assert problems[GRAPH] == ""
        assert "not valid JSON" in problems["broken"]
        assert "has version 99, not 1" in problems["newer"]
        assert server.refusal("GET", "/api/graph/newer")[0] == 400


def test_a_layer_without_its_transcoder_is_refused(run, page):
    from monosemy.circuits.graphs.intervention import LatentEdit, intervene

    model = monosemy.load_model(str(run / "model"), device="cpu")
    with pytest.raises(UserError, match="layer 1 has no transcoder to edit"):
        intervene(model, {}, torch.tensor(page["token_ids"]), [LatentEdit(1, 2, 3, activation=1.0, factor=0.0)])
