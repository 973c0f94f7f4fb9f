"""The tables of README.md, from results/scale.json: what was measured, and what follows from it for GPUs.

For R ranks that share the latents, F latents of width d, N rows a step and k active latents (float32, Adam):

    memory     what the planner counts for a slice in training (`support.estimates`: weights, moments, and what a step
               holds); main memory for a checkpoint likewise, for eight processes on a machine
    products   N d F / R units of work at what the planner assumes of an H100 (`assumed_costs`): one and a half products
               with the encoder, at a share of the data sheet's float32 figure; with TF32, which nobody has to choose,
               the encoder's own product at the same share of the TF32 figure
    Adam       d F / R units at the planner's share of the bandwidth
    messages   the measured number, each LATENCY seconds, and their measured bytes at LINK bytes a second
A step takes between the longest of the three, where they overlap, and their sum.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
)
from monosemy.pipeline.planning.costs import STEP, assumed_costs
from monosemy.pipeline.planning.plan import Question, RunPlan, planned
from monosemy.pipeline.planning.sizes import Kind, sae_bytes
from monosemy.pipeline.planning.work import Sizes, seconds_of, work_of
from monosemy.support.estimates import ModelSize, Plan, estimate
from monosemy.support.hardware import DEVICES, PRODUCT_SHARE, hardware_of
from monosemy.support.numbers import duration_text, size_text
from monosemy.support.step_memory import start_bytes, step_bytes
from research.markdown import markdown

Record = Mapping[str, Any]

MODELS = {
    "135M": ModelSize(134_515_008, 30, 576, 49_152, n_block_parameters=106_202_880),
    "1B": ModelSize(1_235_814_400, 16, 2_048, 128_256, n_block_parameters=973_144_064),
    "2B": ModelSize(2_614_341_888, 26, 2_304, 256_000, n_block_parameters=2_024_515_584),
    "8B": ModelSize(8_030_261_248, 32, 4_096, 128_256, n_block_parameters=6_979_584_000),
}
"""SmolLM2-135M, Llama 3.2 1B, Gemma 2 2B, Llama 3.1 8B, from their configurations."""
PLANNED_LATENTS = (16_384, 131_072)
PLANNED_TOKENS = 100_000_000
PLANNED_L0 = (16.0, 32.0, 64.0, 128.0)
HARDWARE = ("rtx4090", "h100", "h100x8")
HOURS = 3_600

LATENTS = 34_000_000
ROWS = 8_192
TOKENS = 10**9
WIDTHS = (576, 2_304, 4_096)
RANKS = (8, 64)
L0 = 64.0
GPUS_PER_MACHINE = 8
ON_GPU = ("SAEs in training", "training step", "start of training")
"""The planner's parts that a slice holds on its GPU."""
GPU = DEVICES["h100"]
TF32 = 494e12
"""Operations a second of an H100 in TF32, dense, by its data sheet."""
LINK, LATENCY = 4e10, 3e-5
"""Assumed of the network: bytes a second, and seconds a message."""
USABLE = 0.9
"""The part of a GPU's memory that a slice may fill."""
GB = 1e9


class Cost(NamedTuple):
    """What a rank needs, and how long a step takes."""

    n_bytes: float
    """Memory of the GPU."""
    main_bytes: float
    """Main memory of a machine of `GPUS_PER_MACHINE`, while a checkpoint is written."""
    checkpoint_bytes: float
    """The checkpoint of all ranks, on disk."""
    products: float
    products_tf32: float
    adam: float
    messages: float

    @property
    def least(self) -> float:
        return max(self.products, self.adam, self.messages)

    @property
    def most(self) -> float:
        return self.products + self.adam + self.messages

    @property
    def most_tf32(self) -> float:
        return self.products_tf32 + self.adam + self.messages


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record, plans = records["scale"], records["plans"]
    return {
        "plans": plan_table(plans),
        "plan-check": check_table(plans["check"]),
        "share": share_table(record["share"]),
        "messages": message_table(record["messages"]),
        "collectives": collective_table(record["messages"]["collectives"]),
        "gpus": gpu_table(record),
        "memory": memory_table(records["memory"]),
        "processes": processes_table(records["processes"]),
    }


def share_table(share: Record) -> str:
    seconds = share["cpu_seconds"]
    rows = [
        ("latents of the slice", f"{share['n_latents']:,} at d {share['d_in']}"),
        ("of a 64th of 34 million", f"{64 * share['n_latents'] / LATENTS:.0%}"),
        ("weights", f"{share['weight_bytes'] / GB:.2f} GB"),
        ("most memory held", f"{share['peak_bytes'] / GB:.2f} GB, {memory_factor(share):.2f} times 32 d F"),
        ("steps, after one that does not count", f"{share['n_steps']}"),
        ("rows a step, L0", f"{share['n_rows']}, {share['l0']}"),
        *((f"{name}, CPU seconds", f"{value:.2f}") for name, value in seconds.items()),
        ("a step, CPU seconds", f"{sum(seconds.values()):.2f}"),
    ]
    return markdown(("one rank, one core", "measured"), rows)


