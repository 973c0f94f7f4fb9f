"""The configuration of a run: frozen dataclasses that convert to and from JSON and have a fingerprint.

Every number declares its range; unknown keys and wrong types are errors. Building a configuration opens no file, loads
no model and contacts no service. Names of counts start with `n_`, those of durations end in `_tokens` or `_steps`, and
those of coefficients in `_coef`. Sparsity is always an L0 (active latents per token); losses are in nats per token.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from monosemy.errors import UserError, unknown
from monosemy.ranges import SHARE, Range
from monosemy.rooms import Room, load, rooms

LABELS = frozenset({"recipe", "log_to"})
"""Settings of a run that do not change what it computes."""
Dtype = Literal["float32", "bfloat16", "float16"]
T = TypeVar("T")

SEED = Range(0, 2**63 - 1, example=0)


@dataclass(frozen=True)
class ModelConfig:
    """The language model whose activations the SAEs are trained on."""

    source: str = "embedded"
    """`embedded` (SmolLM2-135M-Instruct, from the package index), a hub id, a local folder, or a .gguf file."""
    revision: str | None = None
    """Commit or branch on the hub; ignored for local sources."""
    dtype: Dtype = "float32"
    """Number format of the model's weights and activations; keep float32 on CPUs without bfloat16 units."""
    device: str = "auto"
    """Where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`."""
    device_map: Literal["none", "auto", "balanced", "balanced_low_0", "sequential"] = "none"
    """Spread the model's layers over all GPUs of this machine, as accelerate places them; what fits on none of them is
    kept in main memory. `none` keeps it on one device."""
    weights: Literal["full", "8bit"] = "full"
    """`8bit` keeps the weights of the layers in 8 bits, by bitsandbytes, on a GPU."""
    backend: Literal["transformers", "eager", "vllm", "vllm-static"] = "transformers"
    """What reads activations, through interp-engine unless it is `transformers`: `vllm` on GPUs (monosemy[vllm]),
    `vllm-static` with CUDA graphs; `eager` is the same way without vLLM. All else runs on transformers."""
    tensor_parallel: Annotated[int, Range(1, 1024, example=2)] = 1
    """Number of GPUs over which vLLM spreads the model's matrices."""
    gpu_memory: Annotated[float, Range(0, 1, example=0.5, above_low=True)] = 0.5
    """Share of each GPU's memory that vLLM may take while it reads, beside the transformers model and the SAEs."""
    randomise: Literal["none", "published", "reinitialised", "matched"] = "none"
    """Redraw the model's weights, as a control: `published` draws matrices from N(0, (0.8/√d)²), `matched` draws each
    with its own mean and variance, `reinitialised` initialises the model as before training."""


@dataclass(frozen=True)
class TextConfig:
    """The text that flows through the model, split into training and validation by document."""

    source: str = "embedded"
    """`embedded`, `embedded:english,french,spanish,speeches,code,german`, a hub dataset id, or a path: .txt, .jsonl,
    .json, .csv, .tsv (each also .gz, .zst, .bz2 or .xz), .parquet, or a folder of them."""
    column: str = "text"
    """Column with the text, chat messages (written out with the model's chat template) or token ids; `meta.body` and
    `messages[].content` are paths into nested columns."""
    subset: str | None = None
    """Configuration name of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset."""
    context_length: Annotated[int, Range(2, example=256)] = 256
    """Number of tokens in each packed sequence."""
    n_tokens: Annotated[int, Range(1, 10**15, example=300_000)] = 300_000
    """Number of training tokens."""
    n_validation_tokens: Annotated[int, Range(1, 10**15, example=65_536)] = 65_536
    """Number of validation tokens, from documents that training never sees."""
    seed: Annotated[int, SEED] = 0
    """Seed for the order of the documents and the choice of validation documents."""


