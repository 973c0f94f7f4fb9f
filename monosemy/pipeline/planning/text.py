"""Prints the plan of a run (`monosemy plan`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monosemy.pipeline.planning import work
from monosemy.pipeline.planning.costs import named_costs
from monosemy.pipeline.planning.plan import RunPlan
from monosemy.pipeline.planning.sizes import kinds_of
from monosemy.support import files
from monosemy.support.estimates import available_memory
from monosemy.support.hardware import BANDWIDTH_SHARE, MODEL_SHARE, PRODUCT_SHARE
from monosemy.support.numbers import count_text, counted_text, duration_text, fixed_percent_text, size_text
from monosemy.support.wording import sites_text

MEASURED, ASSUMED = "measured", "assumed"


def plan_page(plan: RunPlan, folder: Path, machine: str) -> str:
    """The whole plan as text. `machine` is this machine in words."""
    lines = [_about(plan), _where(plan, machine), _speeds(plan), "", *_stage_table(plan), ""]
    lines += [f"{_stage_of_most(plan)}: {_parts(plan.most)}"] if not plan.machine.n_devices else []
    if plan.machine.n_devices:
        lines += [
            f"a device, {_stage_of_most(plan)}: {_parts(plan.most_on_device)}",
            f"main memory: {_parts(plan.most)}",
        ]
    lines += [f"disk, cache: {_parts(plan.plan.cache_disk)}", f"disk, run: {_parts(plan.plan.run_disk)}"]
    lines += [*_again(plan), *_of_slices(plan)]
    lines += ["", *_verdict(plan, folder)]
    return "\n".join(line for line in lines if line is not None)


def _about(plan: RunPlan) -> str:
    config, widths = plan.sizes.config, plan.sizes.widths
    n_saes = sum(kinds_of(config, widths).values())
    own = f"{counted_text(n_saes, 'SAE')} of {counted_text(config.d_sae, 'latent')}" if n_saes else "dictionaries"
    passes = "once" if config.training.n_passes == 1 else f"{count_text(config.training.n_passes)} times"
    sites = counted_text(len(widths), "site") + (f" ({sites_text(widths)})" if len(widths) > 1 else "")
    return (
        f"{config.recipe}: {own} at {sites} of {config.model.source} "
        f"({count_text(plan.sizes.model.n_parameters)} parameters, {config.model.dtype}), on "
        f"{counted_text(plan.sizes.n_tokens, 'token')} read {passes}"
    )


def _where(plan: RunPlan, machine: str) -> str:
    if hardware := plan.question.hardware:
        return (
            f"on {hardware.name} ({size_text(hardware.device.memory)} a device), "
            f"{_counted(plan.machine.n_processes, 'process', 'processes')}"
        )
    return f"on this machine ({machine}), {_counted(plan.machine.n_processes, 'process', 'processes')}"


def _counted(n: int, singular: str, plural: str) -> str:
    return f"{count_text(n)} {singular if n == 1 else plural}"


def _speeds(plan: RunPlan) -> str:
    if not plan.costs:
        return "times: not measured"
    speeds = named_costs(plan.costs, plan.sizes)
    backend = plan.sizes.config.model.backend
    through = (
        "" if backend == "transformers" else f" through transformers (activations come through {backend}, untimed)"
    )
    model, step = count_text(speeds["model"]), count_text(speeds["step"])
    speed_text = f"the model {model} tokens/s{through}, one SAE {step} rows/s in training"
    if not plan.question.hardware:
        return f"times {MEASURED} on this machine just now: {speed_text}"
    shares = ", ".join(
        f"{fixed_percent_text(share)} of its {figure}"
        for share, figure in (
            (MODEL_SHARE, "speed for the model"),
            (PRODUCT_SHARE, "float32 speed for SAEs"),
            (BANDWIDTH_SHARE, "bandwidth"),
        )
    )
    return f"times {ASSUMED}, not measured: the data sheet's {shares}; {speed_text}"


def _stage_table(plan: RunPlan) -> list[str]:
    several = plan.machine.n_processes > 1
    heads = ["stage", "memory, machine" if several else "memory"]
    heads += ["memory, a device"] if plan.machine.n_devices else []
    rows = [[*heads, "time"]]
    for stage in plan.stages:
        memory = [size_text(stage.memory)]
        memory += [size_text(stage.device_memory)] if plan.machine.n_devices else []
        rows.append([stage.name, *memory, "–" if stage.seconds is None else duration_text(stage.seconds)])
    most = [size_text(max(stage.memory for stage in plan.stages))]
    most += [size_text(max(stage.device_memory for stage in plan.stages))] if plan.machine.n_devices else []
    seconds = [stage.seconds for stage in plan.stages if stage.seconds is not None]
    rows.append(["most, and in all", *most, duration_text(sum(seconds)) if seconds else "–"])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]


def _stage_of_most(plan: RunPlan) -> str:
    most = max(plan.stages, key=lambda stage: (stage.device_memory, stage.memory))
    return f"most memory, in {most.name}"


def _again(plan: RunPlan) -> list[str]:
    """What is said of windows of activations that are deleted behind the training."""
    n_processes = plan.machine.n_processes
    if plan.sizes.config.activations.storage != "windows":
        return []
    n_readings = work.n_readings(plan.sizes, n_processes=n_processes)
    each = " in each process" if n_processes > 1 else ""
    if n_readings > 1:
        times = f"{count_text(n_readings)} times{each}, once a pass"
        return [f"windows are deleted behind the training, so the model reads the text {times}"]
    return [f"the model reads the text once{each}"]


def _of_slices(plan: RunPlan) -> list[str]:
    """What is said of dictionaries whose latents are shared out."""
    if not plan.question.n_latent_shards:
        return []
    return [
        f"each SAE in {_counted(plan.question.n_latent_shards, 'slice', 'slices')}, on all processes: messages between "
        "them are not counted in the time, and the evaluation is one process's"
    ]


def _parts(parts: Mapping[str, int]) -> str:
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{part} {size_text(n)}" for part, n in ordered if n) or "nothing"


def _verdict(plan: RunPlan, folder: Path) -> list[str]:
    if plan.refusal is None:
        return [f"it fits: {_free(plan, folder)}"]
    lines = [f"it does not fit: {str(plan.refusal).removeprefix('this run ')}"]
    if plan.advice:
        return [*lines, "any one of these alone makes it fit:", *(f"  {way}" for way in plan.advice)]
    return [*lines, "no single setting makes it fit; change several, or take a larger machine"]


def _free(plan: RunPlan, folder: Path) -> str:
    machine, amounts = plan.machine, []
    if machine.device_memory is not None:
        amounts.append(f"{size_text(machine.device_memory)} a device")
    memory = machine.main_memory
    if memory is None and not machine.assumed:
        memory = available_memory()
    disk = machine.disk
    if disk is None and not machine.assumed:
        disk = files.free_bytes(folder)
    amounts += [f"{size_text(memory)} of memory"] if memory is not None else []
    amounts += [f"{size_text(disk)} of disk"] if disk is not None else []
    unknown = [name for name, n in (("main memory", memory), ("disk", disk)) if n is None]
    free = f"{', '.join(amounts)} {'are there' if machine.assumed else 'are free'}"
    return free + (f"; {' and '.join(unknown)} were not given, so not checked" if unknown else "")
