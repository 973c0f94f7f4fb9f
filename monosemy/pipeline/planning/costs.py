"""What a unit of work takes: as timed on this machine, or as assumed of other hardware.

Place on the path: [this machine | the name of another] → **seconds a unit** → `work`, which has the amounts. The kinds
of work are those of `work`.

    assumed     operation   1 / (MODEL_SHARE · data sheet)
                step        STEP · 2 / (PRODUCT_SHARE · float32)
                update      56 bytes / (BANDWIDTH_SHARE · bandwidth): Adam reads four numbers and writes three, twice
                encode      2 / (PRODUCT_SHARE · float32)
    one product step        PRODUCTS_OF_STEP · 2 / its speed

`measured_costs` runs the model and a few steps of every architecture, on tokens drawn at random, side by side as in
training. Limits: a machine that does other work is slower; steps early in training have more entries than later ones.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from monosemy.config import options_of
from monosemy.pipeline.planning.work import Sizes
from monosemy.support import progress
from monosemy.support.hardware import BANDWIDTH_SHARE, PRODUCT_SHARE, Device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from monosemy.models.adapter import LanguageModel
    from monosemy.training.trainee import Trainee

Clock = Callable[[], float]
"""Wall or CPU seconds."""
STEP = 1.5
"""Of a GPU, assumed: selection, decoder and gradients take half as long as the encoder's product."""
PRODUCTS_OF_STEP = 5
"""Of the processor, measured: a step takes about as long as so many products with the encoder."""
ADAM_BYTES = 56
TOKENISE, WRITE = 8e-6, 1e-9
"""Seconds a token and a byte."""
TIMED_SECONDS = 2.0
"""About how long each kind of work is timed."""
SAMPLE_ROWS = 4_096


def assumed_costs(device: Device, dtype: str) -> dict[str, float]:
    """Seconds a unit of work on one device, with a model in this number format."""
    product = 2 / (PRODUCT_SHARE * device.single)
    return {
        "second": 1.0,
        "token": TOKENISE,
        "operation": 1 / device.model_rate(dtype),
        "step": STEP * product,
        "update": ADAM_BYTES / (BANDWIDTH_SHARE * device.bandwidth),
        "encode": product,
        "byte": WRITE,
    }


def product_costs(sizes: Sizes, device: torch.device) -> dict[str, float]:
    """Seconds a unit of work, from the speed of one product of the run's size: right within a factor of two."""
    flops = _flops_per_second(sizes, device)
    step = PRODUCTS_OF_STEP * 2 / flops
    return {"second": 1.0, "token": TOKENISE, "operation": 1 / flops, "step": step, "encode": 2 / flops, "byte": WRITE}


def _flops_per_second(sizes: Sizes, device: torch.device) -> float:
    """The speed of a product [n, d] × [d, m] in float32: the best of three, after one that does not count."""
    import torch

    n, d, m = sizes.config.training.batch_tokens, sizes.model.d_model, sizes.config.d_sae
    x, weights = torch.ones(n, d, device=device), torch.ones(d, m, device=device)
    # Reading a number waits for the device.
    seconds = [_seconds(lambda: float((x @ weights)[0, 0])) for _ in range(4)]
    return 2 * n * d * m / max(min(seconds[1:]), 1e-9)


