"""Three families of prompts with one right answer each: capitals, plurals, and years that must be later.

The answer's first token is what the model is asked for; beside it stands the wrong one that it is compared with.

    capital   The capital of France is              Paris against the capital of the next country in the list
    plural    I saw one dog, but you saw two        dogs against dog
    year      The war lasted from 1743 to 174       digits above 3 against the others, by their summed probability
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.models.adapter import LanguageModel

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Austria": "Vienna",
    "England": "London",
    "Ireland": "Dublin",
    "Portugal": "Lisbon",
}
NOUNS = ("dog", "cat", "horse", "tree", "house", "book", "car", "bird", "boat", "star", "river", "garden")
UNITS = (1, 2, 3, 4, 5, 6)
DECADES = ("174", "186")


@dataclass(frozen=True)
class Prompt:
    """A prompt, the first tokens of right answers and those of wrong ones, as texts."""

    family: str
    text: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    def preference(self, model: LanguageModel, logits: Float[Tensor, " vocab"]) -> float:
        """log P(right) − log P(wrong), in nats."""
        probabilities = logits.double().softmax(-1)
        return log(_sum(model, probabilities, self.right)) - log(_sum(model, probabilities, self.wrong))


def all_prompts(n_each: int) -> list[Prompt]:
    """The first `n_each` prompts of every family."""
    cities = list(CAPITALS.values())
    others = [*cities[1:], cities[0]]
    capitals = [
        Prompt("capital", f"The capital of {country} is", (f" {city}",), (f" {other}",))
        for (country, city), other in zip(CAPITALS.items(), others, strict=True)
    ]
    plurals = [Prompt("plural", f"I saw one {noun}, but you saw two", (f" {noun}s",), (f" {noun}",)) for noun in NOUNS]
    years = [
        Prompt(
            "year",
            f"The war lasted from {decade}{unit} to {decade}",
            tuple(str(digit) for digit in range(unit + 1, 10)),
            tuple(str(digit) for digit in range(unit + 1)),
        )
        for unit in UNITS
        for decade in DECADES
    ]
    return [prompt for family in (capitals, plurals, years) for prompt in family[:n_each]]


def _sum(model: LanguageModel, probabilities: Float[Tensor, " vocab"], texts: Sequence[str]) -> float:
    """The summed probability of the texts' first tokens."""
    first = {model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in texts}
    return float(probabilities[torch.tensor(sorted(first))].sum())
