"""How good are transcoders of every layer, what share of a graph do they explain, and do interventions agree?

    monosemy train transcoders --run runs/transcoders
    python -m research.transcoders.run runs/transcoders

`quality`: of every layer, from the run's evaluation: FVU and Δ loss of the MLP's output, dead latents, and the linear
map beside it. Then for each of the prompts in prompts.py an attribution graph: its replacement and completeness scores,
the shares of the influence that end in the errors of each third of the layers, the rank agreement of influence and
measured ablation (free and with attention held) over the `N_ABLATED` nodes with the most influence, and scores and
agreement again for two controls: encoders shuffled, and random ones of equal L0. `stories`: the nodes with the most
influence, of each family's first prompt. `together`: the preference for the right answer as it is, without the
`N_TOGETHER` nodes with the most influence, and without as many active latents drawn at random from the same layers.

Means have 95% intervals that resample prompts. Limits: one model, one run, short prompts; prompts of a family resemble
each other, so the intervals say how other prompts of these families would come out, and nothing about other texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.circuits.graphs.ablation import ablate
from monosemy.circuits.graphs.attribution import attribute
from monosemy.circuits.graphs.controls import CONTROLS, control_graph
from monosemy.circuits.graphs.graph import Graph
from monosemy.circuits.graphs.intervention import LatentEdit, intervene
from monosemy.circuits.graphs.opening import open_transcoders
from monosemy.circuits.graphs.transcoders import Transcoder, match_layers
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.models.adapter import LanguageModel
from monosemy.models.of_run import load_run_model
from monosemy.run import read_run
from research import run_folders
from research.records import record_path, write_record
from research.transcoders.prompts import Prompt, all_prompts
from research.transcoders.tables import SCORES

N_ABLATED = 60
N_TOGETHER = 10
N_DRAWS = 5
"""Random sets beside the ablation of the leading nodes."""
N_STORY = 8
DIGITS = 4
"""Behind the point, in the record."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run with a transcoder of every layer")
    parser.add_argument("--prompts", type=int, default=8, help="prompts of each family (default: 8)")
    parser.add_argument("--nodes", type=int, default=1000, help="latents of a graph at most (default: 1000)")
    parser.add_argument("--out", type=Path, default=record_path("transcoders"))
    options = parser.parse_args()
    config, provenance = read_run(options.run)
    model = load_run_model(options.run, config, provenance)
    transcoders = match_layers(model, open_transcoders(options.run))
    record: dict[str, Any] = {
        "tokens": config.text.n_tokens,
        "d_sae": config.d_sae,
        "l0": config.l0[0],
        "quality": quality(options.run),
        "n_layers": model.n_layers,
        "prompts": [],
        "stories": {},
    }
    for prompt in all_prompts(options.prompts):
        graph = attribute(model, transcoders, prompt.text, max_latents=options.nodes)
        record["prompts"].append(measured(model, transcoders, prompt, graph))
        record["stories"].setdefault(prompt.family, {"text": prompt.text, "leading": leading(graph)})
        write_record(options.out, record)


def quality(run: Path) -> list[dict[str, Any]]:
    """One row for each transcoder and each linear map, layer by layer."""
    measures = (
        "l0",
        "fvu",
        "fvu_interval",
        "delta_loss",
        "delta_loss_interval",
        "dead_fraction",
        "over_10pct_fraction",
    )
    rows = [
        {"layer": int(record["site"].split(".")[1]), "name": record["name"]}
        | {measure: record[measure] for measure in measures if record.get(measure) is not None}
        for record in read_evaluation(run)["records"]
    ]
    return sorted(rows, key=lambda row: (row["layer"], row["name"]))


def measured(
    model: LanguageModel, transcoders: Mapping[int, Transcoder], prompt: Prompt, graph: Graph
) -> dict[str, Any]:
    """Everything about one prompt."""
    graphs = {"transcoders": graph} | {name: control_graph(graph, name) for name in CONTROLS}
    return {
        "family": prompt.family,
        "graphs": {name: scores(drawn) for name, drawn in graphs.items()},
        "errors_by_third": errors_by_third(graph),
        "together": together(model, transcoders, prompt, graph),
    }


def scores(graph: Graph) -> list[float]:
    """The scores and the agreement of one graph, in the order of `SCORES`."""
    leaders = graph.influence[: graph.n_latents].argsort(descending=True)[:N_ABLATED].tolist()
    ablations = ablate(graph, leaders)
    values = {
        "replacement": graph.replacement_score,
        "completeness": graph.completeness_score,
        "free": ablations.free_agreement.rho,
        "frozen": ablations.frozen_agreement.rho,
    }
    return [round(values[score], DIGITS) for score in SCORES]


def errors_by_third(graph: Graph) -> list[float]:
    """The shares of the influence of errors and tokens together that end in the errors of each third of the layers."""
    ends = graph.influence[graph.n_latents :].double()
    n_errors = graph.n_layers * graph.n_tokens
    shares = ends[:n_errors].reshape(graph.n_layers, graph.n_tokens).sum(1) / ends.sum().clamp_min(1e-300)
    return [round(float(third.sum()), DIGITS) for third in np.array_split(shares.numpy(), 3)]


def leading(graph: Graph) -> list[dict[str, Any]]:
    """The nodes with the most influence, with the token that each stands at and its measured effect."""
    nodes = graph.influence[: graph.n_latents].argsort(descending=True)[:N_STORY].tolist()
    ablations = ablate(graph, nodes)
    return [
        {
            "node": graph.nodes[node].name,
            "token": graph.pieces[graph.nodes[node].position],
            "influence": float(graph.influence[node]),
            "free": float(free),
        }
        for node, free in zip(nodes, ablations.free)
    ]


def together(model: LanguageModel, transcoders: Mapping[int, Transcoder], prompt: Prompt, graph: Graph) -> list[float]:
    """The preference for the right answer: as it is, without the leading nodes, and without random active ones."""
    order = graph.influence[: graph.n_latents].argsort(descending=True).tolist()
    random = np.random.default_rng(0)
    before, after = ablated(model, transcoders, prompt, graph, nodes=order[:N_TOGETHER])
    layers = graph.latents[:, 0].numpy()
    draws = []
    for _ in range(N_DRAWS):
        nodes: list[int] = []
        for node in order[:N_TOGETHER]:
            others = [other for other in np.flatnonzero(layers == layers[node]) if other not in order[:N_TOGETHER]]
            nodes += [int(random.choice(others))] if others else []
        draws.append(ablated(model, transcoders, prompt, graph, nodes=nodes)[1])
    return [round(value, DIGITS) for value in (before, after, float(np.mean(draws)))]


def ablated(
    model: LanguageModel,
    transcoders: Mapping[int, Transcoder],
    prompt: Prompt,
    graph: Graph,
    *,
    nodes: Sequence[int],
) -> tuple[float, float]:
    """(preference before, preference after) the nodes are ablated together."""
    edits = [
        LatentEdit(layer, position, latent, float(graph.activations[node]), factor=0.0)
        for node in nodes
        for layer, position, latent in [graph.latents[node].tolist()]
    ]
    outcome = intervene(model, transcoders, graph.tokens, edits)
    return prompt.preference(model, outcome.before), prompt.preference(model, outcome.after)


if __name__ == "__main__":
    run_folders.run(main)
