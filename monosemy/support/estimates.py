"""Estimates the memory and disk that a run needs before it starts, and refuses a run that does not fit.

Place on the data's path: between the configuration and the first stage. The estimate is arithmetic on the
configuration and on a few sizes of the model; it allocates nothing. Symbols: n tokens, d width of a site, m = d_sae.

    activations on disk   n (Σ_sites d · bytes(dtype) + 16)          16 bytes: token id, position, sequence, document
    one SAE               P = 2dm + 3m + d float32 parameters (gated has 3m, the others fewer)
    training, memory      4.5 P per SAE (weights, two Adam moments, and, while a checkpoint is written, a row-ordered
                          copy of these three of the encoder), and P of gradients + 4 arrays [batch, m] for one SAE's
                          step
    checkpoint, disk      3 P per SAE (weights, two moments), twice: the old one stays until the new one is complete
    evaluation, memory    3 float32 arrays of logits, each of 256 MiB or of one sequence, whichever is larger

Limits: these are upper estimates, meant to refuse what cannot work rather than to predict a peak. A fixed allowance
covers sparse codes, the tokenizer and the report.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.support import files
from monosemy.support.flags import flag_of
from monosemy.support.numbers import size_text

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BASE_MEMORY = 1 << 30
"""Interpreter, libraries, tokenizer and report: measured at about 0.7 GiB, plus a reserve."""
LOGIT_BYTES = 1 << 28
ROW_RECORD_BYTES = 16
MARGIN = 1.05


@dataclass(frozen=True)
class Remedy:
    """A way to make a part of a plan smaller."""

    advice: str
    """Advice to the user, such as `lower --d-sae, or …`."""
    settings: tuple[str, ...] = ()
    """The numeric settings to lower, in the order in which they are tried."""


_FEWER_SAES = "lower --d-sae, or train fewer architectures, l0, seeds or sites"
REMEDIES: Mapping[str, Remedy] = {
    "model": Remedy("choose a smaller model, or --model.dtype bfloat16"),
    "SAEs in training": Remedy(f"{_FEWER_SAES} at a time", ("d_sae",)),
    "training step": Remedy("lower --training.batch-tokens or --d-sae", ("d_sae", "training.batch_tokens")),
    "shuffle buffer": Remedy("lower --activations.buffer-tokens or use fewer sites", ("activations.buffer_tokens",)),
    "logits": Remedy("lower --text.context-length or choose a smaller model"),
    "model pass": Remedy(
        "lower --activations.batch-sequences or --text.context-length", ("activations.batch_sequences",)
    ),
    "activations": Remedy(
        "lower --tokens, use fewer sites, or set --activations.storage to stream", ("text.n_tokens",)
    ),
    "token shards": Remedy("lower --tokens", ("text.n_tokens",)),
    "SAEs": Remedy(_FEWER_SAES, ("d_sae",)),
    "checkpoints": Remedy(_FEWER_SAES, ("d_sae",)),
}


class DoesNotFit(UserError):
    """A plan needs more than the machine has. Lowering one of `settings` makes its largest part smaller."""

    def __init__(self, message: str, settings: tuple[str, ...]) -> None:
        super().__init__(message)
        self.settings = settings


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a language model that a plan depends on."""

    n_parameters: int
    n_layers: int
    d_model: int
    vocab_size: int


@dataclass(frozen=True)
class Plan:
    """The bytes that a run needs, by part."""

    memory: Mapping[str, int]
    """Main memory; all parts are held at once."""
    cache_disk: Mapping[str, int]
    """Disk space in the cache folder, for files that later runs use again."""
    run_disk: Mapping[str, int]
    """Disk space in the run folder."""
    remedies: Mapping[str, Remedy] = field(default_factory=lambda: REMEDIES)
    """The remedy for each part."""


@dataclass(frozen=True)
class Cost:
    """What a room that takes part in a run needs, in addition to the SAEs at every site."""

    n_parameters: int = 0
    """The number of float32 parameters of all its own SAEs."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes of main memory, by part."""
    remedies: Mapping[str, Remedy] = field(default_factory=dict)
    """The remedy for each part of `memory`."""


def n_saes_per_site(config: RunConfig) -> int:
    """How many SAEs are trained at each site: architectures × L0s × seeds, and a control per L0 and seed."""
    controls = 1 if config.evaluation.frozen_random else 0
    return (len(config.architectures) + controls) * len(config.l0) * len(config.seeds)


