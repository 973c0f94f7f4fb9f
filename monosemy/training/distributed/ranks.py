"""A process's place in a mesh tokens × latents, and the sums over either axis.

Place on the path: beneath the sharded training step. Rank (t, f) holds the f-th slice of the dictionary and, in every
step, the t-th slice of the batch's rows. Whatever is not of a latent (b_dec, statistics, the controller's λ) is on
every rank and stays equal, because all ranks compute it from the same sums. Transport and launch are
torch.distributed's: gloo between CPUs, NCCL between GPUs, in processes that `support/rank_group.py` has connected.

Gradients: of a sum over ranks, every rank's part receives that of the sum (`summed`); a parameter that all ranks of the
latents' axis hold, and each uses for its own latents, receives the sum of theirs (`shared`).
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh

from monosemy.support.rank_group import PATIENCE

TOKENS, LATENTS = "tokens", "latents"


class Ranks:
    """The mesh of all processes, n_token_shards × n_latent_shards, seen from this one.

    `messages` and `n_bytes` count the collectives of either axis and what this rank gave into them.
    """

    def __init__(self, mesh: DeviceMesh, device: torch.device) -> None:
        self.mesh, self.device = mesh, device
        self.n_token_shards, self.n_latent_shards = mesh.shape
        self.token_shard, self.latent_shard = mesh.get_local_rank(TOKENS), mesh.get_local_rank(LATENTS)
        self._groups = {axis: mesh.get_group(axis) for axis in (TOKENS, LATENTS)}
        self._sizes = {TOKENS: self.n_token_shards, LATENTS: self.n_latent_shards}
        self.messages: Counter[str] = Counter()
        self.n_bytes: Counter[str] = Counter()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes what there is one of."""
        return self.mesh.get_rank() == 0

    def sum(self, tensor: Tensor, axis: str) -> Tensor:
        """Σ over the ranks of an axis, on each of them; without gradient."""
        return self._reduced(tensor, axis, dist.ReduceOp.SUM)

    def sum_all(self, tensor: Tensor) -> Tensor:
        """Σ over all ranks."""
        return self.sum(self.sum(tensor, LATENTS), TOKENS)

    def least(self, tensor: Tensor, axis: str) -> Tensor:
        return self._reduced(tensor, axis, dist.ReduceOp.MIN)

    def sum_number(self, number: float, axis: str | None = None) -> float:
        """Σ of a number over an axis, or over all ranks."""
        tensor = torch.tensor(number, dtype=torch.float64, device=self.device)
        return float(self.sum_all(tensor) if axis is None else self.sum(tensor, axis))

    def _reduced(self, tensor: Tensor, axis: str, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self._sizes[axis] == 1:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._count(total, axis)
        dist.all_reduce(total, operation, group=self._groups[axis])
        return total

    def gather(self, tensor: Tensor, axis: str) -> list[Tensor]:
        """Every rank's tensor along an axis, in order; they may differ in their first dimension."""
        if self._sizes[axis] == 1:
            return [tensor]
        rows = tensor.detach()[None] if tensor.ndim == 0 else tensor.detach().contiguous()
        lengths = torch.zeros(self._sizes[axis], dtype=torch.int64, device=self.device)
        lengths[self.mesh.get_local_rank(axis)] = len(rows)
        lengths = self.sum(lengths, axis)
        longest = int(lengths.max())
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self._sizes[axis])]
        self._count(padded, axis)
        dist.all_gather(parts, padded, group=self._groups[axis])
        parts = [part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)]
        return [part[0] for part in parts] if tensor.ndim == 0 else parts

    def from_first(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, on every rank; all have the same shape."""
        if dist.get_world_size() == 1:
            return tensor
        # Through main memory, where the group of all ranks exchanges what it does.
        shared = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self._count(shared, LATENTS)
        dist.broadcast(shared, 0)
        return shared.to(tensor.device)

    def barrier(self) -> None:
        dist.barrier()

    def _count(self, tensor: Tensor, axis: str) -> None:
        self.messages[axis] += 1
        self.n_bytes[axis] += tensor.numel() * tensor.element_size()

    def rows(self, batch: Tensor) -> Tensor:
        """This rank's slice of a batch [N, …] that every rank has."""
        return batch.tensor_split(self.n_token_shards)[self.token_shard]


class _Summed(Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, ranks: Ranks, axis: str) -> Tensor:
        return ranks.sum(partial, axis).view_as(partial)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, None


class _Shared(Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.ranks.sum(grad, LATENTS), None


def summed(partial: Tensor, ranks: Ranks, axis: str) -> Tensor:
    """Σ over an axis of what each rank has a part of; a part's gradient is that of the sum."""
    return _Summed.apply(partial, ranks, axis)


def summed_all(partial: Tensor, ranks: Ranks) -> Tensor:
    return summed(summed(partial, ranks, LATENTS), ranks, TOKENS)


def shared(parameter: Tensor, ranks: Ranks) -> Tensor:
    """A parameter that every rank of the latents' axis has, used for this rank's latents alone."""
    return _Shared.apply(parameter, ranks)


def mesh_of(n_latent_shards: int, device: torch.device) -> Ranks:
    """The processes of the group that was joined (support/rank_group.py), as a mesh with so many ranks for the latents.

    `n_latent_shards` divides their number. Tensors travel by gloo between CPUs and by NCCL between GPUs.
    """
    places = torch.arange(dist.get_world_size()).view(-1, n_latent_shards)
    backend = "nccl" if device.type == "cuda" else "gloo"
    groups = [
        dist.new_subgroups_by_enumeration(ranks.tolist(), timeout=PATIENCE, backend=backend)[0]
        for ranks in (places.T, places)
    ]
    mesh = DeviceMesh.from_group(groups, device.type, mesh=places, mesh_dim_names=(TOKENS, LATENTS))
    return Ranks(mesh, device)