def memory_table(record: Record) -> str:
    """What steps held beside the planner's figure, case by case."""
    body = []
    for case in record["cases"]:
        planned_bytes = max(planned_start(case, record), planned_step(case, record)) + case["weights_and_moments"]
        body.append(
            (
                case["architecture"]
                + (", in slices" if case["in_slices"] else "")
                + ("" if case.get("screen", True) else ", no screen"),
                f"{case['n_latents']:,}",
                f"{case['n_rows']:,}",
                *(f"{n / GB:.2f}" for n in (case["weights_and_moments"], case["start_bytes"], case["step_bytes"])),
                f"{planned_bytes / GB:.2f}",
                f"{case['checkpoint_bytes'] / GB:.2f}" if "checkpoint_bytes" in case else "",
            )
        )
    held = ("weights and moments, GB", "the start, GB", "a step, GB", "planned, GB", "a checkpoint, GB")
    return markdown(("architecture", "latents", "rows", *held), body)


def planned_start(case: Record, record: Record) -> int:
    """The planner's figure for the start of a measured case."""
    return start_bytes(record["d_in"], case["n_latents"], in_slices=case["in_slices"])


def planned_step(case: Record, record: Record) -> int:
    """The planner's figure for a step of a measured case."""
    d_in, n_latents = record["d_in"], case["n_latents"]
    return step_bytes(
        case["n_rows"],
        d_in,
        n_latents,
        n_parameters=2 * d_in * n_latents,
        row_width=d_in,
        l0=record["l0"],
        on_gpu=False,
    )


def message_table(messages: Record) -> str:
    rows = [
        (f"over {axis}", f"{count['messages']:.0f}", f"{count['bytes'] / 2**20:.2f}")
        for axis, count in messages["axes"].items()
    ]
    return markdown(("a rank's sums in a step", "messages", "MiB"), rows)


def collective_table(collectives: Sequence[Record]) -> str:
    rows = [(f"{row['bytes']:,}", f"{1e3 * row['seconds']:.2f}") for row in collectives]
    return markdown(("bytes", "ms, two processes, gloo"), rows)


def memory_factor(share: Record) -> float:
    """How many times 32 d F, which counts weights, moments and gradients alone, the measured slice took."""
    return float(share["peak_bytes"] / (32 * share["d_in"] * share["n_latents"]))


def cost(d_in: int, n_ranks: int, record: Record) -> Cost:
    """Of a step of `ROWS` rows on `n_ranks` GPUs that share the latents out."""
    n_weights = d_in * LATENTS / n_ranks
    messages = record["messages"]
    sent, sizes = messages["axes"]["latents"], messages["sizes"]
    # x̂ is the one message that grows with the width; the counts of the search grow with the rows.
    counts = sent["bytes"] - 4 * sizes["n_rows"] * record["share"]["d_in"]
    n_bytes = (counts + 4 * sizes["n_rows"] * d_in) * ROWS / sizes["n_rows"]
    # A sum over ranks sends and receives nearly twice its size, whatever their number.
    seconds = sent["messages"] * LATENCY + 2 * n_bytes / LINK
    assumed = assumed_costs(GPU, "float32")
    products = ROWS * n_weights * assumed["step"]
    plan = slice_plan(d_in, n_ranks)
    return Cost(
        sum(plan.memory[part] for part in ON_GPU),
        min(n_ranks, GPUS_PER_MACHINE) * plan.memory["checkpoint copy"],
        sae_bytes(_wide_run(), Kind("topk", d_in, L0)).checkpoint,
        products,
        products_tf32=products * (STEP - 1) / STEP + 2 * ROWS * n_weights / (PRODUCT_SHARE * TF32),
        adam=n_weights * assumed["update"],
        messages=seconds,
    )


def slice_plan(d_in: int, n_ranks: int) -> Plan:
    """The planner's bytes of a TopK SAE of `LATENTS` in as many slices as there are GPUs."""
    widths, model = {"layers.0.resid_post": d_in}, ModelSize(0, 0, 0, 0)
    return estimate(_wide_run(), widths, model, n_latent_shards=n_ranks, on_gpu=True)


def _wide_run() -> RunConfig:
    return RunConfig(architectures=("topk",), l0=(L0,), d_sae=LATENTS, training=TrainingConfig(batch_tokens=ROWS))


