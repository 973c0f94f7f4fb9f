"""A run whose dictionaries are wider than one device: each SAE in turn on all processes, its latents shared out.

Place on the path: settings → activations, harvested by the first process into the cache → **training over all
processes** (training/distributed) → SAEs in the run's folder, for `monosemy evaluate`, `report` and Python. An SAE that
fits into a quarter of the first machine's memory becomes one file; a wider one stays in slices (saes/slices.py).

`monosemy train … --processes 4 --shard-latents 2` comes here, and the same under torchrun. All processes harvest the
activations into the cache and read them there; the first one holds the run and writes its records.
Limits: activations on disk; TopK, BatchTopK and JumpReLU, and the frozen control; no room takes part in the training.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig, fingerprint, identity, taking_part, to_json
from monosemy.errors import UserError, unknown
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.prepare import training_data
from monosemy.pipeline.trainees import INITIAL_TOKENS, NewSae, described_sae, planned_saes
from monosemy.pipeline.training import CALIBRATION_TOKENS
from monosemy.pipeline.training_data import TrainingData
from monosemy.ranges import number_name
from monosemy.run import Run, open_run
from monosemy.support import progress, rank_group, ranks
from monosemy.support.metrics import read_metrics
from monosemy.support.moved import NOT_MOVED, Moved

if TYPE_CHECKING:
    import torch

    from monosemy.layout import SaeFiles
    from monosemy.training.distributed.ranks import Ranks


def train_wide(config: RunConfig, folder: Path, n_latent_shards: int, *, moved: Moved = NOT_MOVED) -> None:
    """Trains every SAE of the run over the processes of the group that was joined, `n_latent_shards` slices each.

    The same command continues a run that was interrupted. Raises UserError for settings that do not go with slices, and
    RankError, naming the rank, when another process has ended.
    """
    check_config(config)
    check_wide(config, n_latent_shards, ranks.n_ranks())
    ranks.agree("settings", to_json(config) | {"shard_latents": n_latent_shards}, "give every rank the same command")
    with open_run(folder, config, moved) as run:
        run.n_latent_shards = n_latent_shards
        try:
            _train_all(run, n_latent_shards)
        except RuntimeError as error:
            if not rank_group.is_of_connection(error):
                raise
            raise rank_group.ended(error) from None


def _train_all(run: Run, n_latent_shards: int) -> None:
    from monosemy.training.distributed.ranks import mesh_of

    config, prepared = run.config, training_data(run)
    mesh = mesh_of(n_latent_shards, _current(prepared.device))
    started, names = time.perf_counter(), []
    for (site, name), new in planned_saes(prepared).items():
        target = run.files.sae(site, name)
        if not ranks.from_first(functools.partial(_finished, target)):
            _train(run, prepared, name, new, mesh=mesh)
        names.append([site, name])
    if ranks.is_first():
        seconds = time.perf_counter() - started
        n_tokens = prepared.stream.n_steps * config.training.batch_tokens
        run.mark_done("training", identity(config), seconds, {"n_tokens": n_tokens, "saes": names})
        shutil.rmtree(run.files.checkpoints, ignore_errors=True)
    run.share_records()


def _current(device: torch.device) -> torch.device:
    """The device of this process, which NCCL must find as the current one."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def check_wide(config: RunConfig, n_latent_shards: int, n_processes: int) -> None:
    """Raises UserError for what cannot be trained in slices, or not by so many processes. Opens no file."""
    from monosemy.training.distributed.checkpoint import require_writer
    from monosemy.training.distributed.shard import ARCHITECTURES

    if n_processes == 1:
        raise UserError(
            f"latents are shared out over {n_latent_shards} processes, and there is one; add --processes "
            f"{n_latent_shards}, or start them with torchrun"
        )
    if n_processes % n_latent_shards:
        raise UserError(
            f"{n_processes} processes cannot hold {n_latent_shards} slices of a dictionary equally often; choose a "
            f"divisor of {n_processes} for --shard-latents"
        )
    if config.activations.storage != "disk":
        raise UserError("latents are shared out with --activations.storage disk alone, which every process can read")
    if rooms := [room.name for room in taking_part(config) if room.units]:
        raise UserError(f"{rooms[0]} trains SAEs together, which --shard-latents does not; leave one of them out")
    for name in config.architectures:
        if name not in ARCHITECTURES:
            raise unknown("architecture for --shard-latents", name, ARCHITECTURES)
    narrowest = config.d_sae - -(-config.d_sae // n_latent_shards) * (n_latent_shards - 1)
    if config.l0 and narrowest < max(config.l0):
        raise UserError(
            f"--shard-latents {n_latent_shards} leaves a slice {max(narrowest, 0)} of {config.d_sae} latents, fewer "
            f"than --l0 {number_name(max(config.l0))}; choose fewer slices or a larger --d-sae"
        )
    require_writer()


def _finished(sae: SaeFiles) -> bool:
    """Whether the SAE is trained to the end; what was interrupted when it was made one file is done now."""
    from monosemy.saes.slices import is_sliced
    from monosemy.saes.storage import read_sae_config

    if not sae.config.exists() or not sae.has_weights:
        return False
    config = read_sae_config(sae.folder)
    if config.record.get("first_look"):
        return False
    if is_sliced(sae.folder):
        _join(sae.folder, config.d_sae * config.d_in)
    return True


def _train(run: Run, prepared: TrainingData, name: str, new: NewSae, *, mesh: Ranks) -> None:
    """Trains one SAE and writes it."""
    from monosemy.training.checkpoint import Origin
    from monosemy.training.distributed.loop import finish, train_sharded
    from monosemy.training.distributed.trainee import ShardedTrainee

    config, stream, first = prepared.config, prepared.stream, ranks.is_first()
    target = run.files.sae(new.site, name)
    rows = prepared.held_in(INITIAL_TOKENS, seed=1)[new.site].to(mesh.device)
    n_tokens = stream.n_steps * config.training.batch_tokens
    described = described_sae(prepared, new, d_in=rows.shape[1])
    trainee = ShardedTrainee.of(described, mesh, config.training, n_steps=stream.n_steps, n_tokens=n_tokens)
    trainee.initialise(rows)
    covered = fingerprint([identity(config), prepared.fingerprint, new.site, name])
    log_tokens = config.training.log_tokens
    about = {"site": new.site, "name": name, "architecture": new.architecture, "target_l0": new.l0, "seed": new.seed}
    begun = stream.state()
    with progress.stage(f"training {name} at {new.site}", total=n_tokens, unit=prepared.unit) as bar:

        def on_start(n_done: int) -> None:
            bar.advance(n_done)
            if first:
                _forget_later(run, new.site, name, n_done)

        def on_step(n_tokens: int, values: Mapping[str, float]) -> None:
            bar.advance(config.training.batch_tokens)
            last = n_tokens - config.training.batch_tokens
            if first and (n_tokens // log_tokens > last // log_tokens or last == 0):
                step = {"step": n_tokens // config.training.batch_tokens}
                run.metrics().append([{**step, **about, "n_tokens": n_tokens, **values}])

        n_trained = train_sharded(
            trainee,
            stream,
            new.site,
            checkpoints=run.files.checkpoints / new.site / name,
            origin=Origin(covered),
            on_start=on_start,
            on_step=on_step,
        )
    record: dict[str, Any] = {"n_tokens": n_trained, "control": name.split("-")[0], "stopped": None}
    if prepared.text_facts:
        record["text"] = prepared.text_facts
    calibration_rows = prepared.calibration(CALIBRATION_TOKENS)[new.site].to(mesh.device)
    scale, centre = prepared.scale[new.site], prepared.centre(new.site)
    if first:  # a first look, whose weights would count beside slices
        target.config.unlink(missing_ok=True)
        target.weights.unlink(missing_ok=True)
    mesh.barrier()
    finish(trainee, calibration_rows, target.folder, scale=scale, centre=centre, record=record)
    stream.restore(begun)
    if first:
        _join(target.folder, trainee.shard.d_sae * rows.shape[1])
    mesh.barrier()


def _forget_later(run: Run, site: str, name: str, n_tokens: int) -> None:
    """Takes an SAE's records of steps after n_tokens out of the metrics: these steps are taken again."""
    metrics = run.metrics()
    records = read_metrics(metrics.path)
    valid = [r for r in records if (r["site"], r["name"]) != (site, name) or r["n_tokens"] <= n_tokens]
    if len(valid) < len(records):
        metrics.rewrite(valid)


def _join(folder: Path, n_weights: int) -> None:
    """Makes one file of an SAE's slices where that takes little of the memory, as all commands read it."""
    import psutil

    from monosemy.saes.slices import remove_slices
    from monosemy.saes.storage import load_sae, save_sae

    if 8 * n_weights > psutil.virtual_memory().total // 4:
        return
    save_sae(load_sae(folder), folder)
    remove_slices(folder)
