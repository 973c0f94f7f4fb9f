"""When a push is too strong for its result to be an answer.

Place on the path: edits → [refused here] → generate, sweep, output_score. Three things can go wrong, each without an
error of its own and with a text at the end ("!!!!!", or one word for ever): the edited activation overflows the model's
number format; the push is so long beside the activation that nothing of the
text is left (`longest_push`); or a later layer overflows, and logits are NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel

LONGEST_PUSH = 100.0
"""In lengths of a residual stream's activation: beyond it the text makes less than a hundredth of what is read next."""


class TooStrongError(UserError):
    """An edit whose result would be no answer. `rows` are the texts of the batch that it was met in."""

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


def longest_push(site: str, dtype: torch.dtype) -> float:
    """Lengths of the activation beyond which a push leaves nothing of the text.

    The residual stream is normalised before it is read, so that a push of 100 lengths is all that is read. What other
    sites hold is added to a longer stream or read in parts: there only a push that rounds the activation away (1 / ε,
    ε the format's spacing at 1) is certain to leave nothing.
    """
    beyond_rounding = 1 / torch.finfo(dtype).eps
    return min(LONGEST_PUSH, beyond_rounding) if ".resid_" in site else beyond_rounding


def check_push(h_ND: Tensor, change_ND: Tensor, *, dtype: torch.dtype, site: str, row: int) -> None:
    """Raises TooStrongError when h + change overflows `dtype` or drowns an activation h; float32 both."""
    limits = torch.finfo(dtype)
    if not bool(((h_ND + change_ND).abs() <= limits.max).all()):
        raise TooStrongError(
            f"the change is too strong: it exceeds the largest number of {_name(dtype)}, {limits.max:.3g}; lower the "
            "strength",
            [row],
        )
    activation_norms, push_norms = _lengths(h_ND), _lengths(change_ND)
    longest = longest_push(site, dtype)
    drowned = (push_norms > longest * activation_norms) & (activation_norms > 0)
    if bool(drowned.any()):
        times = float((push_norms / activation_norms)[drowned].max())
        raise TooStrongError(
            f"the change is too strong: {times:.2g} times as long as the activation, so that nothing of the text is "
            f"left; lower the strength to at most {longest:.3g} times the activation's length",
            [row],
        )


def _lengths(x_ND: Tensor) -> Tensor:
    """Norms [N], also of vectors whose squares overflow."""
    largest = x_ND.abs().amax(dim=1, keepdim=True)
    return (x_ND / largest.clamp(min=torch.finfo(x_ND.dtype).tiny)).norm(dim=1) * largest[:, 0]


def check_finite(logits_BV: Tensor, site: str, model: LanguageModel, edited: Sequence[bool] = ()) -> None:
    """Raises TooStrongError for the texts whose logits are not numbers; UserError when one of them was not edited.

    `edited`: per text, all of them by default. Logits of −infinity are a model's own way to forbid a token.
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
