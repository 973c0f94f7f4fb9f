"""Graphs of tiny models: nodes, tables, exports, and refusals."""

from __future__ import annotations

import builtins
import json
from typing import Literal

import pytest
import torch
from graph_cases import TEXT, exact_model, random_transcoder, random_transcoders
from pydantic import BaseModel, ConfigDict

import monosemy
from monosemy.circuits.graphs.attribution import attribute
from monosemy.circuits.graphs.graph_json import graph_json, write_graph_json
from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae


@pytest.fixture(scope="module")
def graph():
    return monosemy.attribute(exact_model("llama"), random_transcoders(), TEXT, max_latents=60)


def test_rows_sum_to_what_the_model_computed(graph):
    assert float(graph.residuals.max()) < 1e-9
    assert len(graph.residuals) == graph.n_latents + graph.n_logits == 70


def test_logits_are_the_likeliest_and_centred(graph):
    model = exact_model("llama")
    logits = model.logits(graph.tokens[None])[0, -1]
    probabilities, ids = logits.softmax(0).topk(10)
    assert graph.logit_ids.tolist() == ids.tolist()
    torch.testing.assert_close(graph.probabilities, probabilities)
    torch.testing.assert_close(graph.values[-10:], (logits - logits.mean())[ids])


def test_a_share_of_probability_bounds_the_logits():
    model = exact_model("llama")
    probabilities = model.logits(torch.tensor([[256, *b"ab"]]))[0, -1].softmax(0).sort(descending=True).values
    share = float(probabilities[:3].sum()) - 1e-6
    graph = attribute(model, random_transcoders((0,)), [256, *b"ab"], logit_share=share)
    assert graph.n_logits == 3


def test_nodes_are_the_latents_of_most_influence(graph):
    """With one round a node, the greedy choice keeps the latents that the whole graph ranks first, nearly all."""
    whole = attribute(exact_model("llama"), random_transcoders(), TEXT, max_latents=10_000)
    assert whole.n_latents == whole.n_active == graph.n_active
    assert float(whole.left_out.abs().max()) == 0
    ranking = whole.influence[: whole.n_latents].argsort(descending=True)[:60]
    best = {tuple(row) for row in whole.latents[ranking].tolist()}
    assert len(best & {tuple(row) for row in graph.latents.tolist()}) > 45


def test_the_first_position_has_no_latents_and_no_error(graph):
    assert int(graph.latents[:, 1].min()) == 1
    firsts = [number for number, node in enumerate(graph.nodes) if node.kind == "error" and node.position == 0]
    assert len(firsts) == graph.n_layers
    assert float(graph.effects[:, firsts].abs().max()) == 0


def test_a_layer_without_transcoder_is_an_error_and_said():
    graph = attribute(exact_model("gpt2"), random_transcoders((0, 3)), TEXT, max_latents=20)
    assert graph.bare_layers == (1, 2)
    assert float(graph.residuals.max()) < 1e-9
    assert set(graph.latents[:, 0].tolist()) == {0, 3}
    errors = [number for number, node in enumerate(graph.nodes) if node.kind == "error" and node.layer == 2]
    assert float(graph.effects[:, errors].abs().max()) > 0


def test_missed_variance_is_that_of_the_transcoder_on_the_prompt(graph):
    model, sae = exact_model("llama"), random_transcoder(2)
    read = model.activations(graph.tokens[None], ["layers.2.mlp_in", "layers.2.mlp_out"])
    x, y = (read[f"layers.2.{kind}"][0, 1:] for kind in ("mlp_in", "mlp_out"))
    expected = (y - sae(x)).square().sum() / (y - y.mean(0)).square().sum()
    assert graph.fvu[2] == pytest.approx(float(expected), rel=1e-6)


def test_tables_hold_the_graph(graph):
    nodes, edges = graph.node_table({"twice": {0: 2.0}}), graph.edge_table()
    assert nodes.num_rows == len(graph.nodes)
    rows = nodes.to_pylist()
    assert rows[0]["twice"] == 2.0
    assert rows[1]["twice"] is None
    assert [row["kind"] for row in rows[-11:]] == ["token", *["logit"] * 10]
    assert rows[graph.n_latents]["activation"] is None
    assert rows[0]["name"] == f"L{rows[0]['layer']}/{rows[0]['number']}@{rows[0]['position']}"
    assert list(zip(*(edges[name].to_pylist() for name in edges.column_names))) == list(graph.kept_edges())
    all_edges = graph.edge_table(pruned=False)
    assert all_edges.num_rows == int((graph.effects != 0).sum()) > edges.num_rows


def test_networkx_holds_the_kept_graph(graph):
    networkx = pytest.importorskip("networkx")
    exported = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(exported)
    assert exported.number_of_edges() == int(graph.pruned.edges.sum())
    source, target, effect = next(iter(graph.kept_edges()))
    assert exported[graph.nodes[source].name][graph.nodes[target].name]["weight"] == effect


