"""Texts that grow token by token, many at once, with sites edited on the way.

Place on the path: tokens → [next-token logits with edited activations] → steering's text.

    decoding = Decoding(model, prompts, {site: edit})      prompts of any lengths, padded on the left
    decoding.logits                                        [B, V] for the next token of every text
    decoding.append(tokens)                                one more token each

Each pass computes only the new tokens: keys and values of earlier ones are kept (`use_cache=False` computes all again,
with the same edits, and gives the same logits up to rounding). An edit is told the number of each token in its own
text, so that padding and caching are invisible to it. Hooks are set for the length of a pass and no longer: between
passes the model is everybody's.

Source: transformers' own cache. Limits: no beam search; a text that has ended goes on being computed with its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel


@dataclass(frozen=True)
class Place:
    """Where the tokens of one pass stand in their texts."""

    positions: Tensor
    """int64 [B, T]: number of the token in its text, counted from 0; −1 at padding."""
    prompt_lengths: Tensor
    """int64 [B]: positions from here on were generated."""


PlacedEdit = Callable[[Tensor, Place], Tensor]
"""Takes a site's activation [B, T, d] and where its tokens stand; returns the replacement, of the same shape."""


def whole_text(tokens: Tensor, prompt_length: int) -> Place:
    """The place of a pass over whole, unpadded texts [B, T]."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    return Place(positions, torch.full((len(tokens),), prompt_length, device=tokens.device))


def check_room(model: LanguageModel, prompts: Sequence[Sequence[int]], n_tokens: int) -> None:
    """Raises UserError unless the longest prompt and `n_tokens` new tokens fit into the model's positions."""
    longest = max((len(prompt) for prompt in prompts), default=0)
    room = model.max_positions - longest
    if n_tokens > room:
        fix = f"shorten the prompt or ask for at most {room} new tokens" if room > 0 else "shorten the prompt"
        raise UserError(
            f"{longest} tokens of prompt and {n_tokens} new ones exceed the {model.max_positions} positions of "
            f"{model.name}; {fix}"
        )


class Decoding:
    """A batch of texts. Raises UserError for an empty prompt, too long a text, unknown sites."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        edits: Mapping[str, PlacedEdit] | None = None,
        *,
        use_cache: bool = True,
    ) -> None:
        if not prompts or not all(prompts):
            raise UserError("a prompt without tokens cannot be continued; give some text")
        self.model = model
        self.use_cache = use_cache
        self._edits = {model.resolve(site): edit for site, edit in (edits or {}).items()}
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        rows = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        self._padding = (width - lengths)[:, None].to(model.device)
        self._lengths = lengths.to(model.device)
        self._tokens = torch.tensor(rows, device=model.device)
        self._cache: Any = None
        self._n_done = 0
        self.logits: Tensor = self._pass()

    @property
    def n_positions(self) -> int:
        """Tokens of the longest text so far."""
        return self._tokens.shape[1]

    def append(self, tokens: Tensor) -> None:
        """Adds one token [B] to every text and computes `logits` anew."""
        self._tokens = torch.cat([self._tokens, tokens.to(self._tokens)[:, None]], dim=1)
        self.logits = self._pass()

    @torch.no_grad()
    def _pass(self) -> Tensor:
        if self.n_positions > self.model.max_positions:
            raise UserError(
                f"{self.n_positions} tokens exceed the {self.model.max_positions} positions of {self.model.name}; "
                "shorten the prompt or ask for fewer tokens"
            )
        first = self._n_done if self.use_cache else 0
        columns = torch.arange(self.n_positions, device=self._tokens.device)
        positions = columns - self._padding
        arguments: dict[str, Any] = {
            "input_ids": self._tokens[:, first:],
            "attention_mask": (positions >= 0).long(),
            "position_ids": positions[:, first:].clamp(min=0),
            "use_cache": self.use_cache,
            "return_dict": True,
            "logits_to_keep": 1,
        }
        if self._cache is not None:
            arguments["past_key_values"] = self._cache
        place = Place(positions[:, first:].clamp(min=-1), self._lengths)
        output = self._run_edited(arguments, place)
        if self.use_cache:
            self._cache = output.past_key_values
            self._n_done = self.n_positions
        return output.logits[:, -1].float()

    def _run_edited(self, arguments: dict[str, Any], place: Place) -> Any:
        model = self.model
        done: set[str] = set()

        def writer(name: str, edit: PlacedEdit) -> Callable[[Tensor], Tensor]:
            def replace(value: Tensor) -> Tensor:
                done.add(name)
                n_texts, n_tokens = place.positions.shape
                new = edit(value.reshape(n_texts, n_tokens, -1), place)
                return new.to(value.dtype).reshape(value.shape)

            return replace

        with model._hooks() as hooks:
            for name, edit in self._edits.items():
                module, side = model._places[name]
                hooks.write(module, writer(name, edit), point=side)
            output = model.module(**arguments)
        if missing := sorted(set(self._edits) - done):
            raise UserError(f"{model.name} never computed {', '.join(missing)}: nothing was edited there")
        return output
