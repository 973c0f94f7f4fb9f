"""The training stage: every architecture × L0 × seed at every site, and the frozen-random control, on one stream."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from monosemy import progress
from monosemy.config import fingerprint, identity, to_json
from monosemy.pipeline.checks import options_of
from monosemy.pipeline.prepare import Prepared, prepare
from monosemy.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from monosemy.training.trainee import Trainee
    from monosemy.training.trainer import Trainer

CALIBRATION_TOKENS = 32_768
INITIAL_TOKENS = 4_096
CONTROL = "frozen_random"


def trained(run: Run) -> bool:
    """Whether every SAE of the run is trained and still there."""
    if not run.stage_done("training", identity(run.config)):
        return False
    names = run.stage_record("training")["saes"]
    return all((run.sae_folder(site, name) / "config.json").exists() for site, name in names)


def train(run: Run) -> Prepared | None:
    """Trains, calibrates and saves every SAE; continues from the last checkpoint. None when all was done before."""
    if trained(run):
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        return None
    prepared = prepare(run)
    trainees = build_trainees(prepared)
    trainer = _train(run, prepared, trainees)
    rows = prepared.held_in(CALIBRATION_TOKENS, seed=2)
    with progress.stage("calibrating and saving", total=len(trainees), unit="SAEs") as bar:
        for (site, name), trainee in trainees.items():
            _finish(run, prepared, trainee, site, name, rows[site], trainer.n_tokens)
            bar.advance()
    stream = prepared.stream.record()
    run.add_provenance(stopped=trainer.messages, shuffle=stream)
    if prepared.store is None:
        run.add_provenance(dropped_positions=stream["n_dropped"])
    saes = [[site, name] for site, name in trainees]
    run.mark_done("training", identity(run.config), trainer.seconds, {"n_tokens": trainer.n_tokens, "saes": saes})
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # the trained SAEs are on disk
    return prepared


def _train(run: Run, prepared: Prepared, trainees: dict[tuple[str, str], Trainee]) -> Trainer:
    from monosemy.training.trainer import Trainer
    from monosemy.training.viewers import open_viewer

    total = prepared.stream.n_steps * run.config.training.batch_tokens
    trainer = Trainer(
        trainees, prepared.stream, run.config.training, checkpoints=run.checkpoints, metrics=run.metrics(),
        fingerprint=fingerprint([identity(run.config), prepared.fingerprint]),
    )  # fmt: skip
    done = trainer.resume()
    trainer.viewers = [open_viewer(kind, run.folder, to_json(run.config)) for kind in run.config.log_to]
    told = len(trainer.messages)
    with progress.stage(f"training {len(trainees)} SAEs", total=total, unit="tokens", start=done) as bar:

        def on_step(n_rows: int, metrics: Mapping[Any, Any]) -> None:
            nonlocal told
            bar.advance(n_rows)
            for message in trainer.messages[told:]:
                print(message, file=sys.stderr, flush=True)
            told = len(trainer.messages)

        trainer.on_step = on_step
        trainer.train()
    return trainer


def build_trainees(prepared: Prepared) -> dict[tuple[str, str], Trainee]:
    """One trainee for every SAE and control of the run, initialised from held-in rows."""
    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import build_sae
    from monosemy.training.trainee import Trainee

    config = prepared.config
    n_steps = prepared.stream.n_steps
    wanted = [(name, name, False) for name in config.architectures]
    if config.evaluation.frozen_random:
        wanted.append((CONTROL, "topk", True))
    trainees: dict[tuple[str, str], Trainee] = {}
    for site, rows in prepared.held_in(INITIAL_TOKENS, seed=1).items():
        for label, architecture, frozen in wanted:
            options = options_of(config, architecture)
            for l0 in config.l0:
                for seed in config.seeds:
                    sae = build_sae(
                        SaeConfig(
                            architecture,
                            rows.shape[1],
                            config.d_sae,
                            float(l0),
                            site=site,
                            model=prepared.model.name,
                            seed=seed,
                            frozen_decoder=frozen,
                            options=options,
                        )
                    ).to(prepared.model.device)
                    trainee = Trainee(sae, config.training, n_steps, n_steps * config.training.batch_tokens)
                    sae.initialise(rows, trainee.target_l0(0.0))
                    trainees[site, f"{label}-l0_{l0:g}-s{seed}"] = trainee
    return trainees


def _finish(run: Run, prepared: Prepared, trainee: Trainee, site: str, name: str, rows: Tensor, n_tokens: int) -> None:
    """Lands the L0, folds the scale in, saves."""
    from monosemy.saes.base import calibrate
    from monosemy.saes.storage import save_sae

    sae = trainee.sae.eval()
    record = {
        "calibration": {} if trainee.stopped else calibrate(sae, list(rows.split(4096))),
        "n_tokens": n_tokens,
        "stopped": trainee.stopped,
        "control": name.split("-")[0],
    }
    sae.fold_scale(prepared.scale[site])
    sae.config = dataclasses.replace(sae.config, record=record)
    save_sae(sae, run.sae_folder(site, name))
