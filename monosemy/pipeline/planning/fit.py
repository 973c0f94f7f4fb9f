"""Whether a run fits a machine, this one or an assumed one; refuses it, or says what would make it fit.

Place on the path: bytes of a run → **what of them each memory and disk must hold** → the refusal before a run starts,
the plan. On a GPU the parts of `estimates.IN_MAIN_MEMORY` stay in main memory and everything else is on the device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from monosemy.config import RunConfig
from monosemy.support import ranks
from monosemy.support.estimates import (
    IN_MAIN_MEMORY,
    DoesNotFit,
    Plan,
    Windows,
    require_resources,
    require_space,
    value_that_fits,
)
from monosemy.support.flags import flag_of
from monosemy.support.hardware import Hardware

if TYPE_CHECKING:
    import torch

GIGA = 10**9
SHARED = ("SAEs in training", "checkpoint copy", "SAEs in evaluation")
"""The parts of the memory of which each process has its share."""


class Machine(NamedTuple):
    """What a run has, in bytes."""

    n_processes: int = 1
    """On this machine."""
    n_devices: int = 0
    """GPUs that they use; 0 where they run on the processor."""
    device_memory: int | None = None
    """Free on each GPU."""
    main_memory: int | None = None
    """Free; None is not known, and not checked."""
    disk: int | None = None
    """Free, on one disk for all; None is that of this machine, or unknown for an assumed one."""
    n_model_devices: int = 1
    """GPUs that the layers of one model are spread over, equally."""
    vllm_memory: int = 0
    """What vLLM takes of each GPU while it reads activations."""
    assumed: bool = False
    """Whether it is another machine than this one, whose disks are not known."""

    @property
    def n_per_device(self) -> int:
        """Processes on the fullest GPU."""
        return -(-self.n_processes // max(self.n_devices, 1))


def this_machine(config: RunConfig, device: torch.device, n_processes: int) -> Machine:
    """This machine with what is free now, for so many processes that take one GPU after the other."""
    if device.type != "cuda":
        return Machine(n_processes)
    import torch

    # All processes are on one GPU where the configuration names it.
    n_devices = torch.cuda.device_count() if config.model.device in ("auto", "cuda") else 1
    n_model_devices = torch.cuda.device_count() if config.model.device_map != "none" else 1
    free, total = torch.cuda.mem_get_info(device)
    return Machine(
        n_processes,
        min(n_devices, n_processes),
        free,
        n_model_devices=n_model_devices,
        vllm_memory=vllm_memory(config, total),
    )


def vllm_memory(config: RunConfig, of_device: int) -> int:
    """The share of a GPU's bytes that vLLM may take; 0 where it does not read the activations."""
    return int(config.model.gpu_memory * of_device) if config.model.backend.startswith("vllm") else 0


def other_machine(config: RunConfig, hardware: Hardware, n_processes: int | None = None) -> Machine:
    """A machine with these devices: one process on each unless another number is given, one for a spread model and for
    vLLM."""
    spread = config.model.device_map != "none"
    of_vllm = vllm_memory(config, int(hardware.device.memory))
    n_processes = 1 if spread or of_vllm else n_processes or hardware.n_devices
    memory = int(hardware.device.memory)
    n_model_devices = hardware.n_devices if spread else 1
    n_devices = min(hardware.n_devices, n_processes)
    return Machine(n_processes, n_devices, memory, n_model_devices=n_model_devices, vllm_memory=of_vllm, assumed=True)


