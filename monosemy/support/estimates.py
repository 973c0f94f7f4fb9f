"""Estimates the memory and disk that a run needs before it starts, and refuses a run that does not fit.

Place on the data's path: between the configuration and the first stage. The estimate is arithmetic on the
configuration and on a few sizes of the model; it allocates nothing. Symbols: n tokens, d width of a site, m = d_sae.

    tokens on disk        8 bytes: token id, document; n is rounded up to whole sequences of T tokens
    activations on disk   n (T − dropped)/T (Σ_sites d · bytes(dtype) + 16)     16 bytes: token id, position, sequence,
                          document; `dropped` first positions of every sequence; no more are known before
    one SAE               P = 2dm + 3m + d float32 parameters (gated has 3m, the others fewer)
    harvest, memory       3 shards of activations: its rows, the rows in one piece, the bytes of its file
    training, memory      3 P per SAE (weights, two Adam moments), and what steps hold of those that step at the same
                          time, or what the start of one holds, if that is more (`step_memory`)
    checkpoint, memory    1.5 P per SAE: a row-ordered copy of the encoder's three. With a GPU 3 P, in main memory. In
                          slices it is written matrix by matrix, when there are no gradients: with a GPU 1.5 P in main
                          memory, none on a processor
    checkpoint, disk      3 P per SAE (weights, two moments), twice: the old one stays until the new one is complete
    evaluation, memory    P per SAE, and 3 float32 arrays of logits, each of 256 MiB or of one sequence, whichever is
                          larger

A stage holds some of these parts (`STAGES`), and a run needs what its most demanding stage holds.

A refusal compares all parts together and 5% more (`MARGIN`) with what is free.

Limits: meant to refuse what cannot work. They are upper estimates of what the code allocates; files mapped into
memory come on top, which the system can take back. On small runs the fixed allowance for libraries, sparse codes,
tokenizer and report is most of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from monosemy.config import ActivationsConfig, RunConfig
from monosemy.errors import UserError
from monosemy.support import files
from monosemy.support.flags import flag_of
from monosemy.support.numbers import counted_text, size_text
from monosemy.support.step_memory import start_bytes, step_bytes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BASE_MEMORY = 1 << 30
"""Interpreter, libraries, tokenizer and report: measured at about 0.7 GiB, plus a reserve."""
LOGIT_BYTES = 1 << 28
ROW_RECORD_BYTES = 16
MARGIN = 1.05
CALIBRATION_TOKENS = 32_768
"""How many rows of every site are held to calibrate SAEs and to fit controls."""
HELD_ROWS_BYTES = 1 << 31
"""The most memory that they may take, in float32."""
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 16 << 20, 1 << 30
WINDOW_PARTS = 8
"""About how many files a window of activations has, unless that makes them too small."""
FILE_BYTES = 1 << 16
"""More than a file of activations has beside its rows and sums: its header."""

HARVEST, TRAINING, EVALUATION, OTHER = "harvest", "training", "evaluation", "other"
STAGES: Mapping[str, frozenset[str]] = {
    "model": frozenset((HARVEST, TRAINING, EVALUATION, OTHER)),
    "libraries": frozenset((HARVEST, TRAINING, EVALUATION, OTHER)),
    "model pass": frozenset((HARVEST, EVALUATION)),
    "activation shard": frozenset((HARVEST,)),
    "vLLM": frozenset((HARVEST, EVALUATION)),
    "held rows": frozenset((TRAINING, EVALUATION)),
    "SAEs in evaluation": frozenset((EVALUATION,)),
    "logits": frozenset((EVALUATION,)),
}
"""The stages that hold a part of the memory; parts that are not named here are held in training alone."""
IN_MAIN_MEMORY = ("libraries", "shuffle buffer", "activation shard", "window shard", "checkpoint copy")
"""The parts that stay in main memory where a GPU holds the others."""


@dataclass(frozen=True)
class Remedy:
    """A way to make a part of a plan smaller."""

    advice: str
    """Advice to the user, such as `lower --d-sae, or …`."""
    settings: tuple[str, ...] = ()
    """The numeric settings to lower, in the order in which they are tried."""


_FEWER_SAES = "lower --d-sae, or train fewer architectures, l0, seeds or sites"
_LESS_VLLM = Remedy("lower --model.gpu-memory, or --model.device cpu keeps all else off the GPU")
REMEDIES: Mapping[str, Remedy] = {
    "vLLM": _LESS_VLLM,
    "vLLM in training": _LESS_VLLM,
    "model": Remedy("choose a smaller model, or --model.dtype bfloat16"),
    "SAEs in training": Remedy(f"{_FEWER_SAES} at a time", ("d_sae",)),
    "start of training": Remedy("lower --d-sae", ("d_sae",)),
    "checkpoint copy": Remedy(f"{_FEWER_SAES} at a time", ("d_sae",)),
    "training step": Remedy("lower --training.batch-tokens or --d-sae", ("d_sae", "training.batch_tokens")),
    "shuffle buffer": Remedy("lower --activations.buffer-tokens or use fewer sites", ("activations.buffer_tokens",)),
    "logits": Remedy("lower --text.context-length or choose a smaller model"),
    "model pass": Remedy(
        "lower --activations.batch-sequences or --text.context-length", ("activations.batch_sequences",)
    ),
    "activations": Remedy(
        "lower --tokens, use fewer sites, or set --activations.storage to windows or stream", ("text.n_tokens",)
    ),
    "token shards": Remedy("lower --tokens", ("text.n_tokens",)),
    "activation windows": Remedy("lower --activations.disk-budget", ("activations.disk_budget",)),
    "window shard": Remedy("lower --activations.window-tokens", ("activations.window_tokens",)),
    "activation shard": Remedy("lower --tokens or use fewer sites", ("text.n_tokens",)),
    "held rows": Remedy("use fewer sites"),
    "SAEs in evaluation": Remedy(f"{_FEWER_SAES} at a time", ("d_sae",)),
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
    n_block_parameters: int = 0
    """Those of the layers alone, without embeddings and head."""


@dataclass(frozen=True)
class Plan:
    """The bytes that a run needs, by part."""

    memory: Mapping[str, int]
    """Main memory; a stage holds some of the parts (`held_in`)."""
    cache_disk: Mapping[str, int]
    """Disk space in the cache folder, for files that later runs use again."""
    run_disk: Mapping[str, int]
    """Disk space in the run folder."""
    remedies: Mapping[str, Remedy] = field(default_factory=lambda: REMEDIES)
    """The remedy for each part."""

    def held_in(self, stage: str) -> dict[str, int]:
        """The parts of the memory that one of the stages holds at the same time."""
        return {part: n for part, n in self.memory.items() if stage in STAGES.get(part, (TRAINING,))}

    @property
    def most_held(self) -> dict[str, int]:
        """The parts of the memory that the most demanding stage holds."""
        return max((self.held_in(stage) for stage in (HARVEST, TRAINING, EVALUATION)), key=lambda p: sum(p.values()))


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
    n_latent_shards: int = 0,
    n_at_once: int = 1,
    n_sharing: int = 1,
    on_gpu: bool = False,
) -> Plan:
    """Estimates the needs of `config` at sites with the given widths {site: d}.

    `costs` are those of the rooms that take part.
    With `n_latent_shards` SAEs are trained one
    after the other, each over so many processes, and the memory for SAEs is that of one process. `n_at_once` SAEs step
    side by side; `n_sharing` processes share a bound on disk. `on_gpu`: SAEs are trained on GPUs, with kernels of their
    own.
    """
    width = sum(widths.values())
    by_site = [2 * d * config.d_sae + 3 * config.d_sae + d for d in widths.values()]
    largest, parameters = max(by_site), n_saes_per_site(config) * sum(by_site)
    parameters += sum(cost.n_parameters for cost in costs)
    at_once, n_shards = (largest, n_latent_shards) if n_latent_shards else (parameters, 1)
    start = start_bytes(max(widths.values()), config.d_sae, in_slices=n_latent_shards > 0)
    step = step_bytes(
        config.training.batch_tokens,
        max(widths.values()),
        -(-config.d_sae // n_shards),
        n_parameters=largest // n_shards,
        row_width=width,
        l0=max(config.l0, default=0.0),
        on_gpu=on_gpu,
    )
    pass_tokens = config.activations.batch_sequences * config.text.context_length
    # Bytes: parameters and arrays are float32, so 12 = 4 · 3 (module docstring). A pass holds about 16 arrays of the
    # residual stream's width per token.
    n_loss, logit_bytes = config.evaluation.n_loss_tokens, 4 * model.vocab_size
    memory = {
        "model": model_bytes(config, model),
        "model pass": pass_tokens * (16 * model.d_model + width) * 4,
        "logits": 3 * max(min(LOGIT_BYTES, n_loss * logit_bytes), config.text.context_length * logit_bytes),
        "SAEs in training": 12 * at_once // n_shards,
        "checkpoint copy": _copied_bytes(on_gpu, in_slices=n_latent_shards > 0) * at_once // n_shards,
        "training step": n_at_once * step,
        # What the start holds beyond that: the two are not held together.
        "start of training": max(0, start - n_at_once * step),
        "held rows": 2 * min(4 * CALIBRATION_TOKENS * width, HELD_ROWS_BYTES),
        # What is trained in slices is evaluated by another command, which has a check of its own.
        "SAEs in evaluation": 0 if n_latent_shards else 4 * parameters,
        "libraries": BASE_MEMORY,
    }
    remedies = dict(REMEDIES)
    for cost in costs:
        memory |= cost.memory
        remedies |= cost.remedies
    length = config.text.context_length
    n_train, n_validation = (-(-n // length) for n in (config.text.n_tokens, config.text.n_validation_tokens))
    cache_disk = {"token shards": 2 * 4 * (n_train + n_validation) * length}
    of_windows = {}
    if config.activations.storage == "stream":
        memory["shuffle buffer"] = config.activations.buffer_tokens * width * 4
    elif config.activations.storage == "windows":
        windows = Windows.of(config.activations, length, n_train, list(widths.values()), n_sharing=n_sharing)
        of_windows["activation windows"] = n_sharing * windows.most_bytes
        memory["window shard"] = 3 * windows.part_bytes
    else:
        row = width * BYTES[config.activations.dtype] + ROW_RECORD_BYTES
        cache_disk["activations"] = n_train * max(length - config.activations.drop_first_positions, 0) * row
        memory["activation shard"] = 3 * min(shard_bytes(cache_disk["activations"]), cache_disk["activations"])
    run_disk = {"SAEs": parameters * 4, "checkpoints": 2 * 3 * at_once * 4, **of_windows}
    return Plan(memory, cache_disk, run_disk, remedies)


def _copied_bytes(on_gpu: bool, *, in_slices: bool) -> int:
    """The bytes of a checkpoint's copy in memory, for each parameter."""
    if in_slices:
        return 6 if on_gpu else 0
    return 12 if on_gpu else 6


