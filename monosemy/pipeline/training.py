"""The training stage: trains all SAEs, controls and units of rooms on one stream, then calibrates and saves them."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig, computed_settings, fingerprint, identity, to_json
from monosemy.layout import RankFiles, RunFiles
from monosemy.pipeline.prepare import training_data
from monosemy.pipeline.trainees import build_trainees, build_units, planned_units, unit_cost
from monosemy.pipeline.training_data import Key, TrainingData
from monosemy.run import Run
from monosemy.support import progress, ranks
from monosemy.support.estimates import CALIBRATION_TOKENS
from monosemy.support.metrics import MetricsWriter
from monosemy.support.numbers import counted_text
from monosemy.support.shares import share_out

if TYPE_CHECKING:
    from torch import Tensor

    from monosemy.saes.base import SparseAutoencoder
    from monosemy.training.checkpoint import Origin
    from monosemy.training.parts import Part
    from monosemy.training.trainee import Trainee
    from monosemy.training.trainer import Trainer, Unit


def trained(run: Run) -> bool:
    """Whether every SAE of the run is trained and its files still exist."""
    if not run.stage_done("training", identity(run.config)):
        return False
    saes = [run.files.sae(site, name) for site, name in run.stage_record("training")["saes"]]
    return all(sae.config.exists() and sae.has_weights for sae in saes)


def train(run: Run, prepared: TrainingData | None = None) -> TrainingData | None:
    """Trains, calibrates and saves every SAE, continuing from the last checkpoint. None if all was done before.

    `prepared` are the run's activations where they are at hand already.

    Raises UserError as `prepare` does, and for a checkpoint that is damaged or of another configuration.
    """
    if ranks.from_first(lambda: trained(run)):
        if ranks.is_first():
            _remove_work(run)
        return None
    prepared = prepared or training_data(run)
    planned = planned_units(prepared)
    keys = [key for unit in planned for key in unit.keys]
    if ranks.n_ranks() > 1:
        owners = share_out([unit_cost(prepared, unit) for unit in planned], ranks.n_ranks())
        own = [unit for unit, owner in zip(planned, owners, strict=True) if owner == ranks.rank()]
        prepared.own = frozenset(key for unit in own for key in unit.keys)
    outcome = _Outcome()
    if prepared.own != frozenset():
        outcome = _train_own(run, prepared, n_units=len(planned))
    else:  # there are more processes than SAEs
        ranks.barrier()
    outcomes = ranks.gathered(outcome)
    prepared.own = None
    if ranks.is_first():
        _record(run, prepared, keys, outcomes)
    run.share_records()
    return prepared


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What a process tells the first one when its SAEs are saved."""

    n_tokens: int = 0
    seconds: float = 0.0
    messages: tuple[str, ...] = ()
    """Of SAEs that stopped early."""


def _train_own(run: Run, prepared: TrainingData, *, n_units: int) -> _Outcome:
    """Trains, calibrates and saves the SAEs of this process, which are part of the run's n_units units."""
    trainees = build_trainees(prepared)
    units = build_units(prepared)
    trainees |= {key: trainee for unit in units for key, trainee in zip(unit.keys, unit.trainees, strict=True)}
    trainer = train_all(run, prepared, trainees, units, part=_part(run, n_units))
    records = {key: unit.record() for unit in units for key in unit.keys}
    finish_and_save(run, prepared, trainees, records, n_tokens=trainer.n_tokens)
    return _Outcome(trainer.n_tokens, trainer.seconds, tuple(trainer.messages))


def _record(run: Run, prepared: TrainingData, keys: Sequence[Key], outcomes: Sequence[_Outcome]) -> None:
    """Records the finished stage, once every process has saved its SAEs."""
    from monosemy.training.parts import joined_records

    if parts := run.files.all_ranks():
        steps = dict.fromkeys(keys, prepared.stream.n_steps)
        metrics = MetricsWriter(run.files.metrics)
        metrics.rewrite(joined_records([metrics.path, *(part.metrics for part in parts)], steps))
    stream = prepared.stream.record()
    run.add_provenance(stopped=[message for outcome in outcomes for message in outcome.messages], shuffle=stream)
    if prepared.store is None:
        run.add_provenance(dropped_positions=stream["n_dropped"])
    record: dict[str, Any] = {
        "n_tokens": max(outcome.n_tokens for outcome in outcomes),
        "saes": [list(key) for key in keys],
    }
    seconds = [outcome.seconds for outcome in outcomes]
    if len(seconds) > 1:
        record["seconds_of_processes"] = seconds
    run.mark_done("training", identity(run.config), max(seconds), record)
    # Only now that the trained SAEs are on disk and the stage is recorded.
    _remove_work(run)


def _remove_work(run: Run) -> None:
    """Removes what only training needed."""
    for folder in (run.files.checkpoints, run.files.all_windows):
        shutil.rmtree(folder, ignore_errors=True)