def memory_of(n_processes: int, memory: Mapping[str, int], *, n_ranks: int, in_slices: bool) -> dict[str, int]:
    """What so many of a run's n_ranks processes need together, of a plan's memory by part.

    Each has a model, and its share of the SAEs; `in_slices`, the plan is of one process's slice already.
    """
    n_sharing = {} if in_slices else dict.fromkeys(SHARED, n_ranks)
    return {part: size * n_processes // n_sharing.get(part, 1) for part, size in memory.items()}


def on_device(plan: Plan, machine: Machine, *, n_ranks: int, in_slices: bool) -> Plan:
    """The part of the plan that the fullest GPU holds."""
    memory = memory_of(machine.n_per_device, plan.memory, n_ranks=n_ranks, in_slices=in_slices)
    memory = {part: n for part, n in memory.items() if part not in IN_MAIN_MEMORY}
    memory["model"] //= machine.n_model_devices
    if machine.vllm_memory:
        memory["vLLM"] = machine.vllm_memory
        # With a store on disk it ends before training.
        memory["vLLM in training"] = 0 if "activations" in plan.cache_disk else machine.vllm_memory
    return dataclasses.replace(plan, memory=memory, cache_disk={}, run_disk={})


def in_main_memory(plan: Plan, machine: Machine, *, n_ranks: int, in_slices: bool) -> Plan:
    """The part of the plan that this machine's main memory and disks hold."""
    memory = memory_of(machine.n_processes, plan.memory, n_ranks=n_ranks, in_slices=in_slices)
    if machine.n_devices:
        memory = {part: n for part, n in memory.items() if part in IN_MAIN_MEMORY}
    return dataclasses.replace(plan, memory=memory)


def require_fit(plan: Plan, machine: Machine, folder: Path, *, n_ranks: int | None = None, in_slices: bool) -> None:
    """Raises DoesNotFit when the machine's memory or disk cannot hold a run.

    `folder` is the run's; n_ranks, of all machines, are by default those of this run.
    """
    n_ranks = n_ranks or ranks.n_ranks()
    if machine.n_devices:
        of_device = on_device(plan, machine, n_ranks=n_ranks, in_slices=in_slices)
        require_space(of_device.most_held, machine.device_memory, kind="GPU memory", remedies=plan.remedies)
    here = in_main_memory(plan, machine, n_ranks=n_ranks, in_slices=in_slices)
    if machine.assumed or machine.disk is not None:
        require_space(here.most_held, machine.main_memory, kind="memory", remedies=plan.remedies)
        require_space({**here.cache_disk, **here.run_disk}, machine.disk, kind="disk", remedies=plan.remedies)
    else:
        require_resources(here, folder, memory_available=machine.main_memory)


def _least_budget(config: RunConfig, widths: Sequence[int], machine: Machine) -> int:
    """The smallest bound on disk, in whole gigabytes, that holds two windows of every process."""
    length = config.text.context_length
    settings = dataclasses.replace(config.activations, disk_budget=0)
    windows = Windows.of(settings, length, -(-config.text.n_tokens // length), widths, n_sharing=machine.n_processes)
    return GIGA * math.ceil(2 * windows.n_bytes * machine.n_processes / GIGA)


def advice(
    config: RunConfig,
    refusal: DoesNotFit,
    require: Callable[[RunConfig, Machine], None],
    machine: Machine,
    *,
    widths: Sequence[int],
) -> Iterator[str]:
    """Yields flags with their values, each of which alone would make a refused run fit, at sites of these widths."""

    def fits(changed: RunConfig, on: Machine = machine) -> bool:
        try:
            require(changed, on)
        except DoesNotFit:
            return False
        return True

    for setting in refusal.settings:
        if value := value_that_fits(
            config, DoesNotFit(str(refusal), (setting,)), lambda changed: require(changed, machine)
        ):
            yield value.removeprefix("; e.g. ")
    if config.model.dtype == "float32":
        half = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
        if fits(half):
            yield f"{flag_of('model.dtype')} bfloat16"
    if config.activations.storage == "disk" and config.training.n_passes == 1:
        settings = dataclasses.replace(config.activations, storage="stream")
        if fits(dataclasses.replace(config, activations=settings)):
            yield f"{flag_of('activations.storage')} stream"
    if config.activations.storage == "disk" and (budget := _least_budget(config, widths, machine)):
        settings = dataclasses.replace(config.activations, storage="windows", disk_budget=budget)
        if fits(dataclasses.replace(config, activations=settings)):
            flags = f"{flag_of('activations.storage')} windows {flag_of('activations.disk_budget')}"
            yield f"{flags} {math.ceil(budget / GIGA)}G"
    for n_processes in (2, 4, 8, 16, 32, 64):
        more = machine._replace(n_processes=n_processes, n_devices=n_processes)
        if machine.assumed and n_processes > machine.n_processes and fits(config, more):
            yield f"{n_processes} devices"
            return
