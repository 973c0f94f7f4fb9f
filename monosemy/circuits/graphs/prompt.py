"""A prompt's tokens as the model should read them: begun as its training texts were.

Place on the path: text → [token ids and their pieces] → the frozen model.

The first position takes what the tokenizer begins texts with, or else the text separator (`<|endoftext|>`, or EOS):
models park a massive activation on their first token, which would otherwise be the prompt's own first word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.prompts import check_vocabulary, leading_ids, plain_ids

SEPARATOR = "<|endoftext|>"


def prompt_tokens(model: LanguageModel, text: str | Sequence[int] | Tensor) -> Int[Tensor, " position"]:
    """The token ids of a text, or the given ones. Raises UserError for none, and for more than the model takes."""
    if isinstance(text, str):
        tokenizer = model.tokenizer_for("a graph's prompt")
        plain = plain_ids(tokenizer, text)
        if not plain:
            raise UserError("the prompt has no tokens; write a few words")
        check_vocabulary(plain, tokenizer, model.vocab_size, model.name)
        separator = tokenizer.get_vocab().get(SEPARATOR, tokenizer.eos_token_id)
        leading = leading_ids(tokenizer) or ([] if separator is None else [int(separator)])
        ids = plain if plain[: len(leading)] == leading else [*leading, *plain]
    else:
        ids = [int(token) for token in (text.flatten().tolist() if isinstance(text, Tensor) else text)]
        if len(ids) < 2:
            raise UserError(f"a prompt of {len(ids)} tokens; give two or more, the first of which only begins the text")
    if len(ids) > model.max_positions:
        raise UserError(
            f"the prompt has {len(ids)} tokens, but {model.name} takes {model.max_positions}; give a shorter one"
        )
    return torch.tensor(ids)


def token_pieces(model: LanguageModel, ids: Sequence[int]) -> list[str]:
    """Each token as text; the number where the model has no tokenizer."""
    if model.tokenizer is None:
        return [str(token) for token in ids]
    return [model.tokenizer.decode([token]) for token in ids]
