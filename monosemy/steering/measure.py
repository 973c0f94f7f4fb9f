"""Measures what steering did to an answer, for each token and for the whole.

Place on the path: generate → [measures of a finished text] → page, sweep. For an answer a_1 … a_n, let q be the
distribution that wrote it (with edits or an instruction) and p that of the unsteered model after the user's own prompt:

    log-probability change   log q(a_t | a_<t) − log p(a_t | a_<t)
    KL                       Σ_v q(v | a_<t) log (q(v | a_<t) / p(v | a_<t))              nats per token
    perplexity               exp(−1/n Σ_t log p(a_t | a_<t))
    distinct-n               different n-grams of tokens / all n-grams

Each distribution comes from one pass over the finished text, so any text can be measured, not only one just written.
A text that repeats itself is easy to predict, so read the perplexity together with distinct-n.

Source: distinct-n, Li et al. 2016. Limits: a single answer is one draw; intervals need several prompts (sweep.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.models.adapter import LanguageModel, Start
from monosemy.models.generation import whole_text
from monosemy.steering.edits import Steering
from monosemy.steering.prompts import token_pieces
from monosemy.steering.request import Edit
from monosemy.steering.saes import SteeringSaes, TextEdits
from monosemy.steering.strength import check_finite


@dataclass(frozen=True)
class AnswerMeasures:
    """One answer of n tokens; tensors on the CPU."""

    log_probs: Float[Tensor, " n"]
    """log q(a_t | …)."""
    unsteered_log_probs: Float[Tensor, " n"]
    """log p(a_t | …)."""
    kl: Float[Tensor, " n"]
    """KL(q ‖ p) at every token."""
    before: Float[Tensor, "position watched"]
    """Activations of the watched latents before the edit, on the prompt and the answer."""
    after: Float[Tensor, "position watched"]
    """The same latents encoded again after the edit."""
    distinct: tuple[float | None, float | None, float | None]
    """Shares of distinct 1-, 2- and 3-grams; None where the answer is too short to contain one."""

    @property
    def n_tokens(self) -> int:
        return len(self.kl)

    @property
    def perplexity(self) -> float | None:
        """Perplexity of the answer under the unsteered model.

        None for an empty answer, infinity for one to which the unsteered model gives probability 0.
        """
        return float(torch.exp(-self.unsteered_log_probs.double().mean())) if self.n_tokens else None

    def summary(self) -> dict[str, Any]:
        """The measures of the whole answer, as JSON values; perplexity and means are None for an empty answer."""
        change = self.log_probs - self.unsteered_log_probs
        return {
            "n_tokens": self.n_tokens,
            "perplexity": self.perplexity,
            "mean_kl": float(self.kl.mean()) if self.n_tokens else None,
            "mean_log_prob_change": float(change.mean()) if self.n_tokens else None,
            "distinct": list(self.distinct),
        }

    def to_json(self, tokenizer: Any, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, Any]:
        """The fields of a `measure` event (request.py)."""
        pieces = token_pieces(tokenizer, answer)
        # `before` and `after` begin with the prompt's tokens
        before, after = self.before.tolist(), self.after.tolist()
        tokens = [
            {
                "token": token,
                "text": pieces[t],
                "log_prob": float(self.log_probs[t]),
                "unsteered_log_prob": float(self.unsteered_log_probs[t]),
                "kl": float(self.kl[t]),
                "activations": before[len(prompt) + t],
                "edited_activations": after[len(prompt) + t],
            }
            for t, token in enumerate(answer)
        ]
        prompt_tokens = [
            {"text": text, "activations": before[t], "edited_activations": after[t]}
            for t, text in enumerate(token_pieces(tokenizer, prompt))
        ]
        return {**self.summary(), "tokens": tokens, "prompt_tokens": prompt_tokens}


def measure_answer(
    model: LanguageModel,
    saes: SteeringSaes,
    prompt: Sequence[int],
    *,
    answer: Sequence[int],
    steering: Steering | None,
    plain_prompt: Sequence[int] | None = None,
    watch: Sequence[Edit] = (),
) -> AnswerMeasures:
    """Measures an answer that was written after `prompt` under `steering`.

    The reference is the unsteered model after `plain_prompt` (None: after `prompt` itself). `watch` are edits whose
    latents' activations are recorded. Raises TooStrongError when the edits leave no finite logits.
    """
    edits = TextEdits(model, saes, [steering], watch)
    plain = list(prompt if plain_prompt is None else plain_prompt)
    tokens = torch.tensor([[*prompt, *answer]])
    # both passes share the layers before the first site, where no edit has an effect yet
    start = saes.start(model, tokens, [*(steering.edits if steering else ()), *watch])
    log_q = _answer_log_probs(model, tokens, len(prompt), edits, start=start)
    if plain == list(prompt):
        # an unsteered answer to the plain prompt is its own reference: KL and change are exactly 0
        log_p = log_q if steering is None else _answer_log_probs(model, tokens, len(prompt), None, start=start)
    else:
        log_p = _answer_log_probs(model, torch.tensor([[*plain, *answer]]), len(plain), None, start=None)
    targets = torch.tensor(list(answer), dtype=torch.int64)[:, None]
    untraced = torch.zeros(len(prompt) + len(answer), 0)
    before, after = edits.traces() if watch else (untraced, untraced)
    return AnswerMeasures(
        log_probs=log_q.gather(1, targets)[:, 0],
        unsteered_log_probs=log_p.gather(1, targets)[:, 0],
        kl=_divergence(log_q, log_p),
        before=before,
        after=after,
        distinct=(distinct_n(answer, 1), distinct_n(answer, 2), distinct_n(answer, 3)),
    )


def _divergence(log_q: Float[Tensor, "n vocab"], log_p: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """KL(q ‖ p) of each row in nats. Tokens of probability 0 under q add nothing (0 · log 0 = 0)."""
    apart = (log_q - log_p).masked_fill(log_q == -torch.inf, 0.0)
    return torch.linalg.vecdot(log_q.exp(), apart).clamp(min=0)  # rounding can leave −1e-8


def _answer_log_probs(
    model: LanguageModel,
    tokens: Int[Tensor, "1 position"],
    n_prompt: int,
    edits: TextEdits | None,
    *,
    start: Start | None,
) -> Float[Tensor, "n vocab"]:
    """Log-probabilities of every next token along the answer, from one pass over the whole text."""
    # logits at position t predict token t + 1: those of the answer start one position early, the last predict nothing
    place = whole_text(tokens.to(model.device), n_prompt)
    logits = model.logits(tokens, None if edits is None else edits.at(place), start)[0, n_prompt - 1 : -1]
    if len(logits):
        sites = "no site" if edits is None else ", ".join(edits.hooks)
        check_finite(logits[None], sites, model, [edits is not None and edits.is_edited[0]])
    return logits.float().log_softmax(-1).cpu()


def distinct_n(ids: Sequence[int], n: int) -> float | None:
    """Number of distinct n-grams divided by the number of all n-grams; None for a text shorter than n tokens."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