def measured_costs(sizes: Sizes, model: LanguageModel, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Seconds a unit of work on this machine, from passes of the model and steps of every architecture, by `clock`."""
    config = sizes.config
    progress.say("timing the model and a few training steps …")
    operation, rows = _time_model(sizes, model, clock)
    costs = {"second": 1.0, "token": TOKENISE, "operation": operation, "byte": WRITE}
    encode: list[float] = []
    for name in dict.fromkeys(config.architectures):
        costs[f"step {name}"], seconds = _time_steps(sizes, name, rows, clock)
        encode.append(seconds)
    steps = [cost for kind, cost in costs.items() if kind.startswith("step ")]
    if not steps:  # rooms train all of them
        steps, encode = [product_costs(sizes, model.device)["step"]], [product_costs(sizes, model.device)["encode"]]
    return {**costs, "step": statistics.median(steps), "encode": statistics.median(encode)}


def _time_model(sizes: Sizes, model: LanguageModel, clock: Clock) -> tuple[float, Tensor]:
    """Seconds an operation, and rows [n, d] of the widest site at E‖x‖² = 1."""
    import torch

    config = sizes.config
    n_sequences, length = config.activations.batch_sequences, config.text.context_length
    generator = torch.Generator().manual_seed(0)
    widest = max(sizes.widths, key=sizes.widths.__getitem__)

    def passed() -> Tensor:
        tokens = torch.randint(model.vocab_size, (n_sequences, length), generator=generator)
        read = model.activations(tokens, list(sizes.widths), attention_mask=torch.ones_like(tokens))
        return read[model.resolve(widest)][:, 1:].reshape(-1, sizes.widths[widest]).float()

    rows = [passed()]  # does not count: the first pass allocates
    seconds: list[float] = []
    while sum(seconds) < TIMED_SECONDS and len(seconds) < 5:
        seconds.append(_seconds(lambda: rows.append(passed()), clock))
    while sum(map(len, rows)) < max(SAMPLE_ROWS, config.training.batch_tokens):
        rows.append(passed())
    all_rows = torch.cat(rows)
    operations = n_sequences * length * sizes.read_operations
    return statistics.median(seconds) / operations, all_rows / all_rows.square().sum(1).mean().sqrt()


def _time_steps(sizes: Sizes, architecture: str, rows: Tensor, clock: Clock) -> tuple[float, float]:
    """Seconds a unit of `step` and of `encode` of one architecture, as many SAEs side by side as in training."""
    from monosemy.training.workers import Workers

    config = sizes.config
    n_units = max(1, round(sizes.latent_weights / (rows.shape[1] * config.d_sae)))
    with Workers(n_units, rows.device) as workers:
        trainees = [_trainee(sizes, architecture, rows, seed) for seed in range(workers.n_workers)]
        batch = rows[-config.training.batch_tokens :]
        steps: list[Callable[[], object]] = [
            partial(trainee.step, batch, index) for index, trainee in enumerate(trainees)
        ]
        seconds = _timed(partial(workers.run, steps), clock)
    unit = len(batch) * rows.shape[1] * config.d_sae
    return seconds / len(trainees) / unit, _timed(partial(trainees[0].sae.encode, batch), clock) / unit


def _trainee(sizes: Sizes, architecture: str, rows: Tensor, seed: int) -> Trainee:
    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import build_sae
    from monosemy.training.trainee import Trainee

    config = sizes.config
    l0, options = float(sorted(config.l0)[len(config.l0) // 2]), options_of(config, architecture)
    sae = build_sae(SaeConfig(architecture, rows.shape[1], config.d_sae, l0, seed=seed, options=options))
    trainee = Trainee(sae.to(rows.device), config.training, n_steps=1000, n_train_tokens=10**9)
    trainee.initialise(rows[:SAMPLE_ROWS])
    return trainee


def _timed(work: Callable[[], Any], clock: Clock) -> float:
    """The median seconds of a piece of work, after two that do not count (compiling, allocating)."""
    seconds = [_seconds(work, clock) for _ in range(2)]
    timed: list[float] = []
    while not timed or (sum(seconds) + sum(timed) < TIMED_SECONDS and len(timed) < 10):
        timed.append(_seconds(work, clock))
    return statistics.median(timed)


def _seconds(work: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    started = clock()
    work()
    _wait()
    return clock() - started


def _wait() -> None:
    """Waits for what a GPU was asked for."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def named_costs(costs: Mapping[str, float], sizes: Sizes) -> dict[str, float]:
    """What the costs say of this run in speeds that people know: tokens/s of the model, rows/s of one SAE."""
    width = max(sizes.widths.values()) * sizes.config.d_sae
    return {
        "model": 1 / (costs["operation"] * sizes.read_operations),
        "step": 1 / (width * (costs["step"] + costs.get("update", 0) / sizes.config.training.batch_tokens)),
    }
