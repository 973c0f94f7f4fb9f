"""The bytes of a run, by part: arithmetic of `support.estimates`, and files of SAEs as they will be written.

Place on the path: settings and sizes of the model → **bytes** → the refusal of what does not fit, the plan. SAEs are
built as in the run, with their optimizers, on PyTorch's meta device, which has shapes and no memory; so their files are
counted, and cannot drift from what training writes.

Exact are the tensors of token shards, of SAEs and of checkpoints; headers, JSON and the directions that dominate the
data (measured at the start, some kB in a checkpoint) come on top. Activations are at most what is said: outliers and
special tokens are dropped when they are seen. Limits: SAEs of rooms (pairs, transcoders) are estimated from above.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from monosemy.config import RunConfig, options_of
from monosemy.pipeline.requirements import requirements_of
from monosemy.support.estimates import ModelSize, Plan, estimate


class Kind(NamedTuple):
    """SAEs of a run that differ in nothing but site and seed."""

    architecture: str
    d_in: int
    l0: float
    frozen: bool = False


class SaeBytes(NamedTuple):
    """The bytes of one SAE's tensors."""

    weights: int
    """In its file."""
    checkpoint: int
    """In a checkpoint: weights, moments, firing counts."""


def kinds_of(config: RunConfig, widths: Mapping[str, int]) -> Counter[Kind]:
    """How many SAEs and controls of each kind the run trains at sites with these widths {site: d}."""
    families = [(name, False) for name in config.architectures]
    if config.evaluation.frozen_random:
        families.append(("topk", True))
    kinds = [
        Kind(name, width, float(l0), frozen)
        for width, (name, frozen), l0 in itertools.product(widths.values(), families, config.l0)
    ]
    return Counter({kind: n * len(config.seeds) for kind, n in Counter(kinds).items()})


def sae_bytes(config: RunConfig, kind: Kind) -> SaeBytes:
    """The bytes of an SAE of this kind, counted on one without memory."""
    import torch

    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import build_sae
    from monosemy.training.trainee import Trainee

    options = options_of(config, kind.architecture)
    # No size depends on the L0. One above the width is refused where SAEs are trained, not where they are only read.
    l0 = min(kind.l0, config.d_sae)
    described = SaeConfig(kind.architecture, kind.d_in, config.d_sae, l0, frozen_decoder=kind.frozen, options=options)
    with torch.device("meta"):
        trainee = Trainee(build_sae(described), config.training, n_steps=1, n_train_tokens=1)
    of_weights = [tensor.nbytes for tensor in trainee.sae.tensors().values()]
    # What dominating directions take depends on the data.
    saved = [tensor.nbytes for name, tensor in trainee.tensors().items() if not name.startswith("anisotropy.")]
    return SaeBytes(sum(of_weights), sum(saved))


def bytes_of_run(
    config: RunConfig,
    widths: Mapping[str, int],
    model: ModelSize,
    *,
    n_latent_shards: int = 0,
    on_cpu: bool = False,
    n_processes: int = 1,
) -> Plan:
    """The bytes that a run needs, by part, at sites with these widths {site: d}.

    `n_latent_shards` is as in `estimate`; `on_cpu`, several SAEs step side by side, and else on GPUs; `n_processes` of
    the machine share a bound on disk. Raises DoesNotFit where that holds no two windows.
    """
    costs = [needs.cost(config, model) for needs in requirements_of(config)]
    kinds = kinds_of(config, widths)
    n_at_once = steps_at_once(config, sum(kinds.values())) if on_cpu and not n_latent_shards else 1
    plan = estimate(
        config,
        widths,
        model,
        costs=costs,
        n_latent_shards=n_latent_shards,
        n_at_once=n_at_once,
        n_sharing=n_processes,
        on_gpu=not on_cpu,
    )
    each = {kind: sae_bytes(config, kind) for kind in kinds}
    of_rooms = 4 * sum(cost.n_parameters for cost in costs)
    weights = sum(n * each[kind].weights for kind, n in kinds.items())
    checkpoint = sum(n * each[kind].checkpoint for kind, n in kinds.items())
    if n_latent_shards:
        checkpoint = max((of_kind.checkpoint for of_kind in each.values()), default=0)
    # The old checkpoint stays until the new one is complete.
    of_saes = {"SAEs": weights + of_rooms, "checkpoints": 2 * (checkpoint + 3 * of_rooms)}
    return dataclasses.replace(plan, run_disk={**plan.run_disk, **of_saes})


def steps_at_once(config: RunConfig, n_saes: int) -> int:
    """How many of the SAEs step side by side on this machine's processor."""
    import psutil
    import torch

    from monosemy.training import workers

    n_workers, _ = workers.plan(max(1, n_saes), torch.get_num_threads())
    buffers = workers.buffer_bytes(config.training.batch_tokens, config.d_sae)
    return max(1, min(n_workers, psutil.virtual_memory().total // 8 // buffers))
