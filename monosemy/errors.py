"""Errors for users: one line with the value, the rule, the valid choices and the fix.

The command line prints a `UserError` as a single line and exits with status 2. Any other exception is a fault of the
package and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message is a single line with the value, the rule, the valid choices and the fix."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived and the work so far was saved; the message says where."""


def near_matches(value: str, choices: Iterable[str], n: int = 3, *, cutoff: float = 0.5) -> list[str]:
    """Up to `n` choices that resemble `value`, the best first; empty when none does.

    cutoff: the least similarity, from 0 (nothing in common) to 1 (equal up to case), as difflib measures it.
    """
    import difflib  # here, because every command imports this module and only errors need it

    by_lower = {choice.lower(): choice for choice in choices}
    return [by_lower[hit] for hit in difflib.get_close_matches(value.lower(), by_lower, n=n, cutoff=cutoff)]


def unknown(kind: str, value: str, choices: Iterable[str], *, fix: str = "") -> UserError:
    """The error for a name outside a closed set: `unknown site 'x'; did you mean …; choices: …`."""
    valid_choices = list(choices)
    near = near_matches(value, valid_choices)
    hint = f" did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    listing = ", ".join(valid_choices[:24]) + (f", … ({len(valid_choices)} in all)" if len(valid_choices) > 24 else "")
    return UserError(f"unknown {kind} {value!r};{hint} valid choices: {listing}" + (f"; {fix}" if fix else ""))
