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


def build_pairs(prepared: Prepared) -> list[Pair]:
    """One pair for every λ × L0 × seed.

    Raises UserError where the run does not read both sites of the layer, where the Jacobian's formula does not cover
    the MLP, or where one token's Jacobian does not fit in the bound on memory.
    """
    config, settings = prepared.config, room_settings(prepared.config, JacobianConfig)
    site_in, site_out = sites = pair_sites(prepared.sites, settings.layer)
    weights = mlp_weights(prepared.model, int(site_in.split(".")[1]))
    slopes = SlopesAtInput(weights.between_scaled(*(prepared.scale[site] for site in sites)))
    rows = initial_rows(prepared)
    unit = derivative_unit(slopes.weights, rows[site_in])
    grid = list(itertools.product(settings.lambdas, config.l0, config.seeds))
    # The bound is for all pairs that the trainer steps at the same time, each in a thread of its own.
    side_by_side = max(1, min(len(grid), torch.get_num_threads()))
    max_memory = settings.max_memory_mb * 1_000_000 // side_by_side
    pairs = []
    for coef, l0, seed in grid:
        name = pair_name(coef, l0, seed)
        inputs, outputs = (
            build_trainee(prepared, NewSae(site, settings.architecture, l0, seed), rows[site]) for site in sites
        )
        keys = ((site_in, name), (site_out, name))
        pair = Pair(keys, (inputs, outputs), slopes, coef, config=settings, max_memory=max_memory, unit=unit)
        pairs.append(pair)
    return pairs
