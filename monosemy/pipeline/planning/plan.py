"""The plan of a run: bytes and seconds of every stage on a machine, and whether it fits there.

Place on the path: settings → sizes, work and costs → **plan** → `text`, which prints it (`monosemy plan`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosemy.config import RunConfig, taking_part
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_config, widths_of
from monosemy.pipeline.planning.costs import assumed_costs, measured_costs
from monosemy.pipeline.planning.fit import (
    Machine,
    advice,
    in_main_memory,
    on_device,
    other_machine,
    require_fit,
    this_machine,
)
from monosemy.pipeline.planning.sizes import bytes_of_run
from monosemy.pipeline.planning.work import Sizes, Slices, Work, seconds_of, stage_group, work_of
from monosemy.support.estimates import DoesNotFit, Plan
from monosemy.support.hardware import Hardware


@dataclass(frozen=True)
class Question:
    """What is asked of a plan beside the run's settings."""

    hardware: Hardware | None = None
    """Another machine; None is this one."""
    n_processes: int | None = None
    n_latent_shards: int = 0
    measure: bool = True
    """Whether this machine is timed; without, its plan has no times."""
    main_memory: int | None = None
    disk: int | None = None
    """Bytes of the machine, where they are not this machine's."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs and takes."""

    name: str
    memory: int
    """Main memory of all processes on the machine together, in bytes."""
    device_memory: int
    """Memory of the fullest GPU, in bytes; 0 without GPUs."""
    seconds: float | None
    """None where nothing was measured or assumed."""


@dataclass(frozen=True)
class RunPlan:
    """The whole plan."""

    sizes: Sizes
    question: Question
    machine: Machine
    plan: Plan
    costs: Mapping[str, float]
    """Seconds a unit of work; empty where not known."""
    stages: tuple[StagePlan, ...]
    refusal: DoesNotFit | None
    """Why it does not fit; None where it does."""
    advice: tuple[str, ...]
    """Flags of which any one alone would make it fit."""

    @property
    def n_ranks(self) -> int:
        return self.machine.n_processes

    @property
    def most(self) -> Mapping[str, int]:
        """The parts of main memory that one process holds in its most demanding stage."""
        single = self.machine._replace(n_processes=1)
        here = in_main_memory(self.plan, single, n_ranks=self.n_ranks, in_slices=self.question.n_latent_shards > 0)
        return here.most_held

    @property
    def most_on_device(self) -> Mapping[str, int]:
        """The same of the fullest GPU; empty without GPUs."""
        if not self.machine.n_devices:
            return {}
        in_slices = self.question.n_latent_shards > 0
        return on_device(self.plan, self.machine, n_ranks=self.n_ranks, in_slices=in_slices).most_held


def plan_run(config: RunConfig, folder: Path, question: Question) -> RunPlan:
    """The plan of a run in `folder`. Raises UserError for settings that cannot work, and as `load_model` does."""
    from monosemy.models.engine import require_backend
    from monosemy.models.sources import model_size

    check_config(config)
    require_backend(config.model, question.n_processes or 1)
    if any(room.activations for room in taking_part(config)):
        raise UserError("rows of your own need no plan: they lie where they are; monosemy train says what does not fit")
    size, d_heads = model_size(config.model.source, config.model.revision)
    sizes = Sizes(config, size, widths_of(config, size.d_model, d_heads))
    return planned(sizes, folder, question, d_heads=d_heads)


def planned(sizes: Sizes, folder: Path, question: Question, *, d_heads: int) -> RunPlan:
    """The plan of a run whose sizes are known."""
    config, n_shards = sizes.config, question.n_latent_shards
    machine = _machine(config, question)
    on_cpu = not machine.n_devices

    def bytes_of(changed: RunConfig) -> Plan:
        widths = widths_of(changed, sizes.model.d_model, d_heads)
        return bytes_of_run(
            changed,
            widths,
            sizes.model,
            n_latent_shards=n_shards,
            on_cpu=on_cpu,
            n_processes=machine.n_processes,
        )

    def require(changed: RunConfig, on: Machine) -> None:
        require_fit(bytes_of(changed), on, folder, n_ranks=on.n_processes, in_slices=n_shards > 0)

    refusal, ways = None, tuple[str, ...]()
    try:
        require(config, machine)
    except DoesNotFit as error:
        refusal, ways = error, tuple(advice(config, error, require, machine, widths=list(sizes.widths.values())))
    plan = bytes_of(config)
    costs = _costs(sizes, question, refused=refusal is not None)
    slices = Slices(n_shards, machine.n_per_device) if n_shards else None
    amounts = work_of(sizes, n_devices=max(machine.n_devices, 1), slices=slices)
    seconds = seconds_of(amounts, costs) if costs else {}
    stages = _stages(amounts, machine, plan, seconds, in_slices=n_shards > 0)
    return RunPlan(sizes, question, machine, plan, costs=costs, stages=stages, refusal=refusal, advice=ways)


def _machine(config: RunConfig, question: Question) -> Machine:
    if question.hardware:
        machine = other_machine(config, question.hardware, question.n_processes)
    else:
        from monosemy.models.sources import choose_device

        machine = this_machine(config, choose_device(config.model.device), question.n_processes or 1)
    return machine._replace(main_memory=question.main_memory, disk=question.disk)


def _costs(sizes: Sizes, question: Question, *, refused: bool) -> Mapping[str, float]:
    """Seconds a unit of work: assumed of other hardware, measured here unless the run does not even fit."""
    model = sizes.config.model
    if question.hardware:
        return assumed_costs(question.hardware.device, model.dtype)
    if not question.measure or refused:
        return {}
    from monosemy.models.sources import load_model

    loaded = load_model(
        model.source, revision=model.revision, dtype=model.dtype, device=model.device, randomise=model.randomise
    )
    return measured_costs(sizes, loaded)


def _stages(
    amounts: Sequence[Work], machine: Machine, plan: Plan, seconds: Mapping[str, float], *, in_slices: bool
) -> tuple[StagePlan, ...]:
    """Every stage with the memory that it holds."""
    options: dict[str, Any] = {"n_ranks": machine.n_processes, "in_slices": in_slices}
    here, there = in_main_memory(plan, machine, **options), on_device(plan, machine, **options)
    stages = []
    for work in amounts:
        group = stage_group(work.stage)
        held = sum(here.held_in(group).values())
        on_gpu = sum(there.held_in(group).values()) if machine.n_devices else 0
        stages.append(StagePlan(work.stage, held, on_gpu, seconds.get(work.stage)))
    return tuple(stages)
