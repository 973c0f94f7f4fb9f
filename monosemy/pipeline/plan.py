"""The plan of a large run in one line, printed before anything is loaded: tokens, width, memory, disk and time.

Place on the path: settings → checks of resources → [plan] → the stages.

    seconds = 2 n (P_model + STEP · n_passes · Σ_dictionaries d m) / (flops per second)

n training tokens, P_model parameters of the model, d and m width and latents of a dictionary. A training step takes
about as long as STEP products with the encoder: selection, decoder, gradients and Adam beside it. The speed is that of
one product of this size on this machine, timed. Limits: evaluation and report come on top, another process on the
machine makes everything slower, and the time is right within a factor of two.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from monosemy.support.numbers import count_text, duration_text, size_text

if TYPE_CHECKING:
    import torch

    from monosemy.config import RunConfig
    from monosemy.support.estimates import ModelSize, Plan

STEP = 5
MANY_SITES = 5
"""Runs over this many sites take long enough to be announced."""


def plan_text(config: RunConfig, plan: Plan, model: ModelSize, *, device: torch.device) -> str:
    """`plan: 1,000,000 tokens at 60 sites, 79,000,000 parameters …; about 50 min`."""
    n_tokens = config.text.n_tokens
    n_parameters = plan.run_disk["SAEs"] // 4
    flops = 2 * n_tokens * (model.n_parameters + STEP * config.training.n_passes * n_parameters / 2)
    seconds = flops / _flops_per_second(config.training.batch_tokens, model.d_model, config.d_sae, device)
    disk = sum(plan.run_disk.values()) + sum(plan.cache_disk.values())
    return (
        f"plan: {count_text(n_tokens)} tokens at {len(config.activations.sites)} sites in one pass of the model, "
        f"dictionaries of {count_text(config.d_sae)} latents with {count_text(n_parameters)} parameters together; "
        f"up to {size_text(sum(plan.memory.values()))} of memory and {size_text(disk)} of disk; about "
        f"{duration_text(seconds)} for activations and training at the speed of this moment, then evaluation"
    )


def _flops_per_second(n: int, d: int, m: int, device: torch.device) -> float:
    """The speed of a product [n, d] × [d, m] in float32: the best of three, after one that does not count."""
    import torch

    x, weights = torch.ones(n, d, device=device), torch.ones(d, m, device=device)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        float((x @ weights)[0, 0])  # reading a number waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * n * d * m / max(min(seconds[1:]), 1e-9)