@dataclass(frozen=True)
class ActivationsConfig:
    """Where activations are read, which positions are dropped, and how activations are stored."""

    sites: tuple[str, ...] = ("layers.12.resid_post",)
    """Site names, e.g. `layers.12.resid_post`, `.resid_mid`, `.resid_pre`, `.attn_out`, `.attn_heads`,
    `.mlp_in`, `.mlp_out`; TransformerLens names are accepted."""
    storage: Literal["disk", "windows", "stream"] = "disk"
    """`disk` harvests activations once, keeps them and reuses them; `windows` keeps a part of them on disk, made ahead
    and deleted behind (disk-budget); `stream` harvests them while training and keeps none."""
    dtype: Dtype = "bfloat16"
    """Number format of activations on disk and in the shuffle buffer."""
    drop_first_positions: Annotated[int, Range(0, example=1)] = 1
    """Number of positions to drop at the start of every sequence, in training and evaluation (massive activations)."""
    drop_special_tokens: bool = True
    """Drop positions that hold a special token (BOS, EOS, PAD, chat markers)."""
    outlier_multiple: Annotated[float, Range(1, example=6, above_low=True, or_zero="keeps all")] = 6.0
    """Drop positions whose norm exceeds this multiple of the site's median norm; 0 keeps all."""
    batch_sequences: Annotated[int, Range(1, example=8)] = 8
    """Number of sequences in each pass of the model."""
    buffer_tokens: Annotated[int, Range(1, example=131_072)] = 131_072
    """Size of the shuffle buffer in tokens, for `stream` storage only."""
    window_tokens: Annotated[int, Range(1, example=1_000_000)] = 1_000_000
    """Number of tokens of text within which rows are shuffled, for `windows` storage only."""
    disk_budget: Annotated[int, Range(0, example=20_000_000_000)] = 0
    """The most bytes of activations on disk at a time, e.g. 20G, for `windows` storage only: two windows or more; 0
    keeps all. It may change when a run is continued."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the SAEs are trained."""

    batch_tokens: Annotated[int, Range(1, example=1024)] = 1024
    """Number of tokens in each training step."""
    n_passes: Annotated[int, Range(1, 100_000, example=1)] = 1
    """How many times each training token is used; more than once with `disk` or `windows` storage only."""
    learning_rate: Annotated[float | None, Range(0, 1, example=2e-3, above_low=True)] = None
    """Peak learning rate of all SAEs; None takes each architecture's own, or else 0.13/√d_in at batches of 1,024
    tokens (training/optim.py)."""
    warmup_fraction: Annotated[float, SHARE] = 0.05
    """Share of the steps, at the start, over which the learning rate rises."""
    decay_fraction: Annotated[float, SHARE] = 0.2
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    dead_fraction: Annotated[float, SHARE] = 0.03
    """A latent counts as dead once it was silent for this share of the training tokens, and for at least one batch."""
    restart_share: Annotated[float, SHARE] = 0.03
    """Share of all latents that may restart in one step when they are dead, in the direction of the error; 0 restarts
    none."""
    outlier_error: Annotated[float, Range(1, example=100, above_low=True, or_zero="keeps all")] = 100.0
    """Leave rows out of a step if their squared error exceeds this multiple of the batch's median and zeros would
    reconstruct them better; 0 keeps all."""
    device: str = "auto"
    """Where SAEs are trained and measured: `auto` (the model's device), `cpu`, `cuda` or `cuda:1`."""
    checkpoint_tokens: Annotated[int, Range(1, example=200_000)] = 200_000
    """Number of tokens between checkpoints."""
    log_tokens: Annotated[int, Range(1, example=10_000)] = 10_000
    """Number of tokens between metric records."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on validation documents."""

    n_loss_tokens: Annotated[int, Range(1, example=8_192)] = 8_192
    """Number of tokens over which the model's loss with spliced reconstructions is measured."""
    n_bootstrap: Annotated[int, Range(1, 100_000, example=1_000)] = 1_000
    """Number of bootstrap resamples for each interval."""
    frozen_random: bool = True
    """Train a control with a frozen random decoder at each site and L0."""
    pca: bool = True
    """Measure PCA with as many components as the L0, as a control at each site and L0."""


