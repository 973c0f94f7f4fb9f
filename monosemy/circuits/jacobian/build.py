"""Builds the pairs of a run, initialised from training rows like its other SAEs.

Place on the path: prepared activations → **pairs** → the trainer. There is one pair for every λ × L0 × seed, at the
layer `jacobian.layer`.
"""

from __future__ import annotations

import itertools

import torch

from monosemy.circuits.jacobian.derivative_unit import derivative_unit
from monosemy.circuits.jacobian.mlp import mlp_weights
from monosemy.circuits.jacobian.penalty import SlopesAtInput
from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.circuits.jacobian.training_pair import Pair, pair_name, pair_sites
from monosemy.config import room_settings
from monosemy.pipeline.prepare import Prepared
from monosemy.pipeline.trainees import NewSae, build_trainee, initial_rows
from monosemy.pipeline.training_data import Key

PENALTY_COST = 2.0
"""The cost of a pair's step with the penalty, as a multiple of the two SAEs' alone; an estimate for equal shares."""


def build_pairs(prepared: Prepared) -> list[Pair]:
    """One pair for every λ × L0 × seed that this process trains.

    Raises UserError where the run does not read both sites of the layer, where the Jacobian's formula does not cover
    the MLP, or where one token's Jacobian does not fit in the bound on memory.
    """
    settings = room_settings(prepared.config, JacobianConfig)
    site_in, site_out = sites = pair_sites(prepared.sites, settings.layer)
    weights = mlp_weights(prepared.model, int(site_in.split(".")[1]))
    slopes = SlopesAtInput(weights.between_scaled(*(prepared.scale[site] for site in sites)))
    rows = initial_rows(prepared)
    unit = derivative_unit(slopes.weights, rows[site_in])
    grid = _grid(prepared)
    # The bound is for all pairs that the trainer steps at the same time, each in a thread of its own.
    side_by_side = max(1, min(len(grid), torch.get_num_threads()))
    max_memory = settings.max_memory_mb * 1_000_000 // side_by_side
    pairs = []
    for coef, l0, seed in grid:
        name = pair_name(coef, l0, seed)
        keys = ((site_in, name), (site_out, name))
        if not prepared.trains(keys[0]):
            continue
        inputs, outputs = (
            build_trainee(prepared, NewSae(site, settings.architecture, l0, seed), rows[site]) for site in sites
        )
        pair = Pair(keys, (inputs, outputs), slopes, coef, config=settings, max_memory=max_memory, unit=unit)
        pairs.append(pair)
    return pairs


def planned_pairs(prepared: Prepared) -> list[tuple[tuple[Key, ...], float]]:
    """The units that `build_pairs` builds, and their cost as a multiple of that of two SAEs."""
    sites = pair_sites(prepared.sites, room_settings(prepared.config, JacobianConfig).layer)
    names = [(pair_name(coef, l0, seed), PENALTY_COST if coef else 1.0) for coef, l0, seed in _grid(prepared)]
    return [(tuple((site, name) for site in sites), cost) for name, cost in names]


def _grid(prepared: Prepared) -> list[tuple[float, float, int]]:
    """The (λ, L0, seed) of every pair."""
    settings = room_settings(prepared.config, JacobianConfig)
    return list(itertools.product(settings.lambdas, prepared.config.l0, prepared.config.seeds))