def test_without_networkx_one_line_says_so(graph, monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError()) if name == "networkx" else real(name, *rest),
    )
    with pytest.raises(UserError, match="pip install networkx"):
        graph.to_networkx()


# --- Neuronpedia's graph JSON: what its schema (1.0.0) requires ------------------------------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Metadata(Strict):
    slug: str
    scan: str
    prompt_tokens: list[str]
    prompt: str
    node_threshold: float


class State(Strict):
    pinnedIds: list[str]
    supernodes: list[list[str]]
    linkType: str
    clickedId: str
    sg_pos: str


class SchemaNode(Strict):
    node_id: str
    feature: int | None
    layer: str | int
    ctx_idx: int
    feature_type: Literal["cross layer transcoder", "mlp reconstruction error", "embedding", "logit"]
    jsNodeId: str
    clerp: str
    influence: float | None = None
    activation: float | None = None


class Link(Strict):
    source: str
    target: str
    weight: float


class Schema(Strict):
    metadata: Metadata
    qParams: State
    nodes: list[SchemaNode]
    links: list[Link]


def test_graph_json_is_of_the_schema(graph, tmp_path):
    path = write_graph_json(graph, tmp_path / "graph.json", "a-slug")
    document = Schema.model_validate_json(path.read_text())
    assert document.metadata.prompt == TEXT
    assert len(document.metadata.prompt_tokens) == graph.n_tokens
    ids = [node.node_id for node in document.nodes]
    assert len(set(ids)) == len(ids)
    assert {end for link in document.links for end in (link.source, link.target)} <= set(ids)
    assert len(document.links) == int(graph.pruned.edges.sum())
    latent = next(node for node in document.nodes if node.activation is not None)
    layer, number, position = (int(part) for part in latent.node_id.split("_"))
    assert latent.feature == (layer + number) * (layer + number + 1) // 2 + number, "Cantor's pairing"
    assert (latent.layer, latent.ctx_idx) == (str(layer), position)
    by_influence = sorted(document.nodes[: -graph.n_logits], key=lambda node: node.influence or 0)
    assert json.loads(path.read_text()) == graph_json(graph, "a-slug")
    assert 0 < by_influence[0].influence <= by_influence[-1].influence <= 1


# --- refusals ---------------------------------------------------------------------------------------------------------


def sae_of(**changes):
    values = {"architecture": "topk", "d_in": 32, "d_sae": 16, "l0": 2, "site": "layers.1.mlp_in", **changes}
    return build_sae(SaeConfig(**values)).double()


def silent():
    sae = random_transcoder(1, architecture="relu")
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    return sae


@pytest.mark.parametrize(
    ("saes", "message"),
    [
        (list, "no transcoders"),
        (lambda: [sae_of(site="layers.1.mlp_out")], "reconstructs its own input; a graph needs transcoders"),
        (lambda: [random_transcoder(1, d=16)], "reads width 16 .* has width 32"),
        (lambda: [random_transcoder(9)], "of another model than llama: layer 9"),
        (lambda: random_transcoders((1, 1)), "two transcoders for the MLP of layer 1"),
        (lambda: [silent()], "no latent of the 1 transcoders is active"),
    ],
)
def test_transcoders_that_make_no_graph_are_refused(saes, message):
    with pytest.raises(UserError, match=message) as error:
        attribute(exact_model("llama"), saes(), TEXT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("x" * 70, {}, "the prompt has 71 tokens, but llama takes 64; give a shorter one"),
        ("", {}, "no tokens"),
        ([256], {}, "a prompt of 1 tokens"),
        (TEXT, {"max_latents": 0}, "max_latents 0 must be at least 1"),
        (TEXT, {"node_share": 1.5}, "node_share 1.5 is a share"),
        (TEXT, {"max_latents": 10**12}, None),
    ],
)
def test_prompts_and_settings_are_checked(text, changes, message):
    if message is None:
        assert attribute(exact_model("llama"), random_transcoders((0,)), text, **changes).n_latents > 0
        return
    with pytest.raises(UserError, match=message):
        attribute(exact_model("llama"), random_transcoders((0,)), text, **changes)


def test_a_graph_that_would_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("monosemy.circuits.graphs.attribution.available_memory", lambda: 1 << 20)
    with pytest.raises(UserError, match="more than half of the free"):
        attribute(exact_model("llama"), random_transcoders((0,)), TEXT)


def test_attention_that_cannot_be_observed_is_refused():
    with pytest.raises(UserError, match="ran 0 attentions that can be observed in 4 layers"):
        attribute(exact_model("gpt_neo"), random_transcoders((0,)), TEXT)
