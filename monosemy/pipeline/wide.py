"""A run whose dictionaries are wider than one device: each SAE in turn on all processes, its latents shared out.

Place on the path: settings → activations, harvested by the first process into the cache → **training over all
processes** (training/distributed) → SAEs in the run's folder, for `monosemy evaluate`, `report` and Python. An SAE that
fits into a quarter of the first machine's memory becomes one file; a wider one stays in slices (saes/slices.py).

`monosemy train … --processes 4 --shard-latents 2` comes here, and the same under torchrun. The first process holds the
run; each of the others opens the same run in a folder of its own, which is deleted in the end, and finds the
activations in the cache.
Limits: activations on disk; TopK, BatchTopK and JumpReLU, and the frozen control; no room takes part in the training.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig, fingerprint, identity, taking_part
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.prepare import training_data
from monosemy.pipeline.trainees import INITIAL_TOKENS, NewSae, described_sae, planned_saes
from monosemy.pipeline.training import CALIBRATION_TOKENS
from monosemy.pipeline.training_data import TrainingData
from monosemy.run import Run, open_run
from monosemy.support import progress
from monosemy.support.moved import NOT_MOVED, Moved

if TYPE_CHECKING:
    import torch

    from monosemy.training.distributed.ranks import Ranks


def train_wide(config: RunConfig, folder: Path, n_latent_shards: int, *, moved: Moved = NOT_MOVED) -> None:
    """Trains every SAE of the run over the processes that torchrun started, `n_latent_shards` slices each.

    The same command continues a run that was interrupted. Raises UserError where the processes do not meet, and for
    settings that do not go with slices.
    """
    from monosemy.models.sources import choose_device
    from monosemy.training.distributed.ranks import joined

    check_config(config)
    _refuse(config)
    device = _own_device(choose_device(config.model.device))
    with joined(n_latent_shards, device) as ranks, _opened(config, folder, moved, ranks) as run:
        if not ranks.is_first:
            os.environ["MONOSEMY_QUIET"] = "1"  # the first process's progress is that of all
        prepared = training_data(run) if ranks.is_first else None
        ranks.barrier()
        prepared = prepared or training_data(run)
        started, names = time.perf_counter(), []
        for (site, name), new in planned_saes(prepared).items():
            _train(run, prepared, name, new, ranks=ranks, folder=folder)
            names.append([site, name])
        if ranks.is_first:
            seconds = time.perf_counter() - started
            n_tokens = prepared.stream.n_steps * config.training.batch_tokens
            run.mark_done("training", identity(config), seconds, {"n_tokens": n_tokens, "saes": names})
            shutil.rmtree(run.files.checkpoints, ignore_errors=True)


def _own_device(device: torch.device) -> torch.device:
    """On a machine with several GPUs, the one of this process."""
    import torch

    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _refuse(config: RunConfig) -> None:
    if config.activations.storage != "disk":
        raise UserError("latents are shared out with --activations.storage disk alone, which every process can read")
    if rooms := [room.name for room in taking_part(config) if room.units]:
        raise UserError(f"{rooms[0]} trains SAEs together, which --shard-latents does not; leave one of them out")


@contextmanager
def _opened(config: RunConfig, folder: Path, moved: Moved, ranks: Ranks) -> Iterator[Run]:
    """The run: at the first process in its folder, elsewhere in one that is deleted."""
    if ranks.is_first:
        with open_run(folder, config, moved) as run:
            ranks.barrier()
            yield run
        return
    ranks.barrier()
    with tempfile.TemporaryDirectory() as temporary, open_run(Path(temporary) / "run", config, moved) as run:
        yield run


def _train(run: Run, prepared: TrainingData, name: str, new: NewSae, *, ranks: Ranks, folder: Path) -> None:
    """Trains one SAE and writes it, unless it is there."""
    from monosemy.layout import RunFiles
    from monosemy.training.checkpoint import Origin
    from monosemy.training.distributed.loop import finish, train_sharded
    from monosemy.training.distributed.trainee import ShardedTrainee

    config, stream, files = prepared.config, prepared.stream, RunFiles(folder)
    target = files.sae(new.site, name)
    if ranks.sum_number(target.config.exists()) > 0:
        return
    rows = prepared.held_in(INITIAL_TOKENS, seed=1)[new.site].to(ranks.device)
    n_tokens = stream.n_steps * config.training.batch_tokens
    described = described_sae(prepared, new, d_in=rows.shape[1])
    trainee = ShardedTrainee.of(described, ranks, config.training, n_steps=stream.n_steps, n_tokens=n_tokens)
    trainee.initialise(rows)
    covered = fingerprint([identity(config), prepared.fingerprint, new.site, name])
    metrics, log_tokens = run.metrics(), config.training.log_tokens
    begun = stream.state()
    with progress.stage(f"training {name} at {new.site}", total=n_tokens, unit=prepared.unit) as bar:

        def on_step(n_tokens: int, values: Mapping[str, float]) -> None:
            bar.advance(config.training.batch_tokens)
            last = n_tokens - config.training.batch_tokens
            if n_tokens // log_tokens > last // log_tokens or last == 0:
                about = {
                    "step": n_tokens // config.training.batch_tokens,
                    "site": new.site,
                    "name": name,
                    "architecture": new.architecture,
                    "target_l0": new.l0,
                }
                metrics.append([{**about, "seed": new.seed, "n_tokens": n_tokens, **values}])

        n_trained = train_sharded(
            trainee,
            stream,
            new.site,
            checkpoints=files.checkpoints / new.site / name,
            origin=Origin(covered),
            on_step=on_step if ranks.is_first else lambda n_tokens, values: None,
        )
    record: dict[str, Any] = {"n_tokens": n_trained, "control": name.split("-")[0], "stopped": None}
    calibration_rows = prepared.calibration(CALIBRATION_TOKENS)[new.site].to(ranks.device)
    scale, centre = prepared.scale[new.site], prepared.centre(new.site)
    finish(trainee, calibration_rows, target.folder, scale=scale, centre=centre, record=record)
    stream.restore(begun)
    if ranks.is_first:
        _join(target.folder, trainee.shard.d_sae * rows.shape[1])
    ranks.barrier()


def _join(folder: Path, n_weights: int) -> None:
    """Makes one file of an SAE's slices where that takes little of the memory, as all commands read it."""
    import psutil

    from monosemy.saes.slices import remove_slices
    from monosemy.saes.storage import load_sae, save_sae

    if 8 * n_weights > psutil.virtual_memory().total // 4:
        return
    save_sae(load_sae(folder), folder)
    remove_slices(folder)
