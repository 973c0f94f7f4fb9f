"""What a run trains: its SAEs and controls, and pairs around an MLP, initialised from held-in rows.

Place on the path: prepared activations → **trainees** → the training stage. One SAE for every architecture × L0 ×
seed at every site, the frozen-random control; one pair for every λ × L0 × seed at the layer of `jacobian.layer`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from monosemy.pipeline.checks import options_of
from monosemy.pipeline.prepare import Prepared
from monosemy.ranges import number_name

if TYPE_CHECKING:
    from torch import Tensor

    from monosemy.circuits.jacobian.pair import Pair
    from monosemy.training.trainee import Trainee

INITIAL_TOKENS = 4_096
CONTROL = "frozen_random"


def build_trainees(prepared: Prepared) -> dict[tuple[str, str], Trainee]:
    """One trainee for every SAE and control of the run."""
    config = prepared.config
    wanted = [(name, name, False) for name in config.architectures]
    if config.evaluation.frozen_random:
        wanted.append((CONTROL, "topk", True))
    return {
        (site, f"{label}-l0_{number_name(l0)}-s{seed}"): _build(
            prepared, site, rows, architecture, l0, seed, frozen=frozen
        )
        for site, rows in prepared.held_in(INITIAL_TOKENS, seed=1).items()
        for (label, architecture, frozen), l0, seed in itertools.product(wanted, config.l0, config.seeds)
    }


def build_pairs(prepared: Prepared) -> list[Pair]:
    """One pair for every λ × L0 × seed; empty where the run asks for none.

    Raises UserError where the layer's two sites are not both read, where the MLP is none that the Jacobian's formula
    covers, or where one token's Jacobian does not fit in the bound on memory.
    """
    config, settings = prepared.config, prepared.config.jacobian
    if not settings.lambdas:
        return []
    import torch

    from monosemy.circuits.jacobian.mlp import mlp_weights
    from monosemy.circuits.jacobian.pair import Pair, pair_name, pair_sites
    from monosemy.circuits.jacobian.penalty import SlopesAtInput

    sites = pair_sites(prepared.sites, settings.layer)
    weights = mlp_weights(prepared.model, int(sites[0].split(".")[1]))
    slopes = SlopesAtInput(weights.between_scaled(*(prepared.scale[site] for site in sites)))
    rows = prepared.held_in(INITIAL_TOKENS, seed=1)
    grid = list(itertools.product(settings.lambdas, config.l0, config.seeds))
    side_by_side = max(1, min(len(grid), torch.get_num_threads()))  # the bound is for all of them
    pairs = []
    for coef, l0, seed in grid:
        name = pair_name(coef, l0, seed)
        inputs, outputs = (_build(prepared, site, rows[site], settings.architecture, l0, seed) for site in sites)
        keys = ((sites[0], name), (sites[1], name))
        max_memory = settings.max_memory_mb * 1_000_000 // side_by_side
        pairs.append(Pair(keys, (inputs, outputs), slopes, coef, settings, max_memory=max_memory))
    return pairs


def _build(
    prepared: Prepared, site: str, rows: Tensor, architecture: str, l0: float, seed: int, *, frozen: bool = False
) -> Trainee:
    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import build_sae
    from monosemy.training.trainee import Trainee

    config, n_steps = prepared.config, prepared.stream.n_steps
    described = SaeConfig(
        architecture,
        rows.shape[1],
        config.d_sae,
        float(l0),
        site=site,
        model=prepared.model.name,
        seed=seed,
        frozen_decoder=frozen,
        options=options_of(config, architecture),
    )
    sae = build_sae(described).to(prepared.model.device)
    trainee = Trainee(sae, config.training, n_steps, n_steps * config.training.batch_tokens)
    sae.initialise(rows, trainee.target_l0(0.0))
    return trainee
