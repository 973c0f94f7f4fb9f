"""Formats numbers for people: in the terminal, on pages, in reports and in messages.

Place on the path: beneath everything that shows a number. `–` stands for a value that was not measured. For file names
and settings there is `ranges.number_name`, which gives different numbers different texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

DASH = "–"


def number_text(value: float) -> str:
    """A number with separated thousands, or with three significant digits below 100."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def significant_text(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits and never an exponent: `100`, `12.3`, `0.00012`."""
    # Rounded as a float, then written by Decimal, which never uses an exponent with the format `f`.
    return f"{Decimal(repr(float(f'{value:.{digits}g}')) if value else '0').normalize():f}"


def percent_text(share: float | None, digits: int = 3) -> str:
    """A share as per cent: `12.3%`, `100%`; `–` for None."""
    return DASH if share is None else f"{significant_text(100 * share, digits)}%"


def measured_text(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, including trailing zeros; `–` for NaN.

    Only numbers below 0.0001 have an exponent.
    """
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = abs(value)
    # Large numbers keep all digits before the point, even beyond `digits`.
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if size < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits - 1 - math.floor(math.log10(size))}f}"


def interval_text(value: float, low: float, high: float, *, percent: bool = False) -> str:
    """A value and its interval, `0.213 [0.201, 0.226]`, all with the decimals of the value.

    Without an interval (NaN) it is the value alone.
    """
    scale = 100.0 if percent else 1.0
    value, low, high = value * scale, low * scale, high * scale
    if not math.isfinite(value):
        return DASH
    text = measured_text(value)
    mark = "%" if percent else ""
    if not (math.isfinite(low) and math.isfinite(high)):
        return text + mark
    if "e" in text or value == 0:
        return f"{text}{mark} [{measured_text(low)}, {measured_text(high)}]"
    decimals = len(text.partition(".")[2])
    return f"{text}{mark} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


def setting_text(value: float) -> str:
    """A setting's value as people type it, with at most six significant digits: `32`, `0.001`, `1e-05`."""
    return f"{value:g}"


def rounded_text(value: float, digits: int = 3) -> str:
    """At most `digits` significant digits, with an exponent where it is shorter: `0.5`, `12.3`, `1.23e+05`."""
    return f"{value:.{digits}g}"


def fixed_text(value: float, decimals: int, *, signed: bool = False) -> str:
    """A number with `decimals` digits after the point, such as `0.50`; `+0.50` if signed."""
    return f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"


def fixed_percent_text(share: float, decimals: int = 0, *, signed: bool = False) -> str:
    """A share as per cent with `decimals` digits after the point, such as `12%`; `+12%` if signed."""
    return f"{share:+.{decimals}%}" if signed else f"{share:.{decimals}%}"


def exponent_text(value: float, decimals: int = 1) -> str:
    """A number with an exponent and `decimals` digits after the point: `1.2e-05`."""
    return f"{value:.{decimals}e}"


def value_text(
    value: float | None,
    ends: Sequence[float] | None = None,
    *,
    decimals: int | None = None,
    digits: int = 3,
    signed: bool = False,
    scale: float = 1,
    unit: str = "",
    missing: str = DASH,
) -> str:
    """A value with its unit and the ends of its interval, all in one format: `4.1× [3.8, 4.4]`; `missing` for None.

    The format is `fixed_text` with `decimals`, or without them `rounded_text` with `digits`. All numbers are multiplied
    by `scale`: 100 with the unit `%` shows a share as per cent.
    """
    if value is None:
        return missing

    def text(number: float) -> str:
        number = scale * number
        return rounded_text(number, digits) if decimals is None else fixed_text(number, decimals, signed=signed)

    return f"{text(value)}{unit}" + (f" [{text(ends[0])}, {text(ends[1])}]" if ends else "")


def percent_margin_text(share: float | None, ends: Sequence[float] | None = None) -> str:
    """A share as per cent with half the width of its interval, `6.2 ±0.2%`; `–` for None."""
    if share is None or not ends:
        return percent_text(share)
    return f"{significant_text(100 * share)} ±{percent_text((ends[1] - ends[0]) / 2, 2)}"


def activation_text(value: float | None, digits: int = 3) -> str:
    """An activation, effect or rate of one latent: `0.00123`, `12.3`, `1,234`; `–` for None.

    Only numbers below 0.000001 have an exponent.
    """
    if value is None:
        return DASH
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 8)}f}" if abs(value) >= 1e-6 else f"{value:.1e}"


def rate_text(share: float | None) -> str:
    """A latent's share of the tokens as per cent, with the digits of `activation_text`: `0.310%`; `–` for None."""
    return DASH if share is None else f"{activation_text(100 * share)}%"


def signed_text(value: float) -> str:
    """An activation or effect with its sign: `+0.0246`, `−1.20`."""
    return f"{'−' if value < 0 else '+'}{activation_text(abs(value))}"


def count_text(n: float) -> str:
    """A count with separated thousands, `12,345`; `–` for NaN and infinities."""
    # Only integers are exact beyond 2⁵³.
    if isinstance(n, int):
        return f"{n:,}"
    return f"{n:,.0f}" if math.isfinite(n) else DASH


def counted_text(n: int, noun: str) -> str:
    """A number of things: `1 SAE`, `15 SAEs`; the plural is the noun with an s."""
    return f"{count_text(n)} {noun}{'' if n == 1 else 's'}"


def magnitude_text(value: float) -> str:
    """A count on an axis: `300k`, `1.5M`, `2B`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return measured_text(value)


def duration_text(seconds: float) -> str:
    """`0.4 s`, `48 s`, `2 min 21 s`, `3 h 04 min`."""
    # From here on one decimal would round to 10.0 s.
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(n_bytes: float) -> str:
    """`812 MB`, `5.3 GB` (powers of ten)."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            value = n_bytes / size
            return f"{value:.1f} {unit}" if value < 100 else f"{value:,.0f} {unit}"
    return f"{max(n_bytes, 0) / 1e3:.0f} kB"


def five_digits(value: float) -> float:
    """The number rounded to five significant digits, as exports hold it.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    if not math.isfinite(value):
        raise ValueError(f"not a number that JSON can hold: {value}")
    return float(f"{value:.5g}")
