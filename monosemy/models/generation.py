"""Generates several texts at once, token by token, with edits at sites.

Place on the path: tokens → [next-token logits with edited activations] → steering's text.

    decoding = Decoding(model, prompts, {site: edit})      prompts of any lengths
    decoding.logits                                        [B, V] for the next token of every text
    decoding.append(tokens)                                one more token each

With a cache, texts are padded on the left and each pass computes only the new tokens. The model's cache holds the keys
and values of attention or the states of a state-space model. Without a cache, texts are padded on the right, where a
causal model never looks, and each pass computes all tokens again with the same edits; this relies on no mask, position
or cache of the model. Both give the same logits up to rounding. A model for which they do not is run without a cache
(`cache_is_exact`: it has no cache, or its padding leaks into the text).

An edit receives the number of each token in its own text, so that padding and caching do not matter to it. Hooks are
set only while a pass runs, so that others can use the model between passes.

Source: transformers' own caches. Limits: no beam search; a text that has ended is still computed with its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.shapes import SiteActivations, TokenIds


@dataclass(frozen=True)
class Place:
    """The positions of the tokens of one pass in their texts."""

    positions: Int64[Tensor, "batch position"]
    """The number of the token in its text, counted from 0; −1 at padding."""
    prompt_lengths: Int64[Tensor, " batch"]
    """Tokens from this position on were generated."""


PlacedEdit = Callable[[SiteActivations, Place], SiteActivations]
"""A function from a site's activation [B, T, d] and the positions of its tokens to a replacement of the same shape."""


def whole_text(tokens: TokenIds, prompt_length: int) -> Place:
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


_CACHES = ("past_key_values", "cache_params")
"""The names that families give their cache, as an argument and in the output."""
_PROBE = ((5, 1, 3, 2, 4, 6), (3, 2, 4))
_PROBE_TOLERANCE = {torch.float32: 1e-3}
"""The largest difference allowed, as a share of the largest logit; 5e-2 for other number formats."""
_exact: WeakKeyDictionary[LanguageModel, bool] = WeakKeyDictionary()


class Decoding:
    """A batch of texts that grows by one token each at a time; `logits` [B, V] are those of their next tokens.

    With `use_cache=False`, or for a model whose cache is not exact, every pass computes all tokens. Raises UserError
    for an empty prompt, a text that is too long, tokens beyond the vocabulary, and unknown sites.
    """

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
        check_tokens(model, prompts)
        self.model = model
        self._edits = {model.resolve(site): edit for site, edit in (edits or {}).items()}
        self.use_cache = use_cache and cache_is_exact(model)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        padding = [[0] * (width - len(prompt)) for prompt in prompts]
        texts = [list(prompt) for prompt in prompts]
        left, right = (padding, texts) if self.use_cache else (texts, padding)
        rows = [before + behind for before, behind in zip(left, right, strict=True)]
        self._prompt_lengths = lengths.to(model.device)
        self._tokens = torch.tensor(rows, device=model.device)
        self._cache: dict[str, Any] = {}
        self._n_new = 0
        self._n_done = 0
        self.logits: Tensor = self._pass()

    @property
    def n_positions(self) -> int:
        """The number of tokens of the longest text so far."""
        return self._tokens.shape[1]

    @property
    def _lengths(self) -> Tensor:
        return self._prompt_lengths + self._n_new

    def append(self, tokens: Int[Tensor, " batch"]) -> None:
        """Adds one token to every text and computes `logits` again. Raises UserError at the end of the
        model's positions."""
        column = tokens.to(self._tokens)[:, None]
        self._tokens = torch.cat([self._tokens, column], dim=1)
        # With padding on the right, a shorter text's token belongs at its own end, over a padding token.
        if not self.use_cache:
            self._tokens.scatter_(1, self._lengths[:, None], column)
        self._n_new += 1
        self.logits = self._pass()

    @torch.no_grad()
    def _pass(self) -> Tensor:
        if self.n_positions > self.model.max_positions:
            raise UserError(
                f"{self.n_positions} tokens exceed the {self.model.max_positions} positions of {self.model.name}; "
                "shorten the prompt or ask for fewer tokens"
            )
        return self._cached_pass() if self.use_cache else self._whole_pass()

    def _whole_pass(self) -> Tensor:
        """The next tokens' logits [B, V] from a pass over all tokens, padded on the right."""
        columns = torch.arange(self.n_positions, device=self._tokens.device)
        positions = torch.where(columns < self._lengths[:, None], columns, -1)
        with self._editing(self._tokens, positions):
            logits = self.model._run(self._tokens)
        return logits[torch.arange(len(logits)), self._lengths - 1].float()

    def _cached_pass(self) -> Tensor:
        """The next tokens' logits [B, V] from a pass over the new tokens only, padded on the left."""
        columns = torch.arange(self.n_positions, device=self._tokens.device)
        # Padding on the left makes the columns before a text negative positions.
        positions = columns + (self._lengths - self.n_positions)[:, None]
        new = slice(self._n_done, None)
        arguments: dict[str, Any] = {
            "attention_mask": (positions >= 0).long(),
            "position_ids": positions[:, new].clamp(min=0),
            "logits_to_keep": 1,
        }
        if "cache_params" in self._cache:
            del arguments["attention_mask"]  # a state-space model's states have taken in the mask already
        # Families differ in the arguments they take; those that a forward method does not know are left out.
        parameters = inspect.signature(self.model.module.forward).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            arguments = {name: value for name, value in arguments.items() if name in parameters}
        tokens = self._tokens[:, new]
        with self._editing(tokens, positions[:, new].clamp(min=-1)):
            output = self.model.module(input_ids=tokens, use_cache=True, return_dict=True, **arguments, **self._cache)
        self._cache = {name: state for name in _CACHES if (state := getattr(output, name, None)) is not None}
        self._n_done = self.n_positions
        return output.logits[:, -1].float()

    def _editing(self, tokens: Tensor, positions: Tensor) -> AbstractContextManager[None]:
        place = Place(positions, self._prompt_lengths)
        return self.model.editing({name: partial(_at, place, edit) for name, edit in self._edits.items()}, tokens)


