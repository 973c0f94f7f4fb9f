"""Builds what a run trains: its SAEs and controls, initialised from training rows, and the units of rooms.

Place on the path: prepared activations → **trainees** → the training stage. There is one SAE for every architecture ×
L0 × seed at every site, and a frozen-random control for every L0 and seed; then come the joined units of the rooms that
take part (`Room.units`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, NamedTuple

from monosemy.config import options_of, taking_part
from monosemy.pipeline.training_data import TrainingData
from monosemy.ranges import number_name
from monosemy.rooms import load

if TYPE_CHECKING:
    from torch import Tensor

    from monosemy.saes.base import SaeConfig
    from monosemy.saes.transforms import Transforms
    from monosemy.training.trainee import Trainee
    from monosemy.training.trainer import JoinedUnit, Key

INITIAL_TOKENS = 4_096
CONTROL = "frozen_random"


@dataclass(frozen=True)
class NewSae:
    """An SAE to be trained."""

    site: str
    architecture: str
    l0: float
    seed: int
    _: KW_ONLY
    frozen: bool = False
    """Whether the decoder stays random, which makes the SAE a control."""


def sae_name(new: NewSae) -> str:
    """The name of an SAE among those of its site, such as `topk-l0_32-s0`."""
    label = CONTROL if new.frozen else new.architecture
    return f"{label}-l0_{number_name(new.l0)}-s{new.seed}"


class PlannedUnit(NamedTuple):
    """One SAE, or several that step together, before they are built."""

    keys: tuple[Key, ...]
    cost: float = 1.0
    """The cost of a step beyond that of its SAEs' alone, as a factor."""


def build_trainees(prepared: TrainingData) -> dict[Key, Trainee]:
    """Builds a trainee for every SAE and control of the run that this process trains."""
    rows = initial_rows(prepared)
    return {
        key: build_trainee(prepared, new, rows[new.site])
        for key, new in planned_saes(prepared).items()
        if prepared.trains(key)
    }


def planned_saes(prepared: TrainingData) -> dict[Key, NewSae]:
    """Every SAE and control of the run, without those of the rooms' units."""
    config = prepared.config
    families = [(name, False) for name in config.architectures]
    if config.evaluation.frozen_random:
        families.append(("topk", True))
    saes = [
        NewSae(site, architecture, l0, seed, frozen=frozen)
        for site in prepared.sites
        for (architecture, frozen), l0, seed in itertools.product(families, config.l0, config.seeds)
    ]
    return {(new.site, sae_name(new)): new for new in saes}


def planned_units(prepared: TrainingData) -> list[PlannedUnit]:
    """Everything that the run trains, in the order in which one process trains it."""
    alone = [PlannedUnit((key,)) for key in planned_saes(prepared)]
    rooms = [room for room in taking_part(prepared.config) if room.planned_units]
    return [*alone, *(PlannedUnit(*planned) for room in rooms for planned in load(room.planned_units)(prepared))]


def unit_cost(prepared: TrainingData, unit: PlannedUnit) -> float:
    """The estimated cost of a unit's step, in units that are the same for all of them."""
    return unit.cost * sum(prepared.width(site) for site, _ in unit.keys)


def build_units(prepared: TrainingData) -> list[JoinedUnit]:
    """Builds the units of every room that takes part in the run. Raises UserError when one cannot be built."""
    return [unit for room in taking_part(prepared.config) if room.units for unit in load(room.units)(prepared)]


def initial_rows(prepared: TrainingData) -> Mapping[str, Tensor]:
    """The rows [n, d] of each site from which SAEs are initialised."""
    return prepared.held_in(INITIAL_TOKENS, seed=1)


class Source(NamedTuple):
    """What a transcoder reads."""

    site: str
    transforms: Transforms
    rows: Tensor
    """[n, d_in] at E‖x‖² = 1; row i is of the same token as row i of the output's site."""


def build_trainee(prepared: TrainingData, new: NewSae, rows: Tensor, source: Source | None = None) -> Trainee:
    """Builds and initialises an SAE from rows [n, d] at E‖x‖² = 1, with its optimizer and controller.

    With a `source` it is a transcoder, which gives the site of `new`.
    """
    from monosemy.saes.registry import architecture
    from monosemy.training.trainee import Trainee

    config, n_steps = prepared.config, prepared.stream.n_steps
    described = described_sae(prepared, new, d_in=(rows if source is None else source.rows).shape[1])
    if source is not None:
        width = rows.shape[1]
        described = dataclasses.replace(
            described,
            site=source.site,
            site_out=new.site,
            d_out=width if width != described.d_in else None,
            transforms=source.transforms,
        )
    sae = architecture(new.architecture)(described).to(prepared.device)
    trainee = Trainee(sae, config.training, n_steps, n_steps * config.training.batch_tokens)
    if source is None:
        trainee.initialise(rows)
    else:
        trainee.initialise(source.rows, rows)
    return trainee


def described_sae(prepared: TrainingData, new: NewSae, *, d_in: int) -> SaeConfig:
    """The configuration of an SAE that reads `d_in` components of its site, before it is trained."""
    from monosemy.saes.base import SaeConfig

    return SaeConfig(
        new.architecture,
        d_in,
        prepared.config.d_sae,
        float(new.l0),
        site=new.site,
        model=prepared.source_name,
        seed=new.seed,
        frozen_decoder=new.frozen,
        options=options_of(prepared.config, new.architecture),
    )
