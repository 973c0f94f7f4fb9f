"""What every stage of a run does, counted; with what a unit of work takes, how long the stage takes.

Place on the path: settings and sizes of the model → **amounts of work by stage** → the plan's times, and the time left
that a long command shows (`expected`).

    seconds of a stage = Σ_kinds amount · seconds a unit

The kinds, for N rows, d and m width and latents of an SAE, P the model's parameters in its layers:
    operation   of the model's forward pass: 2 P (layers that run / layers) a token, and 2 d V where there are logits
    step        N d m for every SAE in training; `step NAME` where the architectures are told apart
    update      d m for every SAE and step, where the optimizer is counted by itself
    encode      N d m for every SAE that is measured
    token       read, cut and tokenised
    byte        of activations, written
    second      whatever else, as it is

Limits: attention scores are not counted (some per cent at short contexts), nor what joins several SAEs (a penalty on
pairs); the SAEs of rooms count as steps of their size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from monosemy.config import RunConfig
from monosemy.pipeline.planning.sizes import kinds_of
from monosemy.pipeline.requirements import requirements_of
from monosemy.support.estimates import CALIBRATION_TOKENS, EVALUATION, HARVEST, OTHER, TRAINING, ModelSize, Windows

LOADING, MEASURING, REPORT = "loading", "measuring", "report"
SAMPLE_TOKENS = 8_192
"""How many tokens are read to measure norms and scale of the sites."""


class Work(NamedTuple):
    """The work of one stage."""

    stage: str
    amounts: Mapping[str, float]
    """Units of work by kind."""

    def seconds(self, costs: Mapping[str, float]) -> float:
        """How long it takes, with the seconds a unit of each kind. `step NAME` takes those of `step` where unnamed."""
        return sum(n * costs.get(kind, costs.get(kind.split()[0], 0.0)) for kind, n in self.amounts.items() if n)


@dataclass(frozen=True)
class Sizes:
    """A run with the sizes of its model and sites."""

    config: RunConfig
    model: ModelSize
    widths: Mapping[str, int]
    """{site: d}."""

    @property
    def n_tokens(self) -> int:
        """Training tokens, whole sequences."""
        length = self.config.text.context_length
        return -(-self.config.text.n_tokens // length) * length

    def operations(self, first_layer: int, last_layer: int, *, logits: bool = False) -> float:
        """The model's operations a token through layers `first_layer` to `last_layer`, which is not run."""
        blocks = 2 * self.model.n_block_parameters * (last_layer - first_layer) / max(self.model.n_layers, 1)
        return blocks + (2 * self.model.d_model * self.model.vocab_size if logits else 0)

    @property
    def read_operations(self) -> float:
        """The model's operations a token until the last site is read, where a pass ends."""
        return self.operations(0, max(map(layers_before, self.widths)))

    @property
    def n_measured(self) -> int:
        """The number of dictionaries that the evaluation measures: SAEs, controls and PCA."""
        pca = len(self.widths) * len(self.config.l0) * len(self.config.seeds) if self.config.evaluation.pca else 0
        return sum(kinds_of(self.config, self.widths).values()) + pca

    @property
    def latent_weights(self) -> float:
        """Σ d m over all SAEs that are trained, those of rooms included."""
        own = sum(n * kind.d_in * self.config.d_sae for kind, n in kinds_of(self.config, self.widths).items())
        return own + sum(needs.cost(self.config, self.model).n_parameters / 2 for needs in requirements_of(self.config))


def layers_before(site: str) -> int:
    """How many layers a pass has run when it has read the site; all of its layer's, for one inside."""
    match = re.search(r"(?:layers|blocks)\.(\d+)\.", site)
    return int(match[1]) + 1 if match else 1


class Slices(NamedTuple):
    """Dictionaries whose latents are shared out over processes (`--shard-latents`)."""

    n: int
    """Parts of the latents of each dictionary."""
    n_per_device: int = 1
    """Processes on the fullest device."""