def estimate(
    config: RunConfig,
    widths: Mapping[str, int],
    model: ModelSize,
    *,
    costs: Sequence[Cost] = (),
    reuse_activations: bool = False,
    model_loaded: bool = False,
    n_latent_shards: int = 0,
) -> Plan:
    """Estimates the needs of `config` at sites with the given widths {site: d}.

    `costs` are those of the rooms that take part. With `reuse_activations` the store exists already and needs no disk.
    With `model_loaded` the weights are in memory already and need no more. With `n_latent_shards` SAEs are trained one
    after the other, each over so many processes, and the memory for SAEs is that of one process.
    """
    width = sum(widths.values())
    by_site = [2 * d * config.d_sae + 3 * config.d_sae + d for d in widths.values()]
    largest, parameters = max(by_site), n_saes_per_site(config) * sum(by_site)
    parameters += sum(cost.n_parameters for cost in costs)
    at_once, n_shards = (largest, n_latent_shards) if n_latent_shards else (parameters, 1)
    step = 4 * largest + config.training.batch_tokens * (4 * config.d_sae + 2 * width) * 4
    n_tokens = config.text.n_tokens + config.text.n_validation_tokens
    pass_tokens = config.activations.batch_sequences * config.text.context_length
    # Bytes: parameters and arrays are float32, so 18 = 4 · 4.5 (module docstring). A pass holds about 16 arrays of the
    # residual stream's width per token.
    memory = {
        "model": 0 if model_loaded else model.n_parameters * BYTES[config.model.dtype],
        "model pass": pass_tokens * (16 * model.d_model + width) * 4,
        "logits": 3 * max(LOGIT_BYTES, config.text.context_length * model.vocab_size * 4),
        "SAEs in training": 18 * at_once // n_shards,
        "training step": step // n_shards,
        "libraries": BASE_MEMORY,
    }
    remedies = dict(REMEDIES)
    for cost in costs:
        memory |= cost.memory
        remedies |= cost.remedies
    cache_disk = {"token shards": 2 * 4 * n_tokens}
    if config.activations.storage == "stream":
        memory["shuffle buffer"] = config.activations.buffer_tokens * width * 4
    elif not reuse_activations:
        row = width * BYTES[config.activations.dtype] + ROW_RECORD_BYTES
        cache_disk["activations"] = config.text.n_tokens * row
    run_disk = {"SAEs": parameters * 4, "checkpoints": 2 * 3 * at_once * 4}
    return Plan(memory, cache_disk, run_disk, remedies)


def require_resources(
    plan: Plan,
    folder: Path,
    *,
    cache: Path | None = None,
    memory_available: int | None = None,
    kind: str = "memory",
) -> None:
    """Raises DoesNotFit, a UserError, when the plan does not fit this machine.

    The message says how much is needed, how much is free and what to lower. `folder` is the run's. `cache` defaults to
    the cache folder, and `memory_available` to the bytes that this machine can still give. If both folders are on one
    file system, their needs are added up.
    """
    available = available_memory() if memory_available is None else memory_available
    _require(kind, plan.memory, available, "", remedies=plan.remedies)
    cache = files.cache_folder() if cache is None else cache
    if _same_disk(folder, cache):
        both = {**plan.cache_disk, **plan.run_disk}
        _require("disk", both, files.free_bytes(folder), f" in {folder} and {cache}", remedies=plan.remedies)
        return
    _require("disk", plan.run_disk, files.free_bytes(folder), f" in {folder}", remedies=plan.remedies)
    where = f" in {cache} (move it with MONOSEMY_CACHE)"
    _require("disk", plan.cache_disk, files.free_bytes(cache), where, remedies=plan.remedies)


def _require(
    kind: str, parts: Mapping[str, int], available: int, where: str, *, remedies: Mapping[str, Remedy]
) -> None:
    """Raises DoesNotFit, with the remedy for the largest part, when the parts need more than is available."""
    needed = int(sum(parts.values()) * MARGIN)
    if needed <= available:
        return
    largest = max((part for part in parts if part in remedies), key=lambda part: parts[part])
    raise DoesNotFit(
        f"this run needs about {size_text(needed)} of {kind}{where} and {size_text(available)} are free; most of it "
        f"is for {largest} ({size_text(parts[largest])}): {remedies[largest].advice}",
        remedies[largest].settings,
    )


def value_that_fits(config: RunConfig, refusal: DoesNotFit, require: Callable[[RunConfig], None]) -> str:
    """A hint such as `; e.g. --d-sae 12000`: a lower value of one of the refusal's settings that fits.

    It is the largest value with which `require` does not raise DoesNotFit, rounded down to two digits. Empty where
    lowering one setting alone is not enough.
    """
    for setting in refusal.settings:
        if value := _largest(config, setting, require):
            return f"; e.g. {flag_of(setting)} {value}"
    return ""


def _largest(config: RunConfig, setting: str, require: Callable[[RunConfig], None]) -> int | None:
    """The largest value of one setting that fits, rounded down to two digits; None if not even the lowest fits."""
    section, _, name = setting.rpartition(".")
    of: Any = getattr(config, section) if section else config

    def fits(value: int) -> bool:
        changed = dataclasses.replace(of, **{name: value})
        try:
            require(dataclasses.replace(config, **{section: changed}) if section else changed)
        except DoesNotFit:
            return False
        return True

    low, high = math.ceil(max(config.l0)) if setting == "d_sae" else 1, getattr(of, name)
    if not fits(low):
        return None
    least = low
    # Bisection: `low` always fits, `high`, the present value, does not.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    unit = 10 ** max(0, len(str(low)) - 2)
    return max(least, low // unit * unit)


def _same_disk(a: Path, b: Path) -> bool:
    return files.existing_parent(a).stat().st_dev == files.existing_parent(b).stat().st_dev


def available_memory() -> int:
    """The bytes of main memory that are still available: the machine's, or less where a container sets a limit."""
    import psutil

    available = psutil.virtual_memory().available
    limit = _container_headroom(Path("/sys/fs/cgroup"))
    return available if limit is None else min(available, limit)


def _container_headroom(group: Path) -> int | None:
    """The bytes that a control group (version 2) still allows, counting page cache as free; None without a limit."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(int(limit) - used + int(statistics.get("inactive_file", 0)), 0)
