"""Refuses pushes that are too strong for the result to be an answer.

Place on the path: edits → [refused here] → generate, sweep, output_score. A push can be too strong in three ways: the
edited activation overflows the model's number format; the push is so much longer than the activation that nothing of
the text is left (`longest_push`); or a later layer overflows, so that logits are NaN or infinite. None of them raises
an error by itself: the model would go on and write "!!!!!", or one word for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.shapes import Activations, PerToken
from monosemy.support.numbers import rounded_text

LONGEST_PUSH = 100.0
"""Longest push in the residual stream, in norms of the activation it is added to.

Beyond it, the text accounts for less than a hundredth of what the next layer reads.
"""

MOST_NORMS = 1.0
"""Strength, in typical norms of the site, above which hardly any answer is text.

In the searches of research/steering, 81% of the answers were fluent at 0.35, 44% at 0.5 and 6% at 0.7.
"""


class TooStrongError(UserError):
    """Raised for an edit that leaves no meaningful answer. `rows` are the affected texts of the batch."""

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


def longest_push(site: str, dtype: torch.dtype) -> float:
    """The longest push that leaves something of the text, in norms of the activation it is added to.

    The residual stream is normalised before it is read, so a push 100 times as long is practically all that is read.
    At other sites the activation is added to a longer stream or read in parts. There a push is only certain to leave
    nothing when it rounds the activation away, that is beyond 1 / ε norms (ε is the spacing of `dtype` at 1).
    """
    beyond_rounding = 1 / torch.finfo(dtype).eps
    return min(LONGEST_PUSH, beyond_rounding) if ".resid_" in site else beyond_rounding


def check_push(h_ND: Activations, change_ND: Activations, *, dtype: torch.dtype, site: str, row: int) -> None:
    """Raises TooStrongError when h + change overflows `dtype` or the change drowns an activation h (both float32).

    `row` is the text's number in the batch, for the error's `rows`.
    """
    limits = torch.finfo(dtype)
    # "not all within" rather than "any beyond": NaN fails both comparisons and must be refused too
    if not bool(((h_ND + change_ND).abs() <= limits.max).all()):
        raise TooStrongError(
            f"the change is too strong: it exceeds the largest number of {_name(dtype)}, {rounded_text(limits.max)}; "
            "lower the strength",
            [row],
        )
    # an activation of exactly zero has nothing to drown
    activation_norms, push_norms = _lengths(h_ND), _lengths(change_ND)
    longest = longest_push(site, dtype)
    drowned = (push_norms > longest * activation_norms) & (activation_norms > 0)
    if bool(drowned.any()):
        times = float((push_norms / activation_norms)[drowned].max())
        raise TooStrongError(
            f"the change is too strong: {rounded_text(times, 2)} times as long as the activation, so that nothing of "
            f"the text is left; lower the strength to at most {rounded_text(longest)} times the activation's length",
            [row],
        )


def _lengths(x_ND: Activations) -> PerToken:
    """Norms of the rows, finite even where a sum of squares would overflow: the largest component is factored out."""
    largest = x_ND.abs().amax(dim=1, keepdim=True)
    return (x_ND / largest.clamp(min=torch.finfo(x_ND.dtype).tiny)).norm(dim=1) * largest[:, 0]


def check_finite(
    logits_BV: Float[Tensor, "batch *position vocab"], site: str, model: LanguageModel, edited: Sequence[bool] = ()
) -> None:
    """Raises TooStrongError for edited texts whose logits are NaN or +∞, and UserError if an unedited text has them.

    `edited` says for each text whether it was edited; by default all were. Logits of −∞ are allowed, since models use
    them to forbid tokens.
    """
    bad = (logits_BV.isnan() | (logits_BV == torch.inf)).any(dim=-1).reshape(len(logits_BV), -1).any(dim=1)
    if not bool(bad.any()):
        return
    rows = bad.nonzero()[:, 0].tolist()
    if edited and not all(edited[row] for row in rows):
        raise UserError(
            f"{model.name} gives logits that are no numbers without any change, in {_name(model.dtype)}; choose "
            "another number format (--dtype), or mend its weights"
        )
    raise TooStrongError(
        f"the change at {site} is too strong: the layers behind it overflow {_name(model.dtype)}; lower the strength",
        rows,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
