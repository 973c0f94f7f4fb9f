"""Chat models that explain latents: a local transformers model, or any server with OpenAI's chat interface.

Place on the data's path: `explanations` asks, and one of these answers. There are three kinds of question: for a reply
in words; for P(yes), read from the logits of the first token so that nothing has to be parsed; and for a digit for
every token of a text (simulation). What a server does not give is None, never a made-up number.

Limits: replies are greedy; a server's P(yes) rests on the alternatives that it lists (20 at most). Local models answer
one prompt at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from monosemy.config import fingerprint
from monosemy.errors import UserError
from monosemy.features.explain.answers import DIGITS, FOLDED, answer_probability, expected_digit
from monosemy.models import prompts
from monosemy.models.prompts import Messages

if TYPE_CHECKING:
    from torch import Tensor


class ChatModel(Protocol):
    """The interface that `explanations` needs of a chat model."""

    name: str
    """The model's name for the record, without keys or paths."""
    identity: str
    """Distinguishes this model from all others whose answers may differ: a hash, or an address with a name."""
    note: str
    """Remark for the reader if the model is asked in an unusual way; otherwise empty."""

    def fits(self, messages: Messages, n_reply_tokens: int) -> bool:
        """Whether prompt and reply fit into the model's context, as far as this is known in advance."""
        ...

    def reply(self, messages: Messages, n_tokens: int) -> str:
        """The model's greedy reply, of at most n_tokens tokens."""
        ...

    def yes(self, messages: Messages) -> tuple[float | None, str]:
        """(P(yes) / (P(yes) + P(no)) at the first token, the first token's text); None where it cannot be read."""
        ...

    def digits(self, messages: Messages, pieces: Sequence[str]) -> list[float] | None:
        """The digit, 0 to 9, that the model is expected to give each piece of a text; None if it cannot be read."""
        ...


def open_chat(chat: str, model: str | None = None) -> ChatModel:
    """Opens a chat model: `embedded`, a folder or .gguf file, a hub id, or http(s)://… with a `model` name.

    Raises UserError when nothing is found there, when the server does not answer or has several models and none is
    named, or when `model` is given for anything but a server.
    """
    if "://" in chat:
        from monosemy.features.explain.chat_server import ServerChat

        return ServerChat(chat, model)
    if model is not None:
        raise UserError(f"--model {model!r} names a model of a server; with --chat {chat} leave it out")
    return LocalChat(chat)


class LocalChat:
    """A model of the transformers library. One without a chat template is prompted with a plain transcript."""

    def __init__(self, source: str) -> None:
        from monosemy.models.sources import load_model

        self._model = load_model(source, checks=False)
        self._tokenizer = self._model.tokenizer_for("writing explanations")
        self.name = self._model.name.rstrip("/").rsplit("/", 1)[-1]
        template = self._tokenizer.chat_template
        self._folds_system = prompts.has_template(self._tokenizer) and self._lacks_system_role()
        self.note = FOLDED.format(self.name) if self._folds_system else ""
        self.identity = fingerprint([self._model.fingerprint, self._model.tokenizer_fingerprint, template])
        # every token that reads as yes, no or a digit counts, whatever its case and the space before it
        texts = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
        bare = [text.strip().casefold() for text in texts]
        self._answers = [(token, text) for token, text in enumerate(bare) if text in ("yes", "no")]
        self._digits = [(token, text) for token, text in enumerate(bare) if len(text) == 1 and text in DIGITS]

    def fits(self, messages: Messages, n_reply_tokens: int) -> bool:
        return len(self._prompt(messages)) + n_reply_tokens <= self._model.max_positions

    def reply(self, messages: Messages, n_tokens: int) -> str:
        import torch

        prompt = self._prompt(messages)
        tokens = torch.tensor([prompt], device=self._model.device)
        with torch.no_grad():
            module: Any = self._model.module
            written = module.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=n_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True)).strip()

    def yes(self, messages: Messages) -> tuple[float | None, str]:
        if not self.fits(messages, 1):
            return None, ""
        # all spellings of both answers, at the first token of the reply; the reply itself need not be written
        probabilities = self._probabilities(self._prompt(messages), None)[-1]
        first = self._tokenizer.decode([int(probabilities.argmax())])
        return answer_probability([(text, float(probabilities[token])) for token, text in self._answers]), first

    def digits(self, messages: Messages, pieces: Sequence[str]) -> list[float] | None:
        """Reads all digits in one pass over lines `piece⇥unknown`, from what the model predicts in place of `unknown`.

        Source: the one-pass simulator of Bills et al., Language models can explain neurons in language models (2023).
        """
        # tokenized piece by piece, so that the position after each tab is known
        tokens, positions = self._prompt(messages), []
        for piece in pieces:
            tokens += prompts.plain_ids(self._tokenizer, f"{piece}\t")
            positions.append(len(tokens) - 1)
            tokens += prompts.plain_ids(self._tokenizer, "unknown\n")
        if len(tokens) > self._model.max_positions:
            return None
        rows = self._probabilities(tokens, positions)
        digits = [expected_digit([(text, float(row[token])) for token, text in self._digits]) for row in rows]
        return [digit for digit in digits if digit is not None] if None not in digits else None

    def _prompt(self, messages: Messages) -> list[int]:
        """The tokens of a chat, up to where the assistant's reply begins."""
        if prompts.has_template(self._tokenizer):
            sent_messages = prompts.fold_system(messages) if self._folds_system else messages
            ids = prompts.chat_ids(self._tokenizer, self._chat_text(sent_messages))
        else:
            lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
            ids = prompts.text_ids(self._tokenizer, "\n\n".join([*lines, "Assistant:"]))
        prompts.check_vocabulary(ids, self._tokenizer, self._model.vocab_size, self.name)
        return ids

    def _chat_text(self, messages: Messages) -> str:
        return prompts.chat_text(self._tokenizer, messages, self.name, "choose another --chat")

    def _lacks_system_role(self) -> bool:
        """Whether system messages must be folded into the user's. Raises UserError when the template fails anyway."""
        # a template may also object to the order of roles: the probe has the same order as the simulation's prompt
        probe = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
        try:
            self._chat_text(probe)
        except prompts.NoSystemRole:
            self._chat_text(prompts.fold_system(probe))
            return True
        return False

    def _probabilities(self, tokens: list[int], positions: list[int] | None) -> Tensor:
        """Next-token probabilities [n, V] at n positions (None: at the last one alone)."""
        # logits_to_keep leaves out the unembedding elsewhere, which for a large vocabulary is most of the memory
        import torch

        input_ids = torch.tensor([tokens], device=self._model.device)
        with torch.no_grad():
            logits_to_keep: Any = 1 if positions is None else torch.tensor(positions, device=self._model.device)
            logits = self._model.module(input_ids=input_ids, use_cache=False, logits_to_keep=logits_to_keep).logits
        return logits[0].float().softmax(-1).cpu()
