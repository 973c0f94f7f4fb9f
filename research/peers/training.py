"""Whole training runs of other libraries, each by its own trainer, for `run.py`.

Every function takes the same rows in the same order and returns a dictionary behind our evaluation's interface: its
input is a row at E‖x‖² = 1, whatever scale the library trains at. What is set in proportion to the run, because the
libraries' defaults are meant for tens of thousands of steps, is said beside each: warm-ups, decays, dead-latent
windows, the start of threshold averages. Input scales are the ones each library asks for: sae-lens mean norm √d
(`expected_average_only_in`, folded in again by its trainer), dictionary-learning E‖x‖² = 1 (`normalize_activations`),
eai-sparsify the model's own. Seconds count training steps alone.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from monosemy.latents import SparseLatents

WARMUP, DECAY, DEAD, SPARSITY_WARMUP = 0.05, 0.2, 0.1, 0.1
"""Shares of the run: learning-rate warm-up and final decay, silence that counts as dead, rise of the coefficient."""
NORM_BATCHES = 20


@dataclass(frozen=True)
class Data:
    """Training rows at E‖x‖² = 1, [n, d_in], in the order of the steps; `scale` is the C of the model's own scale."""

    batches: list[Tensor]
    scale: float
    seed: int = 0
    """Of the starting weights."""

    @property
    def n_steps(self) -> int:
        return len(self.batches)

    @property
    def batch_tokens(self) -> int:
        return len(self.batches[0])

    @property
    def d_in(self) -> int:
        return self.batches[0].shape[1]


@dataclass(frozen=True)
class Trained:
    dictionary: Any
    """`encode`, `decode`, `d_sae` (evals.reconstruction.Dictionary)."""
    seconds: float
    cpu_seconds: float


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


class Dense:
    """A library's own encode and decode of dense codes, at the input scale that it was trained on."""

    def __init__(self, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], d_sae: int) -> None:
        self._encode, self._decode, self.d_sae = encode, decode, d_sae

    @torch.no_grad()
    def encode(self, x: Tensor) -> SparseLatents:
        return SparseLatents.from_dense(self._encode(x))

    @torch.no_grad()
    def decode(self, latents: SparseLatents) -> Tensor:
        return self._decode(latents.to_dense())


def sae_lens(
    architecture: str, data: Data, d_sae: int, l0: float, *, learning_rate: float, coef: float | None, **extra: Any
) -> Trained:
    """ReLU and Gated: `coef` the L1 coefficient; JumpReLU: the recipe its documentation recommends for ease (tanh loss,
    bandwidth 2, threshold 0.1, pre-activation loss, the coefficient rising over the whole run). Its batch-topk becomes
    a JumpReLU on saving, as its users get it; that threshold's average forgets within a tenth of the run."""
    from sae_lens import SAE, saes
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    n = data.n_steps
    common = {"d_in": data.d_in, "d_sae": d_sae, "normalize_activations": "expected_average_only_in"}
    warm = {"l1_coefficient": coef, "l1_warm_up_steps": round(SPARSITY_WARMUP * n)}
    tanh = {
        "l0_coefficient": coef,
        "l0_warm_up_steps": n,
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_bandwidth": 2.0,
        "jumprelu_init_threshold": 0.1,
        "pre_act_loss_coefficient": 3e-6,
    }
    cls, config, own = {
        "relu": (saes.StandardTrainingSAE, saes.StandardTrainingSAEConfig, warm),
        "topk": (saes.TopKTrainingSAE, saes.TopKTrainingSAEConfig, {"k": int(l0)}),
        "batch_topk": (
            saes.BatchTopKTrainingSAE,
            saes.BatchTopKTrainingSAEConfig,
            {"k": l0, "topk_threshold_lr": 10 / n},
        ),
        "gated": (saes.GatedTrainingSAE, saes.GatedTrainingSAEConfig, warm),
        "jumprelu": (saes.JumpReLUTrainingSAE, saes.JumpReLUTrainingSAEConfig, tanh),
    }[architecture]
    torch.manual_seed(data.seed)
    sae = cls(config(**common, **(own | extra)))
    settings = SAETrainerConfig(
        total_training_samples=n * data.batch_tokens,
        train_batch_size_samples=data.batch_tokens,
        lr=learning_rate,
        lr_end=learning_rate / 10,
        lr_warm_up_steps=round(WARMUP * n),
        lr_decay_steps=round(DECAY * n),
        dead_feature_window=round(DEAD * n),
        n_batches_for_norm_estimate=NORM_BATCHES,
    )
    clock: Clock | None = None

    def provider() -> Iterator[Tensor]:
        nonlocal clock
        yield from itertools.islice(itertools.cycle(data.batches), NORM_BATCHES)
        clock = Clock()
        yield from data.batches

    with contextlib.redirect_stderr(io.StringIO()):
        SAETrainer(settings, sae, provider()).fit()
    assert clock is not None
    seconds = clock.seconds()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        saved = SAE.load_from_disk(folder)
    return Trained(Dense(saved.encode, saved.decode, d_sae), *seconds)


