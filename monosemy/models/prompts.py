"""Turns prompts and chats into token ids that a model can continue.

Place on the path: prompt or chat messages → [token ids] → generation, scores, explanations.

The ids begin with what the tokenizer puts before a text. They do not end with EOS or SEP, even if the tokenizer adds
them, because the text is to be continued. A chat template writes its own special tokens; BOS is added if the tokenizer
begins texts with it and the template does not, so that there is exactly one. Templates are programs of unknown origin.
One that fails gives an error of one line. If it has no place for a system message, that message can be put at the start
of the first user message (`fold_system`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monosemy.errors import UserError
from monosemy.support.text_input import require_characters

Messages = list[dict[str, str]]
"""[{"role": "system" | "user" | "assistant", "content": …}, …]"""


class NoSystemRole(UserError):
    """The chat template has no place for a system message."""


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text to be continued: with BOS or CLS if the tokenizer adds it, without EOS and SEP."""
    return [*leading_ids(tokenizer), *plain_ids(tokenizer, text)]


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The token ids of the text alone. Raises UserError for half a surrogate pair, which tokenizers cannot take."""
    require_characters("the text", text)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def leading_ids(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before every text."""
    # Finds where the plain ids begin within those with special tokens, which may be added at both ends.
    whole, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    n_added = len(whole) - len(plain)
    return next((list(whole[:n]) for n in range(n_added + 1) if whole[n : n + len(plain)] == plain), [])


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(tokenizer: Any, messages: Messages, name: str, otherwise: str) -> str:
    """The messages as text in the chat template, up to where the assistant answers.

    Raises NoSystemRole when the template refuses a system message or omits it, and UserError when it fails otherwise;
    messages contain the model's `name` and the advice `otherwise`.
    """
    rest = _without_system(messages)
    try:
        text = _rendered(tokenizer, messages)
    except Exception as error:  # a template is a program from elsewhere: it may raise anything
        if len(rest) < len(messages) and _renders(tokenizer, rest):
            raise NoSystemRole(_no_system(name)) from error
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(
            f"the chat template of {name} fails ({why}); {otherwise}, or mend the template in the model's folder"
        ) from error
    # The same text with and without the system message: the template drops it silently.
    if len(rest) < len(messages) and _renders(tokenizer, rest) and _rendered(tokenizer, rest) == text:
        raise NoSystemRole(_no_system(name))
    return text


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """The token ids of `chat_text`, with BOS in front if the tokenizer adds it to texts and the template does not."""
    ids, leading = plain_ids(tokenizer, text), leading_ids(tokenizer)
    return ids if ids[: len(leading)] == leading else [*leading, *ids]


def fold_system(messages: Messages) -> Messages:
    """Moves system messages to the start of the first user message, for a template or a server without that role."""
    system_texts = [message["content"] for message in messages if message["role"] == "system"]
    rest = _without_system(messages)
    first = next(i for i, message in enumerate(rest) if message["role"] == "user")
    words = "\n\n".join([*system_texts, rest[first]["content"]])
    return [*rest[:first], {"role": "user", "content": words}, *rest[first + 1 :]]


def check_vocabulary(ids: Sequence[int], tokenizer: Any, n_vocabulary: int, name: str) -> None:
    """Raises UserError for a token beyond the model's embedding, such as one that only the tokenizer was given."""
    beyond = next((token for token in ids if token >= n_vocabulary), None)
    if beyond is not None:
        raise UserError(
            f"the text holds {tokenizer.decode([beyond])!r}, token {beyond}, which {name} has no embedding for (it has "
            f"tokens 0 to {n_vocabulary - 1}); leave it out"
        )


def _without_system(messages: Messages) -> Messages:
    return [message for message in messages if message["role"] != "system"]


def _rendered(tokenizer: Any, messages: Messages) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _renders(tokenizer: Any, messages: Messages) -> bool:
    """Whether the chat template can write these messages."""
    try:
        _rendered(tokenizer, messages)
    except Exception:
        return False
    return True


def _no_system(name: str) -> str:
    return (
        f"the chat template of {name} takes no system message; leave it out (--system), or put it at the start of the "
        "prompt"
    )
