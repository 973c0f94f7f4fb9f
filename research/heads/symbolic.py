"""Induction and IOI over plain symbols: the tasks of the compiled and of the small trained models.

Place on the path: a seed → [prompts of symbols] → `compiled.py`, `trained.py`.

    induction    0 x x A B x x x A          → B: what followed A before. Counterpart: one of the two A's is another
                                              symbol, so that the last symbol never came before
    ioi          0 x A x x B x A x END      → B: the name that is not repeated. Counterpart: three other names, all
                                              different (the paper's ABC)

Symbol 0 starts every prompt. No symbol but A comes twice, so that nothing but the behaviour gives the answer.

Source: Olsson et al. 2022 (2209.11895); Wang et al. 2022 (2211.00593) without the words. Limits: one length per task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monosemy.circuits.heads.task import Example, TaskData

FIRST_ORDERS = ("ABB", "BAB")
"""Places of the repeated name B among the three, as in the paper's templates: it is always the last."""
ALL_ORDERS = (*FIRST_ORDERS, "BBA")


@dataclass(frozen=True)
class Symbols:
    """A vocabulary: 0 starts prompts, 1 ends them (IOI only), then names, then fillers."""

    n_names: int
    n_fillers: int
    n_positions: int

    @property
    def size(self) -> int:
        return 2 + self.n_names + self.n_fillers

    @property
    def names(self) -> slice:
        return slice(2, 2 + self.n_names)

    @property
    def fillers(self) -> slice:
        return slice(2 + self.n_names, self.size)

    def text(self, tokens: Sequence[int]) -> str:
        """·, names a0 a1 …, fillers x0 x1 …, →."""
        n = self.n_names
        parts = ["·→"[t] if t < 2 else f"a{t - 2}" if t < 2 + n else f"x{t - 2 - n}" for t in tokens]
        return " ".join(parts)


INDUCTION = Symbols(n_names=22, n_fillers=0, n_positions=12)
IOI = Symbols(n_names=12, n_fillers=10, n_positions=12)


def induction_prompts(symbols: Symbols, n: int, seed: int, repeat: int = 1) -> tuple[Example, ...]:
    """n prompts whose last `repeat` symbols repeat earlier ones; the answer is what followed these."""
    random = np.random.default_rng([seed, 0])
    length = symbols.n_positions
    n_new = length - 1 - repeat
    examples = []
    for i in range(n):
        drawn = random.permutation(np.arange(symbols.names.start, symbols.names.stop))
        new, other = drawn[:n_new], int(drawn[n_new])
        start = int(random.integers(0, n_new - repeat))
        tokens = [0, *new.tolist(), *new[start : start + repeat].tolist()]
        corrupted = list(tokens)
        # half the counterparts lose the earlier A, half the later: an edge that carries either is in the truth
        corrupted[length - 1 if i % 2 else start + repeat] = other
        answer = int(new[start + repeat])
        wrong = tuple(int(token) for token in new if token != answer)
        examples.append(_example(symbols, tokens, corrupted, (answer,), wrong=wrong))
    return tuple(examples)


def ioi_prompts(symbols: Symbols, n: int, seed: int, orders: Sequence[str] = FIRST_ORDERS) -> tuple[Example, ...]:
    """n prompts with three names in random places; orders and places are as often as each other."""
    random = np.random.default_rng([seed, 1])
    length = symbols.n_positions
    examples = []
    for i in range(n):
        drawn = random.permutation(np.arange(symbols.names.start, symbols.names.stop)).tolist()
        fillers = random.permutation(np.arange(symbols.fillers.start, symbols.fillers.stop)).tolist()
        places = sorted(random.choice(np.arange(1, length - 1), 3, replace=False).tolist())
        named = {"A": drawn[0], "B": drawn[1]}
        tokens = [0, *fillers[: length - 2], 1]
        corrupted = list(tokens)
        for place, letter, other in zip(places, orders[i % len(orders)], drawn[2:5]):
            tokens[place], corrupted[place] = named[letter], other
        examples.append(_example(symbols, tokens, corrupted, (named["A"],), wrong=(named["B"],)))
    return tuple(examples)


def induction_task(n: int = 64, seed: int = 0) -> TaskData:
    """n positives and their n counterparts as negatives."""
    return _task("symbolic-induction", induction_prompts(INDUCTION, n, seed))


def ioi_task(n: int = 64, seed: int = 0, orders: Sequence[str] = FIRST_ORDERS) -> TaskData:
    """n positives and their n counterparts as negatives."""
    return _task("symbolic-ioi", ioi_prompts(IOI, n, seed, orders))


def _task(name: str, positives: tuple[Example, ...]) -> TaskData:
    negatives = tuple(example.reversed() for example in positives)
    return TaskData(name, positives, negatives, "logit_difference", provenance=("random symbols, no tokenizer",))


def _example(
    symbols: Symbols, tokens: list[int], corrupted: list[int], answers: tuple[int, ...], *, wrong: tuple[int, ...]
) -> Example:
    text, corrupted_text = symbols.text(tokens), symbols.text(corrupted)
    return Example(tuple(tokens), tuple(corrupted), answers, wrong, text=text, corrupted_text=corrupted_text)
