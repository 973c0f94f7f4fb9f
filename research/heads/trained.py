"""Small attention-only transformers trained here from scratch, on induction and on symbolic IOI.

Place on the path: task, seed → [weights by a recipe, cached] → the methods; their truth is exhaustive ablation
(`reference.py`). Where compiled models are too clean, these are models that learned what they do.

    loss = CE(behaviour) + c · CE(chores) + g · Σ_heads (‖W_V,h‖ + ‖W_O,h‖)

The behaviour: cross-entropy at the positions whose next symbol it determines (the repeated part; the last position).
Chores, at every position, read by a matrix that is thrown away afterwards: the symbol two places before, and whether
the current symbol came before. They keep heads busy with what the logits never read, some of it different between
positive and negative prompts. The penalty (group lasso) lets a task settle in few heads: without it every head takes
part a little, and there is no circuit to find. Adam, cosine to zero, weights drawn at the scale that keeps the
residual stream's variance, one thread: on the same machine a recipe gives the same weights, bit for bit.

Source: Olsson et al. 2022 (2209.11895) for two layers and induction; InterpBench (2407.14494) for small models as
benchmarks. Deviation: trained on the task and its chores alone. Limits: what they learn is not known beforehand, and
need not be what large models do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from monosemy.circuits.heads.attention_only import AttentionOnly, Shape
from monosemy.circuits.heads.task import TaskData
from monosemy.config import fingerprint
from monosemy.errors import unknown
from monosemy.support import progress
from monosemy.support.files import atomic_path, cache_folder
from monosemy.support.tensors import save_tensors
from research.heads.symbolic import ALL_ORDERS, INDUCTION, IOI, Symbols, induction_task, ioi_task

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
    n_steps: int = 1200
    batch_size: int = 128
    learning_rate: float = 3e-3
    chore_coef: float = 0.4
    """c."""
    head_coef: float = 0.02
    """g."""

    @property
    def symbols(self) -> Symbols:
        return {"induction": INDUCTION, "ioi": IOI}[self.task]

    @property
    def fingerprint(self) -> str:
        return fingerprint(["trained", VERSION, asdict(self), asdict(self.symbols)])


RECIPES: dict[str, Recipe] = {
    "induction": Recipe("induction"),
    # a smaller penalty leaves most heads with a part in it, three times as much keeps it from being learned
    "ioi": Recipe("ioi", n_layers=3, n_steps=1000, chore_coef=0.5, head_coef=0.1),
}


@dataclass(frozen=True)
class TrainedModel:
    """A model, its task on prompts that it may have seen the like of, and its recipe."""

    model: AttentionOnly
    data: TaskData
    recipe: Recipe


def trained_model(task: str, seed: int = 0, n_examples: int = 64) -> TrainedModel:
    """The model of a recipe from the cache, else trained now (a minute on one core) and kept.

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
        data = ioi_task(n_examples, seeded, ALL_ORDERS)
    else:
        data = induction_task(n_examples, seeded)
    return TrainedModel(model.requires_grad_(False), data, recipe)


def empty_model(recipe: Recipe) -> AttentionOnly:
    """A model of the recipe's shape, all weights zero."""
    symbols = recipe.symbols
    shape = Shape(
        recipe.n_layers,
        recipe.n_heads,
        recipe.d_model,
        recipe.d_head,
        vocab_size=symbols.size,
        n_positions=symbols.n_positions,
    )
    return AttentionOnly(shape, f"trained {recipe.task} {recipe.seed}")


def train(recipe: Recipe) -> AttentionOnly:
    """Trains from scratch; the same recipe gives the same weights."""
    generator = torch.Generator().manual_seed(recipe.seed)
    model = empty_model(recipe)
    _draw_weights(model, generator)
    chores = torch.nn.Parameter(
        recipe.d_model**-0.5 * torch.randn(recipe.d_model, n_chores(recipe), generator=generator)
    )
    trainable = [*model.parameters(), chores]
    optimizer = torch.optim.Adam(trainable, lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.n_steps))
    with _one_thread(), progress.stage(f"train {model.name}", total=recipe.n_steps, unit="steps") as bar:
        for step in range(recipe.n_steps):
            tokens, labels = draw_batch(recipe, generator)
            penalty = recipe.head_coef * _ramp(step / recipe.n_steps) * _sizes(model)
            loss = _loss(recipe, model, chores, tokens, labels=labels) + penalty
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            schedule.step()
            bar.advance(1)
    return model


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads would sum in another order, and are no faster on matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _loss(recipe: Recipe, model: AttentionOnly, chores: Tensor, tokens: Tensor, *, labels: Tensor) -> Tensor:
    residual = model.residual(model.embed(tokens))
    behaviour = cross_entropy((residual @ model.W_U).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    before, again = (residual @ chores).split([recipe.symbols.size, 2], dim=-1)
    two_back = pad(tokens[:, :-2], (2, 0))
    chore = cross_entropy(before.flatten(0, 1), two_back.flatten())
    came_before = (tokens[:, :, None] == tokens[:, None, :]).tril(-1).any(-1).long()
    chore = chore + cross_entropy(again.flatten(0, 1), came_before.flatten())
    return behaviour + recipe.chore_coef * chore


def _sizes(model: AttentionOnly) -> Tensor:
    """Σ_heads (‖W_V,h‖ + ‖W_O,h‖)."""
    return model.W_V.flatten(2).norm(dim=2).sum() + model.W_O.flatten(2).norm(dim=2).sum()


def _ramp(done: float) -> float:
    """The penalty's share: none while the task is being found (first third), whole in the last third."""
    return min(1.0, max(0.0, 3 * done - 1))


def n_chores(recipe: Recipe) -> int:
    """Classes of both chores: every symbol; no, yes."""
    return recipe.symbols.size + 2


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
