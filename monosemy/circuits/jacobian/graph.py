"""The graph of latents around one MLP, for one token or averaged: nodes, edges, and the SAEs' errors.

Place on the path: rows, slices, averages → [graph] → JSON, for circuit tools and for drawing.

For one token, at the true input x (x̂ is the input SAE's reconstruction) and for every active output latent i:

  s_y,i = Σ_j J_ij s_j + e_i · J_MLP (x − x̂) + rest_i

  edges    in:j → out:i        J_ij s_j
           error:in → out:i    e_i · J_MLP (x − x̂): the input SAE's error, through the same slopes; e_i is latent i's
                               encoder column
           constant → out:i    rest_i: biases and the part of the MLP that is not linear at x; it makes the sum exact
  nodes    in:j, out:i with their activations; error:in, error:out with the relative error ‖x − x̂‖² / ‖x‖²

At the reconstruction the error has no slope: its edge is s_y,i − f_s,i(s), the latent at the true output minus the
latent that the map gives, and the constant edge makes up the rest. In the graph averaged over tokens, an edge has the
share of tokens on which it is active and the weight (1/N) Σ_n |J_ij| s_j, and an error has its share of the tokens'
squared norm. `error:out` has no edges: what the output SAE leaves out reaches no latent.

Weights are in units of the output latents at E‖y‖² = 1. Limit: the graph is a first-order expansion at one point;
ablation.py measures how far that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.jacobian.averages import PairAverages
from monosemy.circuits.jacobian.latent_map import LatentMap
from monosemy.circuits.jacobian.slices import JacobianSlices

FORMAT = 1
ERROR_IN, ERROR_OUT, CONSTANT = "error:in", "error:out", "constant"


@torch.no_grad()
def error_effects(
    latent_map: LatentMap, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], slices: JacobianSlices
) -> Float[Tensor, "n i"]:
    """How much of each active output latent comes from the input SAE's error; 0 on padding, without gradient."""
    outputs = slices.out_indices.clamp_min(0)
    if latent_map.at == "reconstruction":
        true = latent_map.codes_of(y).to_dense().gather(1, outputs)
        effect = true - slices.out_values
    else:
        error = x - latent_map.sae_in.decode(latent_map.sae_in.encode(x))
        # A forward-mode product: J_MLP itself, [d, d] per token, is never made.
        change = torch.func.jvp(latent_map.mlp, (x,), (error,))[1]
        # Only the active latents' encoder columns: [n, i, d].
        rows = latent_map.sae_out.W_enc.T[outputs]
        effect = torch.einsum("nid,nd->ni", rows, change) / latent_map.sae_out.config.scale
    return effect.masked_fill(~slices.out_active, 0)


@torch.no_grad()
def token_graph(
    latent_map: LatentMap, x: Float[Tensor, "1 d"], y: Float[Tensor, "1 d"], slices: JacobianSlices
) -> dict[str, Any]:
    """The nodes and edges of one token, as JSON values; the edges into an output latent sum to its activation."""
    inputs = [int(j) for j in slices.in_indices[0][slices.in_active[0]]]
    outputs = [int(i) for i in slices.out_indices[0][slices.out_active[0]]]
    s_in, s_out = slices.in_values[0][slices.in_active[0]], slices.out_values[0][slices.out_active[0]]
    J = slices.values[0][slices.out_active[0]][:, slices.in_active[0]].double()
    weights = J * s_in.double()
    errors = error_effects(latent_map, x, y, slices)[0][slices.out_active[0]].double()
    # At the reconstruction s_out is f_s(s); adding the error's edge gives the latent at the true output again.
    target = s_out.double() if latent_map.at == "input" else s_out.double() + errors
    # Whatever the linear parts leave over, so that every output latent's edges sum to its activation exactly.
    constant = target - weights.sum(1) - errors
    nodes: list[dict[str, Any]] = [
        *({"id": f"in:{j}", "kind": "input", "latent": j, "value": float(v)} for j, v in zip(inputs, s_in)),
        *({"id": f"out:{i}", "kind": "output", "latent": i, "value": float(v)} for i, v in zip(outputs, target)),
        {"id": ERROR_IN, "kind": "error", "share": _unexplained_share(latent_map.sae_in, x)},
        {"id": ERROR_OUT, "kind": "error", "share": _unexplained_share(latent_map.sae_out, y)},
        {"id": CONSTANT, "kind": "constant"},
    ]
    edges = [
        {"source": f"in:{j}", "target": f"out:{i}", "weight": float(weights[a, b]), "jacobian": float(J[a, b])}
        for a, i in enumerate(outputs)
        for b, j in enumerate(inputs)
        if J[a, b] != 0
    ]
    for source, values in ((ERROR_IN, errors), (CONSTANT, constant)):
        edges += [{"source": source, "target": f"out:{i}", "weight": float(v)} for i, v in zip(outputs, values)]
    return {"nodes": nodes, "edges": edges}


def average_graph(
    averages: PairAverages, mean_error: Float[np.ndarray, " m"], unexplained: Sequence[float], n_edges: int
) -> dict[str, Any]:
    """The n_edges strongest pairs as a graph, as JSON values.

    mean_error [m_y]: the mean |error effect| of every output latent; unexplained: Σ‖x − x̂‖² / Σ‖x‖² of both SAEs.
    """
    out, inp = averages.out[:n_edges], averages.inp[:n_edges]
    nodes: list[dict[str, Any]] = [
        {"id": f"{side}:{latent}", "kind": kind, "latent": int(latent)}
        for side, kind, latents in (("in", "input", inp), ("out", "output", out))
        for latent in np.unique(latents)
    ]
    nodes += [{"id": i, "kind": "error", "share": share} for i, share in zip((ERROR_IN, ERROR_OUT), unexplained)]
    edges = [
        {
            "source": f"in:{averages.inp[p]}",
            "target": f"out:{averages.out[p]}",
            "weight": float(averages.mean_effect[p]),
            "mean_abs_jacobian": float(averages.mean_abs[p]),
            "share_of_tokens": float(averages.n_active[p]) / averages.n_tokens,
        }
        for p in range(len(out))
    ]
    edges += [
        {"source": ERROR_IN, "target": f"out:{i}", "weight": float(mean_error[i])} for i in np.unique(out).tolist()
    ]
    return {"nodes": nodes, "edges": edges}


def _unexplained_share(sae: Any, rows: Float[Tensor, "1 d"]) -> float:
    """‖x − x̂‖² / ‖x‖² of one row."""
    error, total = squares(sae, rows)
    return error / total


@torch.no_grad()
def squares(sae: Any, rows: Float[Tensor, "n d"]) -> tuple[float, float]:
    """Σ‖x − x̂‖² and Σ‖x‖² over the rows."""
    error = rows - sae.decode(sae.encode(rows))
    return float(error.double().square().sum()), float(rows.double().square().sum())
