"""Training of one SAE on several processes and on one, on the same planted rows, for comparison."""

from __future__ import annotations

import functools
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.training.trainee import Trainee

D, F, ROWS, STEPS = 16, 83, 48, 7
L0 = 4.0
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {}),
    "topk-aux": ("topk", {"aux_coef": 1 / 32, "k_aux": 8}),
    "batch_topk": ("batch_topk", {"k_start_factor": 2.0, "k_anneal_fraction": 0.5}),
    "batch_topk-aux": ("batch_topk", {"aux_coef": 1 / 32, "k_aux": 8}),
    "jumprelu": ("jumprelu", {"frequency_limit": 0.05}),
    "jumprelu-tanh": ("jumprelu", {"recipe": "tanh"}),
}
CONTINUED = ("topk", "batch_topk", "jumprelu")
ALL_CASES = [(case, torch.float64) for case in CASES] + [(case, torch.float32) for case in CONTINUED]
MESHES = {2: [1, 2], 4: [1, 2, 4]}
"""Numbers of slices by numbers of processes."""
CONFIG = TrainingConfig(batch_tokens=ROWS, dead_fraction=0.09, warmup_fraction=0.1, restart_share=0.02)


def rows(n: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Sparse combinations of hidden directions, two of which dominate; the fifth seed's hold a row that wrecks."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(40, D, generator=torch.Generator().manual_seed(100)).double()
    on = torch.rand(n, 40, generator=generator).double() < 0.08
    strength = torch.rand(n, 40, generator=generator).double() + 0.5
    x = (on * strength) @ (directions / directions.norm(dim=1, keepdim=True))
    x = x + 0.01 * torch.randn(n, D, generator=generator).double()
    x[:, :2] += 6 * torch.randn(n, 2, generator=generator).double()
    x = x / 6
    if seed == 5:
        x[n // 3] = 400 * x[n // 3].roll(3)
    return x.to(dtype)


def described(case: str) -> SaeConfig:
    architecture, options = CASES[case]
    return SaeConfig(architecture, D, F, L0, seed=3, options=options)


def trained(trainee: Trainee, dtype: torch.dtype, steps: range = range(STEPS)) -> list[dict[str, float]]:
    """The metrics of every step; the trainee starts from rows where the first step is among them."""
    if steps.start == 0:
        trainee.initialise(rows(256, seed=99, dtype=dtype))
    return [trainee.step(rows(ROWS, seed=i, dtype=dtype), i) for i in steps]


def alone(case: str, dtype: torch.dtype) -> tuple[Trainee, list[dict[str, float]]]:
    sae = build_sae(described(case)).to(dtype)
    trainee = Trainee(sae, CONFIG, STEPS, STEPS * ROWS)
    return trainee, trained(trainee, dtype)


def run(worker: Callable[..., None], n_ranks: int, *arguments: Any) -> None:
    """Runs worker(*arguments) in `n_ranks` processes that find each other as torchrun's do."""
    with closing(socket.socket()) as chosen:
        chosen.bind(("localhost", 0))
        port = chosen.getsockname()[1]
    torch.multiprocessing.spawn(_started, (n_ranks, port, worker, arguments), nprocs=n_ranks)


def _started(rank: int, n_ranks: int, port: int, worker: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE=str(n_ranks))
    torch.set_num_threads(1)
    import shape_checks  # noqa: F401 — signatures are checked here as in the tests' own process

    from monosemy.support.rank_group import joined

    with joined(dict):
        worker(*arguments)


@functools.cache
def spread(parent: Path) -> dict[int, Path]:
    """What two and four processes write of every case, by their number: `train_sharded` and `continue_sharded`."""
    places = {n: parent / f"sharded-{n}" for n in MESHES}
    for place in places.values():
        place.mkdir()
    run(_train_and_continue, 2, places[2], 2, [2, 1])
    for case in CONTINUED:
        shutil.copytree(places[2] / case, places[4] / case)
    run(_train_and_continue, 4, places[4], 4, [2, 4])
    return places


def _train_and_continue(folder: Path, n_ranks: int, continued: list[int]) -> None:
    train_sharded(folder / "trained", MESHES[n_ranks], ALL_CASES)
    continue_sharded(folder, continued, n_ranks == 2)


def train_sharded(folder: Path, meshes: list[int], cases: list[tuple[str, torch.dtype]]) -> None:
    """Trains every case on meshes with these numbers of slices, and writes what this rank holds of it."""
    from monosemy.training.distributed.ranks import mesh_of
    from monosemy.training.distributed.trainee import ShardedTrainee

    folder.mkdir(exist_ok=True)
    device = torch.device("cpu")
    for n_latent_shards in meshes:
        ranks = mesh_of(n_latent_shards, device)
        place = f"{n_latent_shards}-{ranks.token_shard}-{ranks.latent_shard}.safetensors"
        save_file(selected(ranks), folder / f"selected-{place}")
        for case, dtype in cases:
            trainee = ShardedTrainee.of(
                described(case), ranks, CONFIG, n_steps=STEPS, n_tokens=STEPS * ROWS, dtype=dtype
            )
            metrics = trained(trainee, dtype)
            tensors = {name: tensor.contiguous() for name, tensor in trainee.tensors().items()}
            for name in {name for step in metrics for name in step}:
                steps = [step.get(name, 0.0) for step in metrics]
                tensors[f"metrics.{name}"] = torch.tensor(steps, dtype=torch.float64)
            save_file(tensors, folder / f"{case}-{dtype}-{place}")


def continue_sharded(folder: Path, meshes: list[int], write: bool) -> None:
    """Trains to step 3 and writes a checkpoint (of two slices), or reads it on these meshes and trains to the end.

    In float64, so that meshes can be compared; with the slices of the trained SAE as files.
    """
    from monosemy.training.distributed.checkpoint import load_checkpoint, save_checkpoint
    from monosemy.training.distributed.ranks import mesh_of
    from monosemy.training.distributed.saved import save_slices
    from monosemy.training.distributed.trainee import ShardedTrainee

    device, dtype = torch.device("cpu"), torch.float64
    for case in CONTINUED:
        if write:
            trainee = ShardedTrainee.of(
                described(case), mesh_of(2, device), CONFIG, n_steps=STEPS, n_tokens=STEPS * ROWS, dtype=dtype
            )
            trained(trainee, dtype, range(3))
            save_checkpoint(folder / case, 3, trainee, {"seen": "as it was"})
            trained(trainee, dtype, range(3, STEPS))
            _save(trainee, folder / f"{case}-unbroken-{dtype}-2-0-{trainee.ranks.latent_shard}.safetensors")
        for n_latent_shards in meshes:
            ranks = mesh_of(n_latent_shards, device)
            trainee = ShardedTrainee.of(
                described(case), ranks, CONFIG, n_steps=STEPS, n_tokens=STEPS * ROWS, dtype=dtype
            )
            state = load_checkpoint(folder / case / "step-00000003", trainee)
            assert state["seen"] == "as it was"
            assert state["step"] == 3
            trained(trainee, dtype, range(3, STEPS))
            place = f"{n_latent_shards}-{ranks.token_shard}-{ranks.latent_shard}.safetensors"
            _save(trainee, folder / f"{case}-{dtype}-{place}")
            trainee.sae.float()
            save_slices(trainee.sae, trainee.shard, folder / f"{case}-slices-{n_latent_shards}", {"n_tokens": 5})


def _save(trainee: Trainee, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in trainee.tensors().items()}, path)


def tied_scores() -> Tensor:
    """Whole numbers [N, F] with many ties, and a row without a positive one."""
    scores = torch.randint(-3, 5, (ROWS, F), generator=torch.Generator().manual_seed(8)).float()
    scores[7] = -1
    return scores


def selected(ranks: Any) -> dict[str, Tensor]:
    """What this rank selects of its part of `tied_scores`."""
    from monosemy.kernels import dispatch
    from monosemy.training.distributed.selection import halfway_below, merged_batch_topk, merged_topk

    columns = tied_scores().chunk(ranks.n_latent_shards, 1)
    first_latent = sum(block.shape[1] for block in columns[: ranks.latent_shard])
    scores = ranks.rows(columns[ranks.latent_shard]).contiguous()
    first_row = sum(len(part) for part in tied_scores().tensor_split(ranks.n_token_shards)[: ranks.token_shard])
    pattern = dispatch.select_topk(scores, 5)
    by_row, _ = merged_topk(pattern, dispatch.take(scores, pattern), 5, ranks)
    pattern, _ = dispatch.select_batch_topk(scores, 700)
    values = dispatch.take(scores, pattern)
    where = {"first_row": first_row, "first_latent": first_latent, "d_sae": F}
    of_batch, _, cut = merged_batch_topk(pattern, values, 700, ranks=ranks, **where)
    return {
        "topk": mask_of(by_row, scores),
        "batch_topk": mask_of(of_batch, scores),
        "cut": torch.tensor(cut),
        "halfway": halfway_below(scores, 9, ranks),
    }


def mask_of(pattern: Any, scores: Tensor) -> Tensor:
    """Which entries of scores [N, F] a pattern selects, as a matrix of ones and zeros."""
    mask = torch.zeros(scores.shape, dtype=torch.int64)
    rows = torch.repeat_interleave(torch.arange(len(scores)), pattern.offsets.diff())
    mask[rows, pattern.indices.long()] = 1
    return mask


def assembled(folder: Path, case: str, dtype: torch.dtype, token_shard: int, n_latent_shards: int) -> dict[str, Tensor]:
    """The whole SAE and its optimizer as the ranks of one row of the mesh hold it."""
    place = f"{case}-{dtype}-{n_latent_shards}-{token_shard}"
    parts = [load_file(folder / f"{place}-{shard}.safetensors") for shard in range(n_latent_shards)]
    whole = {}
    for name, tensor in parts[0].items():
        of_latents = name.split(".")[-1] in ("W_enc", "W_dec", "b_enc", "silent", "threshold") and tensor.ndim > 0
        if of_latents:
            whole[name] = torch.cat([part[name] for part in parts], 1 if name.endswith("W_enc") else 0)
        else:
            assert all(torch.equal(part[name], tensor) for part in parts), name
            whole[name] = tensor
    return whole