def dictionary_learning(
    architecture: str, data: Data, d_sae: int, l0: float, *, learning_rate: float, coef: float | None, **extra: Any
) -> Trained:
    """`coef`: L1 penalty, or for JumpReLU the weight of its target-L0 loss. Threshold averages start half way and
    forget within a tenth of the run; its window for dead latents, a constant 10M tokens there, is set by hand."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
    from dictionary_learning.trainers.top_k import TopKTrainer

    n = data.n_steps
    average = {"threshold_start_step": n // 2, "threshold_beta": math.exp(-10 / n)}
    rise = {"sparsity_warmup_steps": round(SPARSITY_WARMUP * n)}
    cls, own = {
        "relu": (StandardTrainerAprilUpdate, {"l1_penalty": coef, **rise}),
        "topk": (TopKTrainer, {"k": int(l0), **average}),
        "batch_topk": (BatchTopKTrainer, {"k": int(l0), **average}),
        "gated": (GatedSAETrainer, {"l1_penalty": coef, **rise}),
        "jumprelu": (JumpReluTrainer, {"target_l0": l0, "sparsity_penalty": coef, **rise}),
    }[architecture]
    common = {
        "steps": n,
        "activation_dim": data.d_in,
        "dict_size": d_sae,
        "layer": 0,
        "lm_name": "",
        "device": "cpu",
        "warmup_steps": round(WARMUP * n),
        "decay_start": n - round(DECAY * n),
        "seed": data.seed,
        "lr": learning_rate,
    }
    torch.manual_seed(data.seed)
    trainer = cls(**common, **(own | extra))
    trainer.dead_feature_threshold = DEAD * n * data.batch_tokens
    clock = Clock()
    for step, x in enumerate(data.batches):
        trainer.update(step, x)
    return Trained(Dense(trainer.ae.encode, trainer.ae.decode, d_sae), *clock.seconds())


class RowsModel(nn.Module):
    """Stands where eai-sparsify's trainer expects a language model: token numbers are row numbers, and its one
    sub-module hands on the rows."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.site = nn.Identity()
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.dummy_inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.int64)}
        self.clock: Clock | None = None

    @property
    def base_model(self) -> nn.Module:
        return self

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def forward(self, input_ids: Tensor) -> Tensor:
        if input_ids.shape[1] > 2 and self.clock is None:
            self.clock = Clock()
        return self.site(self.rows[input_ids])


class SparsifyDictionary:
    """k entries a row, zeros among them where fewer are positive."""

    def __init__(self, coder: Any, scale: float) -> None:
        self.coder, self.scale, self.d_sae = coder, scale, coder.num_latents

    @torch.no_grad()
    def encode(self, x: Tensor) -> SparseLatents:
        values, indices, _ = self.coder.encode(x * self.scale)
        offsets = torch.arange(0, values.numel() + 1, values.shape[1])
        return SparseLatents(offsets, indices.flatten().to(torch.int32), values.flatten(), self.d_sae)

    @torch.no_grad()
    def decode(self, latents: SparseLatents) -> Tensor:
        shape = (latents.n_tokens, -1)
        return self.coder.decode(latents.values.view(shape), latents.indices.long().view(shape)) / self.scale


def sparsify(
    architecture: str, data: Data, d_sae: int, l0: float, *, learning_rate: float, coef: float | None, **extra: Any
) -> Trained:
    """TopK by its trainer as it comes: sign descent with momentum, schedule-free averaging. `extra` goes to its
    TrainConfig (k_decay_steps, auxk_alpha)."""
    if not torch.cuda.is_available():
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it would choose Triton where that is installed, GPU or not
    from sparsify import SparseCoderConfig, TrainConfig
    from sparsify import Trainer as SparsifyTrainer

    if architecture != "topk" or coef is not None:
        raise ValueError("eai-sparsify has TopK alone here, without a coefficient")
    model = RowsModel(torch.cat(data.batches) * data.scale)
    dataset = [{"input_ids": ids} for ids in torch.arange(len(model.rows)).split(data.batch_tokens)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = TrainConfig(
            SparseCoderConfig(num_latents=d_sae, k=int(l0)),
            batch_size=1,
            lr=learning_rate,
            hookpoints=["site"],
            dead_feature_threshold=round(DEAD * len(model.rows)),
            save_every=10**9,
            save_dir=folder,
            init_seeds=[data.seed],
            log_to_wandb=False,
            **extra,
        )
        trainer = SparsifyTrainer(settings, dataset, model)
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.fit()
        assert model.clock is not None
        seconds = model.clock.seconds()
        for optimizer in trainer.optimizers:
            optimizer.eval()  # schedule-free: the averaged weights are the trained ones
    return Trained(SparsifyDictionary(trainer.saes["site"].eval(), data.scale), *seconds)


LIBRARIES: dict[str, Callable[..., Trained]] = {
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
    "eai-sparsify": sparsify,
}