def gpu_table(record: Record) -> str:
    body = []
    for d_in in WIDTHS:
        for n_ranks in RANKS:
            needed = cost(d_in, n_ranks, record)
            fits = needed.n_bytes < USABLE * GPU.memory
            hours, hours_tf32 = (
                f"{TOKENS / ROWS * seconds / HOURS * n_ranks:,.0f}" if fits else "–"
                for seconds in (needed.most, needed.most_tf32)
            )
            body.append(
                (
                    f"{d_in:,}",
                    f"{n_ranks}",
                    f"{needed.n_bytes / GB:.1f}" + ("" if fits else " (too much)"),
                    f"{needed.main_bytes / GB:,.0f}",
                    *(f"{1e3 * part:,.1f}" for part in (needed.products, needed.adam, needed.messages)),
                    f"{1e3 * needed.least:,.0f}–{1e3 * needed.most:,.0f}",
                    f"{ROWS / needed.most:,.0f}–{ROWS / needed.least:,.0f}",
                    hours,
                    hours_tf32,
                    f"{2 * d_in * TOKENS / 1e12:.1f}",
                    f"{needed.checkpoint_bytes / 1e12:.2f}",
                )
            )
    needs = ("GB a GPU", "GB of main memory, checkpoint")
    times = ("products, ms", "Adam, ms", "messages, ms", "step, ms", "tokens/s")
    of_run = ("GPU hours for 10⁹ tokens", "the same with TF32", "activations, TB", "a checkpoint, TB")
    return markdown(("d", "GPUs", *needs, *times, *of_run), body)


def sizes_of_table(model: str, n_latents: int, *, dtype: str = "bfloat16") -> Sizes:
    """The run of the table: four TopK SAEs at the site after the middle layer, on 100 million tokens."""
    size = MODELS[model]
    site = f"layers.{size.n_layers // 2 - 1}.resid_post"
    config = RunConfig(
        model=ModelConfig(dtype=dtype),  # type: ignore[arg-type]
        text=TextConfig(n_tokens=PLANNED_TOKENS, context_length=256),
        activations=ActivationsConfig(sites=(site,)),
        architectures=("topk",),
        l0=PLANNED_L0,
        d_sae=n_latents,
        training=TrainingConfig(batch_tokens=4_096),
        evaluation=EvaluationConfig(frozen_random=False, pca=False),
    )
    return Sizes(config, size, {site: size.d_model})


def plan_on(hardware: str, sizes: Sizes) -> RunPlan:
    question = Question(hardware_of(hardware))
    return planned(sizes, Path(), question, d_heads=sizes.model.d_model)


def plan_table(record: Record) -> str:
    """Memory, disk and time of the run of the table, by model and width; what is assumed is said beside it."""
    body = []
    for model in MODELS:
        for n_latents in PLANNED_LATENTS:
            sizes = sizes_of_table(model, n_latents)
            plans = [plan_on(hardware, sizes) for hardware in HARDWARE]
            disk, saes = plans[1].plan.cache_disk["activations"], plans[1].plan.run_disk
            here = seconds_of(work_of(sizes), {**record["speeds"], "second": 1.0, "token": 8e-6, "byte": 1e-9})
            basis = "measured speed" if (model, n_latents) == ("135M", PLANNED_LATENTS[0]) else "extrapolated"
            body.append(
                (
                    model,
                    f"{n_latents:,}",
                    size_text(sum(plans[1].most_on_device.values())),
                    size_text(sum(plans[2].most_on_device.values())),
                    size_text(disk),
                    size_text(saes["SAEs"] + saes["checkpoints"]),
                    f"{sum(here.values()) / HOURS:,.0f} h, {basis}",
                    *(time_text(plan) for plan in plans),
                )
            )
    heads = ("model", "latents", "memory, one GPU", "memory, each of 8", "activations", "SAEs and checkpoints")
    times = ("one core, float32", "RTX 4090, assumed", "H100, assumed", "8 × H100, assumed")
    return markdown((*heads, *times), body)


def time_text(plan: RunPlan) -> str:
    seconds = sum(stage.seconds or 0 for stage in plan.stages)
    return duration_text(seconds) if plan.refusal is None else "too much memory"


def check_table(check: Record) -> str:
    planned_values, done = check["planned"], check["done"]
    rows = [
        ("CPU seconds, one thread", f"{planned_values['seconds']:.0f}", f"{done['seconds']:.0f}"),
        ("most memory", size_text(planned_values["memory"]), size_text(done["memory"])),
        ("bytes of the SAEs' tensors", f"{planned_values['sae_bytes']:,}", f"{done['sae_bytes']:,}"),
    ]
    return markdown(("a short run of `quick`, SmolLM2-135M", "planned", "done"), rows)


def processes_table(record: Record) -> str:
    """Medians over the rounds, with the extremes: how many times as fast two processes are, and how even the shares."""
    rounds: Sequence[Mapping[str, Any]] = record["rounds"]
    titles = {"activations": "harvest", "training": "training", "whole": "whole command"}
    ratios = {
        f"{title}, times as fast": [pair["1"][key] / pair["2"][key] for pair in rounds] for key, title in titles.items()
    }
    uneven = [max(pair["2"]["ranks"]) / min(pair["2"]["ranks"]) - 1 for pair in rounds]
    body = [[title, _spread(values)] for title, values in ratios.items()]
    if in_slices := record.get("rounds_in_slices"):
        values = [pair["1"]["training"] / pair["2"]["training"] for pair in in_slices]
        body.append(["training SAEs in two slices each, times as fast", _spread(values)])
    longer = f"{100 * statistics.median(uneven):.0f}% [{100 * min(uneven):.0f}, {100 * max(uneven):.0f}]"
    return markdown(["", "two processes beside one"], [*body, ["longer share over the shorter", longer]])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
