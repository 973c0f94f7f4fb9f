"""Turns what the user typed into the model's tokens, and the tokens it writes back into text.

Place on the path: request → [token ids] → generate. A model with a chat template receives the prompt as the user's
turn, followed by the start of the assistant's answer. Any other model receives the plain text, with the tokens that its
tokenizer puts at the start of a text (models/prompts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monosemy.errors import UserError
from monosemy.models import prompts
from monosemy.models.adapter import LanguageModel


def prompt_text(model: LanguageModel, prompt: str, *, chat: bool | None = None, system: str = "") -> str:
    """The text given to the model, with its chat template applied unless `chat` is False or the model has none.

    Raises UserError when `chat` is True and the model has no chat template, when the template fails or takes no system
    message, or when there is a system message but no chat.
    """
    tokenizer = model.tokenizer_for("a prompt")
    if chat and not prompts.has_template(tokenizer):
        raise UserError(f"{model.name} has no chat template; leave the chat option off to continue the text itself")
    if chat is False or not prompts.has_template(tokenizer):
        if system:
            raise UserError("a system message needs a chat; turn the chat option on or leave the message out")
        return prompt
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return prompts.chat_text(
        tokenizer, messages, model.name, "continue the text itself (--plain; in the browser, without the chat option)"
    )


def prompt_ids(model: LanguageModel, prompt: str, *, chat: bool | None = None, system: str = "") -> list[int]:
    """The token ids of `prompt_text`, which the model can continue.

    Raises UserError as `prompt_text` does, and for a token that has no embedding in the model.
    """
    text = prompt_text(model, prompt, chat=chat, system=system)
    as_chat = chat is not False and prompts.has_template(model.tokenizer)
    ids = prompts.chat_ids(model.tokenizer, text) if as_chat else prompts.text_ids(model.tokenizer, text)
    prompts.check_vocabulary(ids, model.tokenizer, model.vocab_size, model.name)
    return ids


def with_instruction(prompt: str, instruction: str) -> str:
    """The prompt of the prompted baseline: the instruction, a blank line, then the user's own prompt."""
    return f"{instruction.strip()}\n\n{prompt}"


def end_ids(model: LanguageModel) -> frozenset[int]:
    """Tokens that end an answer: the end of sequence of the tokenizer and of the model, and `<|endoftext|>`."""
    # generation_config.eos_token_id may be absent, one number, or a list
    configured: Any = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    ids = {model.tokenizer.eos_token_id, model.tokenizer.get_added_vocab().get("<|endoftext|>")}
    ids |= set(configured) if isinstance(configured, list | tuple) else {configured}
    return frozenset(number for number in ids if number is not None)


class GrowingText:
    """Decodes tokens one by one; a character made of several tokens appears with the last of them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """The text that this token adds; empty while a character is incomplete."""
        self.ids.append(token)
        # decode everything, not the token alone: some tokenizers drop the leading space of a first token
        decoded = self.tokenizer.decode(self.ids, clean_up_tokenization_spaces=False)
        if decoded.endswith("\ufffd"):
            return ""
        piece, self.text = decoded[len(self.text) :], decoded
        return piece

    def finish(self) -> str:
        """The whole text; bytes that never completed a character become the replacement character."""
        return self.tokenizer.decode(self.ids, clean_up_tokenization_spaces=False)


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds, in order."""
    text = GrowingText(tokenizer)
    return [text.add(token) for token in ids]
