"""Lists in words: every site that goes in comes out, in few words."""

from __future__ import annotations

import pytest

from monosemy.support.wording import and_text, natural_order, sites_text

LAYERS = range(30)


@pytest.mark.parametrize(
    ("sites", "text"),
    [
        ([], "none"),
        (["layers.12.resid_post"], "layers.12.resid_post"),
        (["layers.4.mlp_in", "layers.4.mlp_out"], "layers.4.mlp_in and layers.4.mlp_out"),
        (["layers.4.mlp_in"] * 5, "layers.4.mlp_in"),
        (
            [f"layers.{layer}.{kind}" for layer in LAYERS for kind in ("mlp_in", "mlp_out")],
            "mlp_in and mlp_out of layers 0–29",
        ),
        ([f"layers.{layer}.resid_post" for layer in (12, 4, 8, 16)], "resid_post of layers 4, 8, 12 and 16"),
        ([f"layers.{layer}.resid_post" for layer in (0, 1, 2, 3, 7, 8, 20)], "resid_post of layers 0–3, 7, 8 and 20"),
        (
            [f"layers.3.{kind}" for kind in ("attn_out", "resid_mid", "mlp_out", "resid_post")],
            "attn_out, resid_mid, mlp_out and resid_post of layer 3",
        ),
        (
            [f"layers.{layer}.resid_post" for layer in LAYERS] + ["layers.9.mlp_out", "rows"],
            "resid_post of layers 0–29, mlp_out of layer 9, rows",
        ),
    ],
)
def test_sites_in_words(sites, text):
    assert sites_text(sites) == text


def test_items_are_joined_by_and():
    assert [and_text(list("abc")[:n]) for n in range(4)] == ["none", "a", "a and b", "a, b and c"]


def test_numbers_in_names_count_as_numbers():
    assert sorted(["layers.10.mlp_out", "layers.2.mlp_out"], key=natural_order)[0] == "layers.2.mlp_out"
    assert sorted(["topk-l0_32-s0", "topk-l0_4-s0"], key=natural_order)[0] == "topk-l0_4-s0"