def finish_and_save(
    run: Run,
    prepared: TrainingData,
    trainees: Mapping[Key, Trainee],
    records: Mapping[Key, Mapping[str, Any]],
    *,
    n_tokens: int,
) -> None:
    """Calibrates trained SAEs, makes them read raw activations and saves them.

    `records` are further entries for the record of some, by site and name; `n_tokens` is what each was trained on.
    """
    from monosemy.saes.storage import save_sae

    rows = prepared.calibration(CALIBRATION_TOKENS)
    with progress.stage("calibrating and saving", total=len(trainees), unit="SAEs") as bar:
        for (site, name), trainee in trainees.items():
            sae = _finish(trainee, rows[trainee.sae.source_site or site], n_tokens=n_tokens)
            _fold(sae, prepared, site)
            record = {**sae.config.record, "control": name.split("-")[0], **records.get((site, name), {})}
            if prepared.text_facts:
                record["text"] = prepared.text_facts
            sae.config = dataclasses.replace(sae.config, record=record)
            save_sae(sae, run.files.sae(site, name).folder)
            bar.advance()


def _fold(sae: SparseAutoencoder, prepared: TrainingData, site: str) -> None:
    """Makes a trained SAE read, and a transcoder give, raw activations."""
    if (source := sae.source_site) is not None:
        sae.fold_scale(prepared.scale[source], prepared.scale[site])
        sae.fold_input_mean()
        return
    sae.fold_scale(prepared.scale[site])
    if (centre := prepared.centre(site)) is not None:
        sae.fold_centre(centre)


def origin_of(config: RunConfig, prepared: TrainingData) -> Origin:
    """The origin of this run's checkpoints: its configuration, model, text and activations."""
    from monosemy.training.checkpoint import Origin

    covered = fingerprint([identity(config), prepared.fingerprint])
    return Origin(covered, computed_settings(config) | {"fingerprint": prepared.fingerprints})


def _own_files(run: Run) -> RunFiles | RankFiles:
    """Where this process keeps the checkpoints and the metrics of the SAEs that it trains."""
    return run.files if ranks.n_ranks() == 1 else run.files.rank(ranks.rank(), ranks.n_ranks())


def _part(run: Run, n_units: int) -> Part:
    """What the trainer must know of the run's other processes, now and before."""
    from monosemy.training.parts import Part, Place

    others = run.files.all_ranks()
    if others or ranks.n_ranks() > 1:
        kept_in: list[RunFiles | RankFiles] = [_own_files(run), run.files, *others]
        places = dict.fromkeys(Place(files.checkpoints, files.metrics) for files in kept_in)
        return Part(n_units, ranks.n_local_ranks(), list(places))
    return Part(n_units)


def train_all(
    run: Run,
    prepared: TrainingData,
    trainees: Mapping[Key, Trainee],
    units: Sequence[Unit] = (),
    *,
    part: Part | None = None,
    work: RunFiles | None = None,
) -> Trainer:
    """Trains to the end, from the last checkpoint on, and returns the trainer.

    Checkpoints and metrics are the run's, which viewers show; or those of `work`. `part` is that of this process, where
    the run has several.
    """
    from monosemy.activations.stream import StoredStream
    from monosemy.activations.windows import WindowStream
    from monosemy.training.trainer import Trainer
    from monosemy.training.viewers import open_viewer

    kept_in = work or _own_files(run)
    if isinstance(prepared.stream, StoredStream):
        read = {site for site, _ in trainees} | {trainee.sae.source_site for trainee in trainees.values()}
        prepared.stream.read_sites = tuple(site for site in prepared.sites if site in read)
    total = prepared.stream.n_steps * run.config.training.batch_tokens
    trainer = Trainer(
        trainees,
        prepared.stream,
        run.config.training,
        checkpoints=kept_in.checkpoints,
        metrics=MetricsWriter(kept_in.metrics),
        origin=origin_of(run.config, prepared),
        units=units,
    )
    if part is not None:
        trainer.part = part
    done = trainer.resume()
    ranks.barrier()  # all have read each other's checkpoints before any of them writes a newer one
    if work is None and ranks.is_first():
        trainer.viewers = [open_viewer(kind, run.folder, to_json(run.config)) for kind in run.config.log_to]
    n_printed = len(trainer.messages)
    n_controls = sum(trainee.sae.config.frozen_decoder for trainee in trainees.values())
    controls = f" and {counted_text(n_controls, 'control')}" if n_controls else ""
    share = f" (rank 0 of {ranks.n_ranks()})" if ranks.n_ranks() > 1 else ""
    title = f"training {counted_text(len(trainees) - n_controls, 'SAE')}{controls}{share}"
    with progress.stage(
        title if work is None else "training the first SAE", total=total, unit=prepared.unit, start=done
    ) as bar:

        def on_step(n_rows: int, metrics: Mapping[Any, Any]) -> None:
            nonlocal n_printed
            bar.advance(n_rows)
            for message in trainer.messages[n_printed:]:
                print(message, file=sys.stderr, flush=True)
            n_printed = len(trainer.messages)

        trainer.on_step = on_step
        try:
            trainer.train()
        finally:
            if isinstance(prepared.stream, WindowStream):
                prepared.stream.close()
    return trainer


def _finish(trainee: Trainee, rows: Tensor, *, n_tokens: int) -> SparseAutoencoder:
    """Calibrates a trained SAE on rows [n, d] at E‖x‖² = 1, and records how it was trained."""
    from monosemy.saes.base import calibrate

    sae = trainee.sae.eval()
    record: dict[str, Any] = {
        "calibration": {} if trainee.stopped else calibrate(sae, list(rows.split(4096))),
        "n_tokens": n_tokens,
        "rows_left_out": trainee.n_left_out,
        "stopped": trainee.stopped,
    }
    sae.config = dataclasses.replace(sae.config, record=record)
    return sae
