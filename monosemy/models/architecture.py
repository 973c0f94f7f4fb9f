"""Reads facts off a model: the modules of its layers, its special tokens, the longest text it takes.

Place on the path: transformers' module, configuration and tokenizer → [facts] → `LanguageModel` (`adapter.py`).
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from torch import nn

from monosemy.errors import UserError

if TYPE_CHECKING:
    from interp_engine import EagerModel


def find_engine(module: nn.Module, name: str) -> EagerModel:
    """interp-engine's view of the module, used only to find sites. Raises UserError when it finds no layers."""
    from interp_engine import EagerModel

    # A stand-in, because interp-engine would set a padding token on the real tokenizer.
    no_tokenizer = SimpleNamespace(pad_token="", encode=lambda text: [])
    try:
        return EagerModel(name, hf_model=module, tokenizer=no_tokenizer)
    except Exception as error:  # it meets modules that it was not written for, and raises all sorts
        raise UserError(
            f"{name} ({type(module).__name__}) is not a decoder whose layers can be found: {first_sentence(error)}"
        ) from error


def special_token_ids(module: nn.Module, tokenizer: Any) -> frozenset[int]:
    """The ids of special tokens, as the tokenizer names them, or as the configurations of a model without one do."""
    if tokenizer is None:
        return frozenset(_configured_special_ids(module))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}


def _configured_special_ids(module: nn.Module) -> set[int]:
    """The begin, end and padding tokens in the model's own configurations: all that is known without a tokenizer."""
    config: Any = module.config
    places = (config, config.get_text_config(), getattr(module, "generation_config", None))
    fields = ("bos_token_id", "eos_token_id", "pad_token_id")
    values = [getattr(place, field, None) for place in places for field in fields]
    lists = [value if isinstance(value, list | tuple) else [value] for value in values]
    return {number for numbers in lists for number in numbers if number is not None}


def max_positions(config: Any) -> int:
    """The longest sequence that the model takes; 2³¹ − 1 where its positions are unbounded (ALiBi)."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 2**31 - 1)


def first_sentence(error: Exception) -> str:
    """The first sentence of an error's message, on one line."""
    # A sentence ends at a full stop before a capital; that spares names such as `model.layers`.
    text = " ".join(str(error).split())
    return re.split(r"(?<=[a-z)'`\"])\. (?=[A-Z'`])", text)[0].rstrip(".")
