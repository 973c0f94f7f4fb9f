"""From what the user typed to the tokens the model is given, and back to text as it grows.

Place on the path: request → [token ids] → generate. A model with a chat template gets the prompt as the user's turn,
ready for the assistant's answer; any other gets the text as its tokenizer begins it (models/prompts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monosemy.errors import UserError
from monosemy.models import prompts
from monosemy.models.adapter import LanguageModel


def prompt_text(model: LanguageModel, prompt: str, *, chat: bool | None = None, system: str = "") -> str:
    """The text given to the model. Raises UserError when a chat is asked of a model without a chat template, or its
    template fails or takes no system message."""
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
    """Token ids of `prompt_text`, ready to be continued. Raises UserError for a token without an embedding."""
    text = prompt_text(model, prompt, chat=chat, system=system)
    as_chat = chat is not False and prompts.has_template(model.tokenizer)
    ids = prompts.chat_ids(model.tokenizer, text) if as_chat else prompts.text_ids(model.tokenizer, text)
    prompts.check_vocabulary(ids, model.tokenizer, model.vocab_size, model.name)
    return ids


def with_instruction(prompt: str, instruction: str) -> str:
    """The prompted baseline's prompt: the instruction, then the user's own words."""
    return f"{instruction.strip()}\n\n{prompt}"


def end_ids(model: LanguageModel) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and the model's end of sequence, and the end of a document."""
    configured: Any = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    ids = {model.tokenizer.eos_token_id, model.tokenizer.get_added_vocab().get("<|endoftext|>")}
    ids |= set(configured) if isinstance(configured, list | tuple) else {configured}
    return frozenset(number for number in ids if number is not None)


class GrowingText:
    """Token ids to text, piece by piece: a character of several tokens appears with its last."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """What this token adds to the text; empty while a character is incomplete."""
        self.ids.append(token)
        decoded = self.tokenizer.decode(self.ids, clean_up_tokenization_spaces=False)
        if decoded.endswith("\ufffd"):
            return ""
        piece, self.text = decoded[len(self.text) :], decoded
        return piece

    def finish(self) -> str:
        """The whole text; bytes that never made a character are shown as the replacement character."""
        return self.tokenizer.decode(self.ids, clean_up_tokenization_spaces=False)


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text each token adds, in order."""
    text = GrowingText(tokenizer)
    return [text.add(token) for token in ids]
