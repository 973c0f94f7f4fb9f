"""From words to the token ids a model continues: with what its tokenizer puts before a text and nothing behind it.

Place on the path: prompt or chat messages → [token ids] → generation, scores, explanations.

A tokenizer may end each text with EOS or SEP; a text to be continued must not end there. A chat template writes its
marks itself; where the tokenizer begins texts with BOS and the template does not, BOS is put there, so that there is
exactly one. Templates are programs from elsewhere: one that fails, or that has no place for a system message, is said
in one line, or the message is put at the start of the first user message (`fold_system`).
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
    """Token ids of a text to be continued: BOS or CLS where the tokenizer begins texts with it, no EOS, no SEP."""
    return [*leading_ids(tokenizer), *plain_ids(tokenizer, text)]


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of the text alone. Raises UserError for half a surrogate pair, which tokenizers do not take."""
    require_characters("the text", text)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def leading_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text."""
    whole, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    n_added = len(whole) - len(plain)
    return next((list(whole[:n]) for n in range(n_added + 1) if whole[n : n + len(plain)] == plain), [])


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(tokenizer: Any, messages: Messages, name: str, otherwise: str) -> str:
    """The messages in the chat template, up to where the assistant answers. For errors: the model's `name`, and what
    to do `otherwise` when its template fails.

    Raises NoSystemRole when the template refuses a system message or leaves it out; UserError when it fails anyway.
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
    if len(rest) < len(messages) and _renders(tokenizer, rest) and _rendered(tokenizer, rest) == text:
        raise NoSystemRole(_no_system(name))
    return text


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `chat_text`: the template's own special tokens, and BOS before them where the tokenizer begins
    texts with it and the template does not."""
    ids, leading = plain_ids(tokenizer, text), leading_ids(tokenizer)
    return ids if ids[: len(leading)] == leading else [*leading, *ids]


def fold_system(messages: Messages) -> Messages:
    """System messages moved to the start of the first user message, for a template or a server without that role."""
    system_texts = [message["content"] for message in messages if message["role"] == "system"]
    rest = _without_system(messages)
    first = next(i for i, message in enumerate(rest) if message["role"] == "user")
    words = "\n\n".join([*system_texts, rest[first]["content"]])
    return [*rest[:first], {"role": "user", "content": words}, *rest[first + 1 :]]


def check_vocabulary(ids: Sequence[int], tokenizer: Any, n_vocabulary: int, name: str) -> None:
    """Raises UserError for a token beyond the model's embedding: one added to the tokenizer alone."""
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
