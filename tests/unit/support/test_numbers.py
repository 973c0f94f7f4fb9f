"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosemy.support.numbers import (
    activation_text,
    count_text,
    duration_text,
    exponent_text,
    five_digits,
    fixed_percent_text,
    fixed_text,
    interval_text,
    magnitude_text,
    number_text,
    percent_margin_text,
    percent_text,
    rate_text,
    rounded_text,
    setting_text,
    signed_text,
    size_text,
    value_text,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (141, "2 min 21 s"),
        (11040, "3 h 04 min"),
    ],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.123456, "0.123"), (12.34, "12.3"), (1234567.8, "1,234,568")])
def test_numbers(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (1, 2, "100%"),
        (0.9996, 2, "100%"),
        (0.1234, 2, "12%"),
        (0.1234, 3, "12.3%"),
        (123.4, 3, "12300%"),
        (1e-7, 2, "0.00001%"),
        (0, 2, "0%"),
        (-0.5, 3, "-50%"),
    ],
)
def test_per_cents_have_no_exponent(share, digits, text):
    assert percent_text(share, digits) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 kB"), (-5, "0 kB"), (2_500, "2 kB"), (812e6, "812 MB"), (5.34e9, "5.3 GB"), (1.2e12, "1.2 TB")],
)
def test_size_text(n_bytes, text):
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (950, "950"), (3e5, "300k"), (1.5e6, "1.5M"), (-2e9, "-2B")])
def test_counts_on_an_axis(value, text):
    assert magnitude_text(value) == text


def test_intervals():
    assert interval_text(0.2134, 0.2, 0.2266) == "0.213 [0.200, 0.227]"
    assert interval_text(0.2134, 0.2, 0.2266, percent=True) == "21.3% [20.0, 22.7]"
    assert interval_text(0.2134, math.nan, math.nan) == "0.213"
    assert interval_text(math.nan, 0, 1) == "–"


def test_a_value_its_unit_and_its_interval_have_one_format():
    assert value_text(0.01234, [0.009, 0.0161], decimals=3) == "0.012 [0.009, 0.016]"
    assert value_text(0.5, (0.5, 0.714), decimals=2) == "0.50 [0.50, 0.71]"
    assert value_text(0.5, [], decimals=2) == "0.50"
    assert value_text(4.123, (3.8, 4.44), digits=2, unit="×") == "4.1× [3.8, 4.4]"
    assert value_text(0.12345, (0.1, 0.2), scale=100, unit="%") == "12.3% [10, 20]"
    assert value_text(-0.5, decimals=2, signed=True) == "-0.50"
    assert value_text(0.5, (-0.25, 1), decimals=2, signed=True) == "+0.50 [-0.25, +1.00]"
    assert value_text(None, (0.1, 0.2), decimals=3) == "–"
    assert value_text(None, missing="none") == "none"


@given(st.floats() | st.integers(-(10**300), 10**300), st.integers(0, 8))
def test_formats_with_a_name_are_those_of_the_language(value: float, digits: int):
    """NaN, infinities and whole numbers included: names for formats change no digit of what is printed."""
    assert setting_text(value) == f"{value:g}"
    assert rounded_text(value, digits) == f"{value:.{digits}g}"
    assert fixed_text(value, digits) == f"{value:.{digits}f}"
    assert fixed_text(value, digits, signed=True) == f"{value:+.{digits}f}"
    assert fixed_percent_text(value, digits) == f"{value:.{digits}%}"
    assert fixed_percent_text(value, digits, signed=True) == f"{value:+.{digits}%}"
    assert exponent_text(value, digits) == f"{value:.{digits}e}"
    assert value_text(value) == rounded_text(value) == f"{value:.3g}"
    assert (
        value_text(value, (value, value), decimals=digits)
        == f"{value:.{digits}f} [{value:.{digits}f}, {value:.{digits}f}]"
    )
    assert (fixed_percent_text(value), exponent_text(value)) == (f"{value:.0%}", f"{value:.1e}")


@given(st.integers())
def test_counts_keep_every_digit(count: int):
    assert count_text(count) == f"{count:,}"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_counts_that_are_floats_are_rounded(count: float):
    assert count_text(count) == f"{count:,.0f}"


def test_shares_with_their_margin():
    assert percent_margin_text(0.062, (0.060, 0.064)) == "6.2 ±0.2%"
    assert percent_margin_text(0.5) == "50%"
    assert percent_margin_text(None, (0.1, 0.2)) == "–"


def test_rates_signed_numbers_and_counts():
    assert rate_text(0.0031) == "0.310%"
    assert signed_text(0.0246) == "+0.0246"
    assert signed_text(-1.2) == "−1.20"
    assert count_text(12345.0) == "12,345"
    assert (rate_text(None), percent_text(None), count_text(math.nan)) == ("–", "–", "–")


def test_activations_have_no_exponent_where_people_can_read_them_without():
    values = [0, 0.001234, 12.345, 1234.5, -0.00000123, 1e-9, None]
    assert [activation_text(value) for value in values] == [
        "0",
        "0.00123",
        "12.3",
        "1,234",
        "-0.00000123",
        "1.0e-09",
        "–",
    ]


def test_exports_keep_five_digits_and_no_infinity():
    assert five_digits(123.456789) == 123.46
    with pytest.raises(ValueError, match="JSON"):
        five_digits(math.inf)
