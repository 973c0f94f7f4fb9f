"""Max-activating pairs: where in the text an input latent drives an output latent, and an output's main drivers.

Place on the path: rows and slices → averages.py (which pairs are strong) → [their tokens, with contexts] → JSON for a
browser, tables for terminal and report.

  a pair (j → i):   the tokens with the largest |J_ij| s_j, at most one per sequence, with s_j and s_i at every token
                    of the context
  an output latent: its input latents by mean_effect_ij, each with its share Σ_n |J_ij| s_j / Σ_n Σ_j' |J_ij'| s_j'

On every token shown, the pair is confirmed by ablation: `drop` is what s_i loses when s_j is set to 0, `other_drop` the
mean size of that loss over the token's other active input latents.

Where the user names no latent, output latents are chosen: those with the largest share of their effect through a single
input latent. That pair must be active on at least `MIN_TOKENS` tokens, and the tokens shown of it must come from at
least `MIN_DOCUMENTS` documents (fewer where fewer tokens are shown).

Source: the max-activating pairs of Farnik et al. 2025 (arXiv 2502.18147). Limits: only the tokens that were read count;
a latent that fires once in a million tokens is unlikely to be among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.jacobian.averages import PairAverages
from monosemy.circuits.jacobian.latent_map import LatentMap
from monosemy.circuits.jacobian.mlp_rows import Rows
from monosemy.circuits.jacobian.slices import JacobianSlices
from monosemy.errors import UserError

MIN_TOKENS, MIN_DOCUMENTS = 10, 3
BEFORE, AFTER = 16, 6
SlicesOf = Callable[[Rows], JacobianSlices]
TextsOf = Callable[[ndarray], Sequence[str]]


@dataclass(frozen=True)
class Hit:
    """One token at which a pair is active; latents and J in units of E‖x‖² = E‖y‖² = 1. `row` indexes the `Rows`."""

    row: int
    jacobian: float
    in_value: float
    out_value: float

    @property
    def effect(self) -> float:
        """J_ij s_j: to first order, how much of the output latent comes through the input latent."""
        return self.jacobian * self.in_value


@dataclass(frozen=True)
class Text:
    """The token ids and document numbers that `Rows.tokens` points into, and a function from ids to their texts."""

    ids: Int[ndarray, "sequence position"]
    documents: Int[ndarray, "sequence position"]
    texts_of: TextsOf


def choose_outputs(averages: PairAverages, n: int) -> list[int]:
    """The n output latents with the largest share of their effect through their strongest input latent.

    Only output latents whose strongest pair is active on at least MIN_TOKENS tokens are considered.
    """
    total = np.bincount(averages.out, averages.mean_effect)
    _, first = np.unique(averages.out, return_index=True)  # pairs are sorted by effect: the first is the strongest
    first = first[(averages.n_active[first] >= MIN_TOKENS) & (averages.mean_effect[first] > 0)]
    share = averages.mean_effect[first] / total[averages.out[first]]
    return averages.out[first[np.argsort(-share, kind="stable")]][:n].astype(int).tolist()


@dataclass(frozen=True)
class LatentSelection:
    """Which latents are shown, and how many examples of each pair."""

    outputs: Sequence[int] = ()
    """Output latents to show, each with its strongest input latents."""
    pairs: Sequence[tuple[int, int]] = ()
    """(input, output) pairs to show as well."""
    n_outputs: int = 20
    """How many output latents are chosen where none is named."""
    n_inputs: int = 3
    """How many input latents are shown of each output latent."""
    n_examples: int = 4
    """How many texts are shown of each pair."""

    @property
    def is_named(self) -> bool:
        """Whether the user named any latents."""
        return bool(self.outputs or self.pairs)


def pair_study(
    rows: Rows,
    slices_of: SlicesOf,
    latent_map: LatentMap,
    averages: PairAverages,
    *,
    text: Text,
    selection: LatentSelection | None = None,
) -> list[dict[str, Any]]:
    """Output latents with their strongest input latents and the tokens on which those act, as JSON values.

    Where the selection names none, latents are chosen as the module's docstring says. Raises UserError for latents that
    are out of range, and for named ones that are silent on these rows.
    """
    selection = selection or LatentSelection()
    _check(latent_map, selection)
    outputs = [*selection.outputs]
    if not selection.is_named:
        # More than needed: some are dropped below because their strongest tokens come from too few documents.
        outputs = choose_outputs(averages, 4 * selection.n_outputs)
    inputs_by_output = {i: [int(averages.inp[p]) for p in averages.inputs_of(i, selection.n_inputs)] for i in outputs}
    for j, i in selection.pairs:
        inputs_by_output.setdefault(i, []).append(j)
    flat = [(i, j) for i, inputs in inputs_by_output.items() for j in inputs]
    # One pass over the rows finds the tokens of all pairs.
    hits = strongest_hits(rows, slices_of, flat, selection.n_examples, context_length=text.ids.shape[1])
    records = []
    for i, inputs in inputs_by_output.items():
        if not any(hits[i, j] for j in inputs):
            if inputs:
                problem = f"input latent {inputs[0]} and output latent {i} are not active together"
            else:
                problem = f"output latent {i} is silent"
            raise UserError(f"{problem} on these {len(rows)} tokens; read more tokens or choose another")
        if not selection.is_named:
            documents = {int(rows.documents[hit.row]) for hit in hits[i, inputs[0]]}
            if len(documents) < min(MIN_DOCUMENTS, selection.n_examples):
                continue
        records.append(_output(i, inputs, hits, rows, latent_map=latent_map, averages=averages, text=text))
        if not selection.is_named and len(records) == selection.n_outputs:
            break
    return records


def _check(latent_map: LatentMap, selection: LatentSelection) -> None:
    """Raises UserError for latents that the two SAEs do not have."""
    for kind, sae, latents in (
        ("input", latent_map.sae_in, [j for j, _ in selection.pairs]),
        ("output", latent_map.sae_out, [*selection.outputs, *(i for _, i in selection.pairs)]),
    ):
        for latent in latents:
            if not 0 <= latent < sae.d_sae:
                raise UserError(f"{kind} latent {latent} is out of range; this SAE has latents 0 to {sae.d_sae - 1}")


def strongest_hits(
    rows: Rows, slices_of: SlicesOf, pairs: Sequence[tuple[int, int]], n: int, *, context_length: int
) -> dict[tuple[int, int], list[Hit]]:
    """For each (output, input) pair, its n tokens with the largest |J_ij| s_j, at most one per sequence."""
    distinct = sorted(set(pairs))
    if not distinct:
        return {}
    # One integer per pair, in rising order, so that a binary search finds the listed pairs among a chunk's elements.
    width = 1 + max(j for _, j in distinct)
    keys = torch.tensor([i * width + j for i, j in distinct])
    parts: list[tuple[ndarray, ...]] = []
    n_done = 0
    for chunk in rows.chunks():
        slices = slices_of(chunk)
        # Input latents beyond the largest listed one would wrap around into another pair's number.
        inside = slices.active & (slices.in_indices < width)[:, None, :]
        key = (slices.out_indices[:, :, None] * width + slices.in_indices[:, None, :])[inside].cpu()
        place = torch.searchsorted(keys, key).clamp_max(len(keys) - 1)
        is_listed = keys[place] == key
        row, i, j = (part.cpu()[is_listed] for part in inside.nonzero(as_tuple=True))
        values = slices.values.cpu()[row, i, j], slices.in_values.cpu()[row, j], slices.out_values.cpu()[row, i]
        parts.append(tuple(part.numpy() for part in (place[is_listed], row + n_done, *values)))
        n_done += len(chunk)
    pair_number, at, J, s_in, s_out = (np.concatenate(part) for part in zip(*parts))
    # By pair and, within it, from the strongest token down; the loop below takes the first n of different sequences.
    order = np.lexsort((-np.abs(J * s_in), pair_number))
    sequence = rows.tokens.cpu().numpy() // context_length
    hits: dict[tuple[int, int], list[Hit]] = {pair: [] for pair in distinct}
    sequences: dict[tuple[int, int], set[int]] = {pair: set() for pair in distinct}
    for z in order:
        pair, number = distinct[pair_number[z]], int(sequence[at[z]])
        if len(hits[pair]) < n and number not in sequences[pair]:
            sequences[pair].add(number)
            hits[pair].append(Hit(int(at[z]), float(J[z]), float(s_in[z]), float(s_out[z])))
    return hits


def _output(
    i: int,
    inputs: Sequence[int],
    hits: dict[tuple[int, int], list[Hit]],
    rows: Rows,
    *,
    latent_map: LatentMap,
    averages: PairAverages,
    text: Text,
) -> dict[str, Any]:
    """One output latent with its input latents and their examples, as JSON values."""
    total = float(averages.mean_effect[averages.out == i].sum())
    records = []
    for j in inputs:
        place = averages.place(i, j)
        mean_abs, mean_effect, n_active = 0.0, 0.0, 0
        if place is not None:
            mean_abs, mean_effect = float(averages.mean_abs[place]), float(averages.mean_effect[place])
            n_active = int(averages.n_active[place])
        records.append(
            {
                "latent": j,
                "mean_abs_jacobian": mean_abs,
                "mean_effect": mean_effect,
                "share": mean_effect / total if total else 0.0,
                "n_tokens": n_active,
                "examples": [_example(hit, i, j, rows, latent_map=latent_map, text=text) for hit in hits[i, j]],
            }
        )
    return {"latent": i, "mean_effect": total, "inputs": records}


def _example(hit: Hit, i: int, j: int, rows: Rows, *, latent_map: LatentMap, text: Text) -> dict[str, Any]:
    """The tokens around a hit, within its sequence and document, with both latents' activations on each."""
    # The context: up to BEFORE and AFTER tokens, cut at the ends of the sequence and of the document.
    length = text.ids.shape[1]
    sequence, position = divmod(int(rows.tokens[hit.row]), length)
    document = text.documents[sequence]
    start, stop = position, position + 1
    while start > max(0, position - BEFORE) and document[start - 1] == document[position]:
        start -= 1
    while stop < min(length, position + AFTER + 1) and document[stop] == document[position]:
        stop += 1
    # The kept rows among these tokens; tokens that were not kept show 0.
    first = int(torch.searchsorted(rows.tokens, sequence * length + start))
    last = int(torch.searchsorted(rows.tokens, sequence * length + stop))
    around = rows.take(slice(first, last))
    in_values, out_values = np.zeros(stop - start), np.zeros(stop - start)
    places = (around.tokens.cpu() - sequence * length - start).numpy()
    in_values[places] = latent_map.inputs(around.x.to(latent_map.sae_in.W_dec)).to_dense()[:, j].cpu()
    out_values[places] = latent_map.codes_of(around.y.to(latent_map.sae_out.W_dec)).to_dense()[:, i].cpu()
    return {
        "sequence": sequence,
        "position": position,
        "document": int(document[position]),
        "jacobian": hit.jacobian,
        "effect": hit.effect,
        **_drops(latent_map, rows.x[hit.row : hit.row + 1].to(latent_map.sae_in.W_dec), i, j),
        "in_value": hit.in_value,
        "out_value": hit.out_value,
        "at": position - start,
        "tokens": list(text.texts_of(text.ids[sequence, start:stop])),
        "in_values": [round(float(value), 5) for value in in_values],
        "out_values": [round(float(value), 5) for value in out_values],
    }


def _drops(latent_map: LatentMap, x: Float[Tensor, "1 d"], i: int, j: int) -> dict[str, float]:
    """What s_i loses on the token x when its input latent j is set to 0, and the mean over its others."""
    code = latent_map.inputs(x).positive()
    latents, base = code.indices.long(), latent_map.base(x)
    ablated = latent_map.moved(base.expand(len(latents), -1), latents, -code.values)
    losses = latent_map.outputs(base)[:, i] - latent_map.outputs(ablated)[:, i]
    others = losses[latents != j].abs()
    return {"drop": float(losses[latents == j].sum()), "other_drop": float(others.mean()) if len(others) else 0.0}
