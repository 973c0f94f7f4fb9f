"""The plan of a large run in one line, printed before anything is loaded: tokens, width, memory, disk and time.

Place on the path: settings → checks of resources → [plan] → the stages. `monosemy plan` says more; this line is for
runs over many sites. Its speed is that of one product of the run's size on this machine, timed. Limits: another process
on the machine makes everything slower, and the time is right within a factor of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monosemy.pipeline.planning.costs import product_costs
from monosemy.pipeline.planning.work import Sizes, seconds_of, work_of
from monosemy.support.numbers import count_text, duration_text, size_text

if TYPE_CHECKING:
    import torch

    from monosemy.support.estimates import Plan

MANY_SITES = 5
"""Runs over this many sites take long enough to be announced."""


def plan_text(sizes: Sizes, plan: Plan, *, device: torch.device) -> str:
    """`plan: 1,000,000 tokens at 60 sites, 79,000,000 parameters …; about 50 min`."""
    config = sizes.config
    seconds = sum(seconds_of(work_of(sizes), product_costs(sizes, device)).values())
    disk = sum(plan.run_disk.values()) + sum(plan.cache_disk.values())
    return (
        f"plan: {count_text(config.text.n_tokens)} tokens at {len(config.activations.sites)} sites in one pass of the "
        f"model, dictionaries of {count_text(config.d_sae)} latents with {count_text(plan.run_disk['SAEs'] // 4)} "
        f"parameters together; up to {size_text(sum(plan.most_held.values()))} of memory and {size_text(disk)} of "
        f"disk; about {duration_text(seconds)} at the speed of this moment"
    )
