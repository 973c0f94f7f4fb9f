"""A whole training step of a pair with the Jacobian penalty, as a multiple of one dense TopK step of sae-lens.

Real activations around the SwiGLU MLP in layer 15 of SmolLM2-135M (d 576, d_ff 1536), both SAEs TopK with k 32 from the
first step, m 4608, AuxK idle. In the same rounds: sae-lens' TopK step by its own trainer on the MLP's input, the pair
without penalty (two of our SAEs), with it, and with it on a share of the tokens. The breakdown times the parts of the
penalty by themselves; `rest` is what the step takes, round by round, beyond the pair without penalty and these parts
(below zero where the parts run faster inside the step). Extra memory is the kernel's high-water mark of the resident
size during the penalty, value and gradient, above the size before it (Linux).

Run: python -m research.jacobian.step [--batches 512 2048 8192] [--out FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.circuits.jacobian import products
from monosemy.circuits.jacobian.batch_code import Code
from monosemy.circuits.jacobian.mlp import mlp_weights
from monosemy.circuits.jacobian.penalty import SlopesAtInput, mean_magnitude, training_code
from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.circuits.jacobian.training_pair import Pair
from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.config import ActivationsConfig, TextConfig, TrainingConfig
from monosemy.errors import UserError
from monosemy.kernels import jacobian as kernels
from monosemy.kernels.reference import Pattern
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.training.trainee import Trainee
from research import common
from research.records import record_path
from research.speed import peers

LAYER, D_SAE, K, N_STEPS = 15, 4608, 32, 100_000
SITES = (f"layers.{LAYER}.mlp_in", f"layers.{LAYER}.mlp_out")
SHARES = (1.0, 0.25, 0.125)


def real_ends(n_tokens: int) -> tuple[dict[str, Tensor], MlpWeights]:
    """Rows at both ends of the MLP at E‖x‖² = 1, and the MLP between them."""
    from monosemy.activations.harvest import harvest_rows, measure_sites
    from monosemy.data.tokens import prepare_tokens
    from monosemy.models.sources import load_model

    model = load_model("embedded", device="cpu", checks=False)
    text = TextConfig(n_tokens=max(n_tokens, 16_384), n_validation_tokens=4_096)
    tokens = prepare_tokens(text, model.tokenizer, model.tokenizer_fingerprint)
    config = ActivationsConfig(sites=SITES)
    measured = measure_sites(model, tokens.train, list(SITES), config)
    parts = list(harvest_rows(model, tokens.train, list(SITES), config, statistics=measured))
    rows = {site: torch.cat([part.activations[site].float() for part in parts]) for site in SITES}
    scale = {site: float(x.square().sum(1).mean().sqrt()) for site, x in rows.items()}
    weights = mlp_weights(model, LAYER).between_scaled(*(scale[site] for site in SITES))
    return {site: x / scale[site] for site, x in rows.items()}, weights


def make_pair(
    weights: MlpWeights, batch: dict[str, Tensor], coef: float, share: float, *, max_memory: int | None
) -> Pair:
    trainees = []
    for site in SITES:
        config = SaeConfig("topk", batch[site].shape[1], D_SAE, K, site=site, options={"k_start_factor": 1.0})
        sae = build_sae(config)
        n = len(batch[site])
        trainees.append(Trainee(sae, TrainingConfig(batch_tokens=n), N_STEPS, N_STEPS * n))
        sae.initialise(batch[site], K)
    settings = JacobianConfig(token_share=share)
    keys = ((SITES[0], "pair"), (SITES[1], "pair"))
    slopes = SlopesAtInput(weights)
    return Pair(keys, (trainees[0], trainees[1]), slopes, coef, config=settings, max_memory=max_memory)


def stepper(pair: Pair, batches: list[dict[str, Tensor]]) -> Callable[[], None]:
    index = N_STEPS // 2

    def step() -> None:
        nonlocal index
        index += 1
        pair.step(batches[index % len(batches)], index)

    return step


def parts_of(pair: Pair, batch: dict[str, Tensor]) -> tuple[dict[str, Callable[[], object]], list[int]]:
    """The penalty's parts, each by itself, over the latents that are active in the whole batch, as in a step; how many
    those are at either end."""
    weights = pair.slopes.weights
    inputs, outputs = (t.sae.requires_grad_(False) for t in pair.trainees)
    codes = [training_code(sae, batch[site], K) for sae, site in zip((inputs, outputs), SITES)]
    patterns = [Pattern(code.offsets, code.indices) for code in codes]
    slopes = weights.slopes(batch[SITES[0]])
    part = products._Part(*patterns, len(inputs.W_dec), outputs.W_enc.shape[1], renumber=True)
    left = products._rows(inputs.W_dec, part.in_latents)
    right = products._rows(outputs.W_enc.T, part.out_latents)
    all_columns = slice(0, weights.d_ff)
    factors, pairs = products._factors(weights, left, right, slopes, part=part, columns=all_columns), part.pairs
    J = torch.zeros(int(pairs[-1]))
    kernels.slices(factors, pairs, J)
    signs = J.sign()
    gradients = kernels.gradients(factors, pairs, signs, diagonals=False)

    def back() -> None:
        d_left = gradients.T_in @ weights.W_in.T
        if gradients.T_up is not None and weights.W_up is not None:
            d_left.addmm_(gradients.T_up, weights.W_up.T)
        gradients.T_out @ weights.W_out

    return {
        "slopes of the MLP": lambda: weights.slopes(batch[SITES[0]]),
        "products of weights": lambda: products._factors(weights, left, right, slopes, part=part, columns=all_columns),
        "slices": lambda: kernels.slices(factors, pairs, torch.zeros_like(J)),
        "gradient of the tables": lambda: kernels.gradients(factors, pairs, signs, diagonals=False),
        "gradient of the weights": back,
    }, [len(left), len(right)]


def extra_memory(pair: Pair, batch: dict[str, Tensor]) -> int:
    """Bytes that the penalty's value and gradient take at their peak."""
    inputs, outputs = (t.sae for t in pair.trainees)
    codes = [Code(sae, batch[s], training_code(sae, batch[s], K), K) for sae, s in zip((inputs, outputs), SITES)]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator keeps would hide what is taken
    before = kilobytes("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark
    mean_magnitude(pair.slopes, *codes, 1, at=pair.config.at, max_memory=pair.max_memory).backward()
    peak = kilobytes("VmHWM")
    for sae in (inputs, outputs):
        sae.zero_grad()
    return max(0, 1024 * (peak - before))


def kilobytes(name: str) -> int:
    """A size out of this process's status."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name))


def narrower_pairs(weights: MlpWeights, batch: dict[str, Tensor], free: int) -> tuple[dict[int, Pair], dict[int, str]]:
    """Pairs by a memory bound that makes them work in pieces, below what they take unbounded; bounds that are refused,
    with what is said."""
    narrow, refused = {}, {}
    for bound in (150_000_000, 250_000_000):
        try:
            pair = make_pair(weights, batch, 1.0, 1.0, max_memory=bound)
        except UserError as error:
            refused[bound] = str(error)
            continue
        if bound < free:
            narrow[bound] = pair
    return narrow, refused


def measure(n: int, ends: dict[str, Tensor], weights: MlpWeights, rounds: int) -> dict[str, Any]:
    whole = [{site: x[i : i + n] for site, x in ends.items()} for i in range(0, len(ends[SITES[0]]) - n + 1, n)][:10]
    pairs = {share: make_pair(weights, whole[0], 1.0, share, max_memory=None) for share in SHARES}
    contenders: dict[str, Callable[[], object]] = {
        "pair without penalty": stepper(make_pair(weights, whole[0], 0.0, 1.0, max_memory=None), whole)
    }
    contenders |= {f"pair, penalty on {share:g} of the tokens": stepper(p, whole) for share, p in pairs.items()}
    narrow, refused = narrower_pairs(weights, whole[0], pairs[1.0].n_bytes)
    contenders |= {f"pair, penalty within {bound / 1e6:.0f} MB": stepper(p, whole) for bound, p in narrow.items()}
    dense = peers.sae_lens(ends[SITES[0]].shape[1], D_SAE, K, [batch[SITES[0]] for batch in whole], n_steps=N_STEPS)
    contenders["sae-lens topk"] = dense["sae-lens topk"]
    parts, n_active = parts_of(make_pair(weights, whole[0], 1.0, 1.0, max_memory=None), whole[0])
    seconds = common.rounds_of({**contenders, **parts}, rounds, warm_up=2)
    whole_step, bare = seconds["pair, penalty on 1 of the tokens"], seconds["pair without penalty"]
    seconds["rest"] = [
        step - without - sum(pieces)
        for step, without, *pieces in zip(whole_step, bare, *(seconds[name] for name in parts), strict=True)
    ]
    reference = seconds["sae-lens topk"]
    rows = []
    for name, times in seconds.items():
        ratios = sorted(t / r for t, r in zip(times, reference))
        rows.append(
            {
                "name": name,
                "milliseconds": 1e3 * statistics.median(times),
                "ratio": statistics.median(ratios),
                "ratio_low": ratios[0],
                "ratio_high": ratios[-1],
                "part": name in parts or name == "rest",
            }
        )
    memory = [
        {"bound": p.max_memory, "planned": p.n_bytes, "measured": extra_memory(p, whole[0])}
        for p in (pairs[1.0], *narrow.values())
    ]
    return {"batch": n, "rows": rows, "memory": memory, "refused": refused, "active": n_active}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=record_path("jacobian", "step"))
    arguments = parser.parse_args()
    ends, weights = real_ends(4 * max(arguments.batches))
    sizes = {
        "layer": LAYER,
        "d_in": 576,
        "d_ff": weights.d_ff,
        "d_sae": D_SAE,
        "k": K,
        "rounds": arguments.rounds,
        "sae-lens": importlib.metadata.version("sae-lens"),
    }
    results = []
    for n in arguments.batches:
        measurement = measure(n, ends, weights, arguments.rounds)
        results.append(measurement)
        for row in measurement["rows"]:
            print(
                f"N {n:5d}  {'  ' if row['part'] else ''}{row['name']:42s} {row['milliseconds']:8.1f} ms  "
                f"{row['ratio']:5.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}] × sae-lens topk",
                flush=True,
            )
        for bound, reason in measurement["refused"].items():
            print(f"N {n:5d}  within {bound / 1e6:.0f} MB: refused, {reason}", flush=True)
        for row in measurement["memory"]:
            print(f"N {n:5d}  memory: " + ", ".join(f"{k} {v / 1e6:.0f} MB" for k, v in row.items()), flush=True)
        common.save(arguments.out, {**sizes, "results": results})


if __name__ == "__main__":
    main()
