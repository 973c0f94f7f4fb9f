"""Small attention-only transformers trained here from scratch, on induction and on symbolic IOI.

Place on the path: task, seed → [weights by a recipe, cached] → the methods; their truth is exhaustive ablation
(`reference.py`). Where compiled models are too clean, these are models that learned what they do.

Loss: cross-entropy at the positions whose next symbol the behaviour determines (the repeated part; the last position).
Adam, cosine to zero, weights drawn at the scale that keeps the residual stream's variance, no dropout. On the same
machine with the same number of threads a recipe gives the same weights, bit for bit; the cache is keyed by the recipe.

Source: Olsson et al. 2022 (2209.11895) for two layers and induction; InterpBench (2407.14494) for small models as
benchmarks. Deviation: trained on the task alone. Limits: what they learn is not known beforehand, and need not be what
large models do.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor

from monosemy import progress
from monosemy.circuits.attention_only import AttentionOnly, Shape
from monosemy.circuits.symbolic import ALL_ORDERS, INDUCTION, IOI, Symbols, induction_task, ioi_task
from monosemy.circuits.task import TaskData
from monosemy.config import fingerprint
from monosemy.errors import unknown
from monosemy.files import atomic_path, cache_folder
from monosemy.tensors import save_tensors

VERSION = 1
"""Raised when the same recipe would give other weights."""
IGNORED = -100
"""Label of positions without loss."""


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights follow from."""

    task: str
    seed: int = 0
    n_layers: int = 2
    n_heads: int = 8
    d_model: int = 64
    d_head: int = 16
    n_steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.1

    @property
    def symbols(self) -> Symbols:
        return {"induction": INDUCTION, "ioi": IOI}[self.task]

    @property
    def fingerprint(self) -> str:
        return fingerprint(["trained", VERSION, asdict(self), asdict(self.symbols)])


RECIPES: dict[str, Recipe] = {
    "induction": Recipe("induction"),
    "ioi": Recipe("ioi", n_layers=3, n_heads=6),
}


@dataclass(frozen=True)
class TrainedModel:
    """A model, its task on prompts that it may have seen the like of, and its recipe."""

    model: AttentionOnly
    data: TaskData
    recipe: Recipe


def trained_model(task: str, seed: int = 0, n_examples: int = 64) -> TrainedModel:
    """The model of a recipe from the cache, else trained now (half a minute on one core) and kept.

    Raises UserError for another task than `induction` and `ioi`.
    """
    if task not in RECIPES:
        raise unknown("task of a trained model", task, RECIPES)
    recipe = replace(RECIPES[task], seed=seed)
    path = cache_folder() / "circuits" / "trained" / f"{task}-{seed}-{recipe.fingerprint}.safetensors"
    if path.exists():
        model = empty_model(recipe)
        model.load_state_dict(load_file(path))
    else:
        model = train(recipe)
        with atomic_path(path) as temporary:
            save_tensors(temporary, model.state_dict())
    # other prompts for every model, none drawn with the numbers that training draws
    seeded = 1000 + seed
    if task == "ioi":
        data = ioi_task(n_examples, seeded, recipe.fingerprint, ALL_ORDERS)
    else:
        data = induction_task(n_examples, seeded, recipe.fingerprint)
    return TrainedModel(model.requires_grad_(False), data, recipe)


def empty_model(recipe: Recipe) -> AttentionOnly:
    """A model of the recipe's shape, all weights zero."""
    symbols = recipe.symbols
    shape = Shape(
        recipe.n_layers, recipe.n_heads, recipe.d_model, recipe.d_head, symbols.size, symbols.n_positions
    )  # fmt: skip
    return AttentionOnly(shape, f"trained {recipe.task} {recipe.seed}")


def train(recipe: Recipe) -> AttentionOnly:
    """Trains from scratch; the same recipe gives the same weights."""
    generator = torch.Generator().manual_seed(recipe.seed)
    model = empty_model(recipe)
    _draw_weights(model, generator)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.n_steps))
    with progress.stage(f"train {model.name}", total=recipe.n_steps, unit="steps") as bar:
        for _ in range(recipe.n_steps):
            tokens, labels = draw_batch(recipe, generator)
            logits = model(tokens)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.advance(1)
    return model


def _rate(step: int, n_steps: int) -> float:
    """Up over the first 2%, then cosine to zero."""
    warmup = max(1, n_steps // 50)
    return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / n_steps)))


def _draw_weights(model: AttentionOnly, generator: torch.Generator) -> None:
    shape = model.shape
    scales = {
        "W_E": shape.d_model**-0.5,
        "W_pos": shape.d_model**-0.5,
        "W_Q": shape.d_model**-0.5,
        "W_K": shape.d_model**-0.5,
        "W_V": shape.d_model**-0.5,
        "W_O": (shape.n_heads * shape.d_head * shape.n_layers) ** -0.5,
        "W_U": shape.d_model**-0.5,
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(scales[name] * torch.randn(parameter.shape, generator=generator))


# --- batches ----------------------------------------------------------------------------------------------------------


def draw_batch(recipe: Recipe, generator: torch.Generator) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Prompts as in `symbolic.py` and the next symbol where the behaviour determines it."""
    draw = _draw_induction if recipe.task == "induction" else _draw_ioi
    return draw(recipe.symbols, recipe.batch_size, generator)


def _draw_induction(symbols: Symbols, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The last 1 to 4 symbols repeat earlier ones (as many in the whole batch), and each has a successor to copy."""
    length = symbols.n_positions
    repeat = int(torch.randint(1, 5, (1,), generator=generator))
    n_new = length - 1 - repeat
    new = _distinct(symbols.names, n_new, n, generator)
    start = torch.randint(0, n_new - repeat, (n, 1), generator=generator)
    copied = start + torch.arange(repeat)
    tokens = torch.cat([torch.zeros(n, 1, dtype=torch.long), new, new.gather(1, copied)], 1)
    labels = torch.full_like(tokens, IGNORED)
    labels[:, -repeat:] = new.gather(1, copied + 1)
    return tokens, labels


def _draw_ioi(symbols: Symbols, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Three names in random places, one of them twice, the others fillers; the answer is the one that is not."""
    length = symbols.n_positions
    fillers = _distinct(symbols.fillers, length - 2, n, generator)
    names = _distinct(symbols.names, 2, n, generator)
    places = _distinct(slice(1, length - 1), 3, n, generator).sort(1).values
    patterns = torch.tensor([["AB".index(letter) for letter in order] for order in ALL_ORDERS])
    order = patterns[torch.randint(0, len(ALL_ORDERS), (n,), generator=generator)]
    tokens = torch.cat([torch.zeros(n, 1, dtype=torch.long), fillers, torch.ones(n, 1, dtype=torch.long)], 1)
    tokens.scatter_(1, places, names.gather(1, order))
    labels = torch.full_like(tokens, IGNORED)
    labels[:, -1] = names[:, 0]
    return tokens, labels


def _distinct(symbols: slice, k: int, n: int, generator: torch.Generator) -> Int[Tensor, "n k"]:
    """k different ones in random order, for each of n prompts."""
    n_symbols = symbols.stop - symbols.start
    return torch.rand(n, n_symbols, generator=generator).argsort(1)[:, :k] + symbols.start