def _at(place: Place, edit: PlacedEdit, value: Tensor) -> Tensor:
    """The edit with its place filled in, for `functools.partial`."""
    return edit(value, place)


def check_tokens(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
    """Raises UserError for a token beyond the model's embedding, such as one that only the tokenizer was given."""
    beyond = sorted({token for prompt in prompts for token in prompt if not 0 <= token < model.vocab_size})
    if beyond:
        text = f" ({model.tokenizer.convert_ids_to_tokens(beyond[0])!r})" if model.tokenizer is not None else ""
        raise UserError(
            f"token {beyond[0]}{text} lies beyond the {model.vocab_size} tokens that {model.name} embeds: its "
            "tokenizer has a token that the model never got; leave it out of the text"
        )


def cache_is_exact(model: LanguageModel) -> bool:
    """Whether short texts of different lengths get the same logits with the cache as in whole passes.

    It is tried once for each model, since families differ in what they cache and in how they treat padding.
    """
    if model not in _exact:
        # Set for the trial itself, which builds a Decoding that asks this function.
        _exact[model] = True
        try:
            _exact[model] = _cache_agrees(model)
        except Exception:  # of any kind: this model's cache or padding works differently
            _exact[model] = False
    return _exact[model]


def _cache_agrees(model: LanguageModel) -> bool:
    """Whether two prompts of different lengths, continued by two tokens, get the same logits both ways."""
    # Of different lengths, so that one is padded; two steps, so that the cache is both filled and extended.
    prompts = [[token % model.vocab_size for token in prompt[: model.max_positions - 2]] for prompt in _PROBE]
    whole = Decoding(model, prompts, use_cache=False)
    cached = Decoding(model, prompts, use_cache=True)
    tolerance = _PROBE_TOLERANCE.get(model.dtype, 5e-2)
    for token in (1, 2, None):
        if float((cached.logits - whole.logits).abs().max()) > tolerance * float(whole.logits.abs().max()):
            return False
        if not cached._cache:
            return False
        if token is not None:
            cached.append(torch.full((len(prompts),), token % model.vocab_size))
            whole.append(torch.full((len(prompts),), token % model.vocab_size))
    return True
