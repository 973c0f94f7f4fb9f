"""Errors meant for users: one line with the value, the choices and near matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosemy.errors import UserError, near_matches, unknown

SITES = ["layers.12.resid_post", "layers.12.resid_mid", "layers.12.mlp_out", "layers.3.attn_out"]


def test_unknown_names_value_near_matches_choices_and_fix():
    message = str(unknown("site", "layers.12.resid_pots", SITES, fix="see `monosemy info`"))
    assert message.startswith("unknown site 'layers.12.resid_pots'; did you mean 'layers.12.resid_post'")
    assert all(site in message for site in SITES)
    assert message.endswith("; see `monosemy info`")


def test_no_near_match_no_guess():
    assert "did you mean" not in str(unknown("recipe", "zzz", SITES))


def test_long_lists_are_cut_and_counted():
    message = str(unknown("site", "x", [f"choice_{i}" for i in range(100)]))
    assert "choice_23" in message
    assert "choice_24" not in message
    assert message.endswith("… (100 in all)")


def test_case_does_not_hide_a_match():
    assert near_matches("TOPK", ["topk", "relu"]) == ["topk"]
    assert near_matches("batchtopk", ["relu", "topk", "batch_topk"])[0] == "batch_topk"


@pytest.mark.parametrize("typed", ["topk\n", "a\nb", "\x1b[31mred"])
def test_message_is_one_printable_line(typed):
    message = str(unknown("architecture", typed, ["relu", "topk"]))
    assert message.isprintable()


@given(st.text(), st.lists(st.text(min_size=1, alphabet="abc_.1"), max_size=8))
def test_near_matches_are_choices(value, choices):
    assert set(near_matches(value, choices)) <= set(choices)


def test_is_a_value_error():
    assert issubclass(UserError, ValueError)
