"""Checkpoints of a sharded training: every rank writes its part, and any number of ranks can read it.

Place on the path: beside sharded training, as training/checkpoint.py beside that of one process. torch's distributed
checkpoint does the work, in its safetensors form, so that nothing is pickled: parameters, moments and firing counts are
distributed tensors, split by latents; every rank of another mesh then reads the parts that its slice needs.

    checkpoints/step-<number>/   shard-<rank>-…safetensors, state.json

The folder is written under a temporary name, flushed and renamed once all parts are there. A run continues bit for bit
on the same mesh, and on another one equal to rounding, since sums over ranks then have another order.
"""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from monosemy.errors import UserError
from monosemy.layout import CheckpointFiles
from monosemy.support import files
from monosemy.support.ranks import RankError
from monosemy.training.checkpoint import checkpoint_folders, read_state
from monosemy.training.distributed.trainee import ShardedTrainee

FORMAT = 1
_OF_LATENTS = ("W_enc", "W_dec", "b_enc", "threshold", "silent")
"""The last part of the names of tensors that are split by latents, where they have a dimension."""


def require_writer() -> None:
    """Raises UserError where this torch cannot write checkpoints of slices as safetensors."""
    writer = getattr(distributed_checkpoint, "HuggingFaceStorageWriter", None)
    if writer is None or "save_distributed" not in inspect.signature(writer).parameters:
        raise UserError(
            f"torch {torch.__version__} cannot write checkpoints of SAEs in slices; install a newer one (2.13 can), "
            "or leave out --shard-latents"
        )


def save_checkpoint(parent: Path, step: int, trainee: ShardedTrainee, state: Mapping[str, Any]) -> Path:
    """Writes the trainee and `state`, removes earlier checkpoints and returns the folder; all ranks call it.

    Raises UserError, naming the rank, when a part cannot be written; the last checkpoint then stays.
    """
    ranks, final = trainee.ranks, CheckpointFiles.at(parent, step).folder
    temporary = final.with_name(f".{final.name}.0.tmp")
    if ranks.is_first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.barrier()
    tensors = trainee.tensors()
    with _quiet():
        writer = distributed_checkpoint.HuggingFaceStorageWriter(
            str(temporary), _files_of(tensors), save_distributed=True
        )
        try:
            distributed_checkpoint.save(_as_distributed(tensors, trainee), storage_writer=writer)
        except distributed_checkpoint.CheckpointException as error:
            raise _unwritten(error, final) from None
    if ranks.is_first:
        shapes = {name: list(t.shape) for name, t in tensors.items() if not _of_latents(name, t)}
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        document = {
            "format": FORMAT,
            "step": step,
            "sizes": sizes,
            "shapes": shapes,
            "trainee": trainee.state(),
            **state,
        }
        files.write_json(CheckpointFiles(temporary).state, document)
        with files.atomic_folder(final) as complete:
            shutil.rmtree(complete)
            temporary.rename(complete)
        for old in checkpoint_folders(parent):
            if old.name < final.name:
                shutil.rmtree(old, ignore_errors=True)
    ranks.barrier()
    return final


def load_checkpoint(folder: Path, trainee: ShardedTrainee) -> dict[str, Any]:
    """Restores the trainee from a checkpoint of any number of ranks, and returns the state. All ranks call it.

    Raises UserError when the checkpoint is damaged or of another format.
    """
    state = read_state(folder)
    way_out = f"delete {folder} to continue from an earlier checkpoint or from the start"
    if state.get("format") != FORMAT or "sizes" not in state:
        raise UserError(f"{folder} is no checkpoint of a dictionary spread over processes; {way_out}")
    for name, size in state["sizes"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"checkpoint {path} is missing or cut off; {way_out}")
    tensors = trainee.tensors()
    for name, shape in state["shapes"].items():
        # Measured at the start, so that their sizes are the checkpoint's.
        if tuple(tensors[name].shape) != tuple(shape):
            tensors[name] = tensors[name].new_empty(shape)
    with _quiet():
        reader = distributed_checkpoint.HuggingFaceStorageReader(str(folder))
        try:
            distributed_checkpoint.load(_as_distributed(tensors, trainee), storage_reader=reader)
        except distributed_checkpoint.CheckpointException as error:
            raise UserError(f"checkpoint {folder} is damaged ({_reason(error)}); {way_out}") from None
    trainee.restore(tensors, state["trainee"])
    return state


def _of_latents(name: str, tensor: Tensor) -> bool:
    return name.rpartition(".")[2] in _OF_LATENTS and tensor.ndim > 0


def _files_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file, counted from 1, that each tensor stands in: every matrix in one of its own.

    The writer holds a file's bytes twice in main memory, beside a copy of tensors that are on a GPU.
    """
    numbers, n_files = {}, 1
    for name, tensor in tensors.items():
        own_file = _of_latents(name, tensor) and tensor.ndim == 2
        n_files += own_file
        numbers[name] = n_files if own_file else 1
    return numbers


def _as_distributed(tensors: Mapping[str, Tensor], trainee: ShardedTrainee) -> dict[str, Tensor]:
    """The tensors as torch's distributed checkpoint takes them: in place; of W_enc, its transpose."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not _of_latents(name, tensor):
            whole[name] = tensor
            continue
        by_latent = tensor.T if name.endswith("W_enc") else tensor
        shape = torch.Size([trainee.shard.d_sae, *by_latent.shape[1:]])
        stride = (shape[1], 1) if len(shape) == 2 else (1,)
        whole[name] = DTensor.from_local(
            by_latent.detach(),
            trainee.ranks.mesh,
            [Replicate(), Shard(0)],
            run_check=False,
            shape=shape,
            stride=stride,
        )
    return whole


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own lines about what it is about to do; what goes wrong is an error here."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _reason(error: distributed_checkpoint.CheckpointException) -> str:
    rank, (failure, _) = next(iter(error.failures.items()))
    return f"rank {rank}: {failure}"


def _unwritten(error: distributed_checkpoint.CheckpointException, final: Path) -> RankError:
    rank, (failure, _) = next(iter(error.failures.items()))
    if isinstance(failure, OSError):
        return RankError(f"rank {rank}: {files.explain_os_error(failure, final)}")
    return RankError(f"rank {rank} could not write its part of checkpoint {final} ({failure})")