def work_of(sizes: Sizes, *, n_devices: int = 1, slices: Slices | None = None) -> list[Work]:
    """The stages of `monosemy train`, in order: the work of the process that has most, of one for each device.

    With slices all devices train each SAE; rows are shared out as well as latents, but Adam and the calibration go over
    all latents of a slice, and the evaluation is left to one process. Messages are not counted.
    """
    config = sizes.config
    text, training, settings = config.text, config.training, config.activations
    n_texts = sizes.n_tokens + text.n_validation_tokens
    stored = settings.storage == "disk"
    row_bytes = sum(sizes.widths.values()) * {"float32": 4}.get(settings.dtype, 2) + 16
    trained = sizes.n_tokens * training.n_passes
    share = 1 / n_devices if slices else most_of(sizes, n_devices)
    of_latents = slices.n_per_device / slices.n if slices else share
    measured = 1.0 if slices else share
    stages = [
        Work(LOADING, {"second": 1.0}),
        Work("tokenise", {"token": n_texts}),
        Work(MEASURING, {"operation": SAMPLE_TOKENS * sizes.read_operations}),
    ]
    if stored:
        amounts = {"operation": sizes.n_tokens * sizes.read_operations, "byte": sizes.n_tokens * row_bytes}
        stages.append(Work(HARVEST, {kind: amount / n_devices for kind, amount in amounts.items()}))
    steps = {kind: share * amount for kind, amount in _steps(sizes, trained).items()}
    if not stored:  # every process runs the model itself
        n_tokens = sizes.n_tokens * n_readings(sizes, n_processes=n_devices)
        steps["operation"] = n_tokens * sizes.read_operations
        steps["byte"] = n_tokens * row_bytes if settings.storage == "windows" else 0
    steps["update"] *= of_latents / share
    latents = of_latents * sizes.latent_weights
    stages += [
        Work(TRAINING, {**steps, "encode": CALIBRATION_TOKENS * latents}),
        Work("reconstruction", _reconstruction(sizes, measured)),
        Work("model loss", {"operation": measured * loss_operations(sizes)}),
        Work(REPORT, {"second": 1.0}),
    ]
    return stages


def n_readings(sizes: Sizes, *, n_processes: int = 1) -> int:
    """How many times the model reads the training text: once for each pass where windows are deleted behind."""
    settings, length = sizes.config.activations, sizes.config.text.context_length
    if settings.storage != "windows":
        return 1
    n_sequences, widths = sizes.n_tokens // length, list(sizes.widths.values())
    windows = Windows.of(settings, length, n_sequences, widths, n_sharing=n_processes)
    return 1 if windows.all_kept else sizes.config.training.n_passes


def stage_group(stage: str) -> str:
    """The stage of `estimates` whose memory is held in a stage of `work_of`."""
    groups = {HARVEST: HARVEST, TRAINING: TRAINING, "reconstruction": EVALUATION, "model loss": EVALUATION}
    return groups.get(stage, OTHER)


def most_of(sizes: Sizes, n_devices: int) -> float:
    """The share of the SAEs that the process with most of them trains."""
    n_saes = max(1, round(sizes.latent_weights / (max(sizes.widths.values()) * sizes.config.d_sae)))
    return math.ceil(n_saes / n_devices) / n_saes


def _steps(sizes: Sizes, n_tokens: int) -> dict[str, float]:
    """The work of training on so many rows, by kind."""
    config, amounts = sizes.config, dict[str, float]()
    for kind, n in kinds_of(config, sizes.widths).items():
        name = f"step {kind.architecture}"
        amounts[name] = amounts.get(name, 0.0) + n * n_tokens * kind.d_in * config.d_sae
    own = sum(amounts.values())
    amounts["step"] = n_tokens * sizes.latent_weights - own
    amounts["update"] = n_tokens / config.training.batch_tokens * sizes.latent_weights
    return amounts


def _reconstruction(sizes: Sizes, share: float) -> dict[str, float]:
    n_tokens = sizes.config.text.n_validation_tokens
    width = max(sizes.widths.values()) * sizes.config.d_sae
    amounts = {"encode": share * n_tokens * sizes.n_measured * width}
    return {**amounts, "operation": n_tokens * sizes.read_operations}


def loss_operations(sizes: Sizes) -> float:
    """The model's operations in all passes of the loss: a clean one, and at each site one without it and one a
    dictionary; each layer between two sites is run once more."""
    n_layers, n_tokens = sizes.model.n_layers, sizes.config.evaluation.n_loss_tokens
    n_of_site = sizes.n_measured / len(sizes.widths)
    before = [min(layers_before(site), n_layers) for site in sizes.widths]
    spliced = [sizes.operations(layer, n_layers, logits=True) * (n_of_site + 1) for layer in before]
    between = sizes.operations(min(before), max(before))
    return n_tokens * (sizes.operations(0, n_layers, logits=True) + between + sum(spliced))


def seconds_of(stages: Sequence[Work], costs: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage."""
    return {work.stage: work.seconds(costs) for work in stages}