def with_room_settings(settings: type[T]) -> type[T]:
    """A decorator that adds a field to a frozen dataclass for the settings of every room, with their defaults."""
    kinds = {room.name: load(room.settings) for room in rooms() if room.settings}
    sections = [(name, kind, field(default_factory=kind)) for name, kind in kinds.items()]
    extended = dataclasses.make_dataclass(settings.__name__, sections, bases=(settings,), frozen=True)
    # make_dataclass sets its own; the help and pickling need those of the original class.
    extended.__module__, extended.__doc__ = settings.__module__, settings.__doc__
    return extended


@with_room_settings
@dataclass(frozen=True)
class RunConfig:
    """A whole run: an SAE for every architecture × L0 × seed at every site, all trained on one stream."""

    recipe: str = "custom"
    """Name of the recipe that this configuration started from; only a label."""
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Live views of training, in addition to metrics.jsonl; install monosemy[tensorboard] or monosemy[wandb]."""
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    activations: ActivationsConfig = field(default_factory=ActivationsConfig)
    architectures: tuple[str, ...] = ("relu", "topk", "batch_topk", "gated", "jumprelu")
    """Architectures to train."""
    l0: Annotated[tuple[float, ...], Range(0, example=32, above_low=True)] = (16.0, 32.0, 64.0)
    """Target L0s (active latents per token); each gives an SAE of every architecture."""
    d_sae: Annotated[int, Range(1, 10**12, example=2304)] = 2304
    """Number of latents in each SAE."""
    seeds: Annotated[tuple[int, ...], SEED] = (0,)
    """Seeds of the initialisation; each gives another SAE."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of architectures, as `{"jumprelu.bandwidth": 0.02}` or as flags `--jumprelu.bandwidth 0.02`; `monosemy
    info jumprelu` lists them."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def options_of(config: RunConfig, architecture: str) -> dict[str, Any]:
    """The options of one architecture in the configuration, without its prefix."""
    prefix = architecture + "."
    return {key.removeprefix(prefix): value for key, value in config.options.items() if key.startswith(prefix)}


def room_settings(config: RunConfig, kind: type[T]) -> T:
    """The settings of the room whose settings have this type."""
    return getattr(config, _section(kind))


def with_room(config: RunConfig, settings: Any) -> RunConfig:
    """A copy of `config` with these settings for the room whose settings have their type."""
    return dataclasses.replace(config, **{_section(type(settings)): settings})


def with_section(config: RunConfig, room: str, **settings: Any) -> RunConfig:
    """A copy of `config` in which these settings of the room of this name are changed."""
    return dataclasses.replace(config, **{room: dataclasses.replace(getattr(config, room), **settings)})


def _section(kind: type) -> str:
    """The name of the room whose settings have this type."""
    return next(room.name for room in rooms() if room.settings and load(room.settings) is kind)


def taking_part(config: RunConfig) -> tuple[Room, ...]:
    """The rooms that take part in a run with this configuration."""
    return tuple(room for room in rooms() if room.settings and room.takes_part(getattr(config, room.name)))


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as JSON values; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Builds the dataclass `kind` from JSON values.

    Missing keys take their defaults. Raises UserError for an unknown key (with similar ones) and for a value of the
    wrong type, naming its place as in `training.batch_tokens`.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where or kind.__name__} must be an object of named values, got {values!r}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise unknown("setting", f"{where}.{key}".lstrip("."), [f"{where}.{n}".lstrip(".") for n in names])
    read = {key: _convert(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in values.items()}
    return kind(**read)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """The JSON value as one of the type `hint`. Raises UserError, naming its place, when it is of another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise unknown(f"value for {where}", str(value), [str(a) for a in arguments])
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is Mapping or hint is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be an object, got {value!r}")
        return dict(value)
    if hint is Any:
        return value
    # A whole number is a fine float; True and False are ints to Python, but no numbers to a user.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value


def fingerprint(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a dataclass or of JSON values, written as canonical JSON."""
    plain = to_json(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    # Canonical: sorted keys, no spaces, ASCII, so that equal values have equal texts.
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(config: RunConfig) -> str:
    """The fingerprint of everything that a run computes.

    It does not cover labels, nor settings of what the run does not do (rooms that take no part, random weights).
    """
    return fingerprint(computed_settings(config))


def trains_nothing(config: RunConfig) -> bool:
    """Whether a run has no SAEs of its own to train, because all that it measures were published elsewhere."""
    return not config.architectures and not taking_part(config)


def computed_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that `identity` covers, as JSON values."""
    idle = LABELS | {room.name for room in rooms() if room.settings and room not in taking_part(config)}
    computed = {key: value for key, value in to_json(config).items() if key not in idle}
    for room in taking_part(config):
        for name in room.descriptive:
            computed[room.name].pop(name)
    # As for the idle rooms: a setting at rest is left out, so that runs from before it existed keep their identity.
    for section, name, at_rest in _LATER:
        if computed[section][name] == at_rest:
            computed[section].pop(name)
    for name in _OF_MACHINE:
        computed["model"].pop(name)
    computed["activations"] = computed_activations(config.activations)
    return computed


_LATER = (
    ("model", "randomise", "none"),
    ("model", "device_map", "none"),
    ("model", "weights", "full"),
    ("model", "backend", "transformers"),
    ("training", "device", "auto"),
)
"""Settings that later versions added: (section, name, value at rest)."""
_OF_MACHINE = ("tensor_parallel", "gpu_memory")
"""Settings of the model that follow from the machine, and may change when a run is continued."""


def computed_activations(settings: ActivationsConfig) -> dict[str, Any]:
    """The settings of activations that change what is computed, as JSON values."""
    at_rest = {"disk_budget"} | (set() if settings.storage == "windows" else {"window_tokens"})
    return {name: value for name, value in to_json(settings).items() if name not in at_rest}


def with_labels(config: RunConfig, labelled: RunConfig) -> RunConfig:
    """`config` with everything of `labelled` that changes nothing computed, except the name of its recipe."""
    for room in taking_part(config):
        section, labels = getattr(config, room.name), getattr(labelled, room.name)
        if room.descriptive:
            described = {name: getattr(labels, name) for name in room.descriptive}
            config = with_room(config, dataclasses.replace(section, **described))
    activations = dataclasses.replace(config.activations, disk_budget=labelled.activations.disk_budget)
    of_machine = {name: getattr(labelled.model, name) for name in _OF_MACHINE}
    model = dataclasses.replace(config.model, **of_machine)
    return dataclasses.replace(config, log_to=labelled.log_to, activations=activations, model=model)


class Difference(NamedTuple):
    """A setting that differs between two configurations."""

    name: str
    """Its dotted name, such as `training.batch_tokens`."""
    there: Any
    here: Any

    def __str__(self) -> str:
        """The difference in words: `training.batch_tokens is 1024 there and 2048 here`."""
        there, here = ("unset" if value is None else repr(value) for value in (self.there, self.here))
        return f"{self.name} is {there} there and {here} here"


def first_difference_of(there: Mapping[str, Any], here: Mapping[str, Any]) -> Difference | None:
    """The first value, in the order of `there`, that differs between two nested JSON objects; None if none does."""
    left, right = dict(_leaves(there)), dict(_leaves(here))
    for name in [*left, *(other for other in right if other not in left)]:
        if left.get(name) != right.get(name):
            return Difference(name, left.get(name), right.get(name))
    return None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of everything in nested objects."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


UNITS = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def count(flag: str, word: str) -> int:
    """The number that a word such as `1.5M` stands for (1500000). Raises UserError, naming the flag, if it is none."""
    number, unit = (word[:-1], UNITS[word[-1]]) if word[-1:] in UNITS else (word, 1)
    try:
        return round(float(number.replace("_", "").replace(",", "")) * unit)
    except (ValueError, OverflowError):
        raise UserError(f"{flag} takes a count such as 300000, 300k or 1.5M, got {word!r}") from None


def positive(**named: float) -> None:
    """Raises UserError for the first value that is not above zero."""
    for name, value in named.items():
        if not value > 0:
            raise UserError(f"{name} must be above 0, got {value}")