def model_bytes(config: RunConfig, model: ModelSize) -> int:
    """The bytes of the model's weights; in 8 bits, those of its layers take one each."""
    in_8_bits = model.n_block_parameters if config.model.weights == "8bit" else 0
    return (model.n_parameters - in_8_bits) * BYTES[config.model.dtype] + in_8_bits


class Windows(NamedTuple):
    """How a text is cut into windows, of which the disk holds a bounded number (activations/windows.py)."""

    n_sequences: int
    """Of every window but the last, which may have fewer."""
    n_windows: int
    n_kept: int
    """How many the disk holds at a time."""
    n_bytes: int
    """What a window takes at most."""
    part_bytes: int
    """About what each of its files takes."""

    @property
    def all_kept(self) -> bool:
        """Whether no window is ever deleted, so that the model reads the text once."""
        return self.n_kept >= self.n_windows

    @property
    def most_bytes(self) -> int:
        """What all windows take at most at a time."""
        return min(self.n_kept, self.n_windows) * self.n_bytes

    @staticmethod
    def of(
        config: ActivationsConfig, context_length: int, n_sequences: int, widths: Sequence[int], *, n_sharing: int = 1
    ) -> Windows:
        """The windows of a text, for each of `n_sharing` processes that share the budget equally.

        Raises DoesNotFit when two windows are more than that, and there are so many.
        """
        row = sum(widths) * BYTES[config.dtype] + ROW_RECORD_BYTES
        pass_tokens = context_length * config.batch_sequences
        size = config.batch_sequences * max(1, config.window_tokens // pass_tokens)
        part_bytes = shard_bytes(512 * (size * context_length * row // WINDOW_PARTS))
        part_size = config.batch_sequences * max(1, part_bytes // (pass_tokens * row))
        beside = FILE_BYTES * (1 - (-size // part_size)) + 8 * sum(widths) * -(-size // part_size)
        n_bytes = size * context_length * row + beside
        n_windows, budget = -(-n_sequences // size), config.disk_budget // n_sharing
        n_kept = budget // n_bytes if budget else n_windows
        if n_kept < min(2, n_windows):
            fitting = (budget // 2 - beside) // (context_length * row) * context_length
            advice = f" or lower --activations.window-tokens to {fitting}" if fitting >= pass_tokens else ""
            raise DoesNotFit(
                f"--activations.disk-budget {config.disk_budget} holds {counted_text(n_kept, 'window')} of "
                f"{size * context_length} tokens{f' for each of {n_sharing} processes' if n_sharing > 1 else ''}, and "
                f"two are needed; raise it to {2 * n_bytes * n_sharing}{advice}",
                (),
            )
        return Windows(size, n_windows, n_kept, n_bytes, part_bytes=part_bytes)


def shard_bytes(store_bytes: int) -> int:
    """The size of a shard of a store: a 512th, unless that makes them too small or too large."""
    return min(max(store_bytes // 512, MIN_SHARD_BYTES), MAX_SHARD_BYTES)


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
    require_space(plan.most_held, available, kind=kind, remedies=plan.remedies)
    cache = files.cache_folder() if cache is None else cache
    if _same_disk(folder, cache):
        both = {**plan.cache_disk, **plan.run_disk}
        where = f" in {folder} and {cache}"
        require_space(both, files.free_bytes(folder), kind="disk", where=where, remedies=plan.remedies)
        return
    where = f" in {folder}"
    require_space(plan.run_disk, files.free_bytes(folder), kind="disk", where=where, remedies=plan.remedies)
    where = f" in {cache} (move it with MONOSEMY_CACHE)"
    require_space(plan.cache_disk, files.free_bytes(cache), kind="disk", where=where, remedies=plan.remedies)


def require_space(
    parts: Mapping[str, int],
    available: int | None,
    *,
    kind: str,
    where: str = "",
    remedies: Mapping[str, Remedy] = REMEDIES,
) -> None:
    """Raises DoesNotFit, with the remedy for the largest part, when the parts need more than is available.

    What is available is in bytes; None where it is not known.
    """
    needed = int(sum(parts.values()) * MARGIN)
    if available is None or needed <= available:
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
