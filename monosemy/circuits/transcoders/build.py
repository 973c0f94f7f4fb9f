"""Builds the transcoders of a run and what they are compared with, initialised from training rows.

Place on the path: prepared activations → **transcoders** → the trainer.
"""

from __future__ import annotations

from monosemy.circuits.transcoders.plan import planned
from monosemy.circuits.transcoders.unit import TranscoderUnit
from monosemy.pipeline.prepare import Prepared
from monosemy.pipeline.trainees import NewSae, Source, build_trainee, initial_rows
from monosemy.pipeline.training_data import Key
from monosemy.saes.transforms import transcoding


def build_transcoders(prepared: Prepared) -> list[TranscoderUnit]:
    """One unit for every dictionary of the plan that this process trains.

    Raises UserError where the run does not read both sites of a layer.
    """
    rows = initial_rows(prepared)
    units = []
    for plan in planned(prepared.config, prepared.sites):
        if not prepared.trains((plan.site, plan.name)):
            continue
        new = NewSae(plan.site, plan.architecture, plan.l0, plan.seed, frozen=plan.frozen)
        if plan.source is None:
            trainee = build_trainee(prepared, new, rows[plan.site])
        else:
            source = Source(plan.source, transcoding(skip=plan.skip), rows[plan.source])
            trainee = build_trainee(prepared, new, rows[plan.site], source)
        units.append(TranscoderUnit((plan.site, plan.name), trainee, plan.source))
    return units


def planned_transcoders(prepared: Prepared) -> list[tuple[tuple[Key, ...], float]]:
    """The units that `build_transcoders` builds, and their cost as a multiple of an SAE's."""
    return [(((plan.site, plan.name),), 1.0) for plan in planned(prepared.config, prepared.sites)]
