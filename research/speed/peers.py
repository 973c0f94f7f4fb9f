"""One training step of other libraries, by their own trainers, for `step.py --peers`.

pip install sae-lens dictionary-learning eai-sparsify beside monosemy (its extra `bench`). Settings
are each library's defaults but for width, k and the plain Adam that they prescribe; costs hardly depend on the rest. A
library that is not installed is left out and said so.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable

import torch
from torch import Tensor

Steppers = dict[str, Callable[[], object]]


def steppers(d_in: int, d_sae: int, k: int, batches: list[Tensor], *, n_steps: int, device: str = "cpu") -> Steppers:
    """{`library architecture`: one step}."""
    contenders: Steppers = {}
    for package, make in (
        ("sae-lens", sae_lens),
        ("dictionary-learning", dictionary_learning),
        ("eai-sparsify", sparsify),
    ):
        try:
            contenders |= make(d_in, d_sae, k, batches, n_steps=n_steps, device=device)
            print(f"{package} {importlib.metadata.version(package)}", file=sys.stderr)
        except ImportError as error:
            print(f"{package} left out: {error}", file=sys.stderr)
    return contenders


def cycle(batches: list[Tensor], step: Callable[[int, Tensor], object]) -> Callable[[], object]:
    index = 0

    def run() -> object:
        nonlocal index
        index += 1
        return step(index, batches[index % len(batches)])

    return run


def sae_lens(d_in: int, d_sae: int, k: int, batches: list[Tensor], *, n_steps: int, device: str = "cpu") -> Steppers:
    from sae_lens import saes
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    kinds = {
        "relu": (saes.StandardTrainingSAE, saes.StandardTrainingSAEConfig, {}),
        "topk": (saes.TopKTrainingSAE, saes.TopKTrainingSAEConfig, {"k": k}),
        "batch_topk": (saes.BatchTopKTrainingSAE, saes.BatchTopKTrainingSAEConfig, {"k": k}),
        "gated": (saes.GatedTrainingSAE, saes.GatedTrainingSAEConfig, {}),
        "jumprelu": (saes.JumpReLUTrainingSAE, saes.JumpReLUTrainingSAEConfig, {}),
    }
    contenders: Steppers = {}
    for name, (cls, config, options) in kinds.items():
        sae = cls(config(d_in=d_in, d_sae=d_sae, device=device, **options))
        n = len(batches[0])
        settings = SAETrainerConfig(total_training_samples=n * n_steps, train_batch_size_samples=n, lr_end=3e-5)
        trainer = SAETrainer(settings, sae, iter(()))

        def step(index: int, x: Tensor, trainer: object = trainer, sae: object = sae) -> object:
            return trainer._train_step(sae, x)  # type: ignore[attr-defined]

        contenders[f"sae-lens {name}"] = cycle(batches, step)
    return contenders


def dictionary_learning(
    d_in: int, d_sae: int, k: int, batches: list[Tensor], *, n_steps: int, device: str = "cpu"
) -> Steppers:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    kinds = {
        "relu": (StandardTrainer, {}),
        "topk": (TopKTrainer, {"k": k}),
        "batch_topk": (BatchTopKTrainer, {"k": k}),
        "gated": (GatedSAETrainer, {}),
        "jumprelu": (JumpReluTrainer, {"target_l0": float(k)}),
    }
    contenders: Steppers = {}
    for name, (cls, options) in kinds.items():
        common = {
            "steps": n_steps,
            "activation_dim": d_in,
            "dict_size": d_sae,
            "layer": 0,
            "lm_name": "",
            "device": device,
        }
        trainer = cls(**common, **options)
        contenders[f"dictionary-learning {name}"] = cycle(batches, trainer.update)
    return contenders


def sparsify(d_in: int, d_sae: int, k: int, batches: list[Tensor], *, n_steps: int, device: str = "cpu") -> Steppers:
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD

    torch.manual_seed(0)
    coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k), device=device)
    optimizer = SignSGD(coder.parameters(), lr=5e-3 / (d_sae / 2**14) ** 0.5)  # its trainer's default
    fired = torch.zeros(d_sae, dtype=torch.bool, device=device)

    def step(index: int, x: Tensor) -> float:
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        return float(out.fvu.detach())

    return {"eai-sparsify topk": cycle(batches, step)}
