"""Names of sites: ours, TransformerLens', and what is refused."""

from __future__ import annotations

import pytest

from monosemy.errors import UserError
from monosemy.models.sites import KINDS, Site, parse_site


@pytest.mark.parametrize("kind", KINDS)
def test_our_names_stand_for_themselves(kind):
    assert parse_site(f"layers.3.{kind}", 4, post_norms=True) == Site(3, kind)
    assert str(Site(3, kind)) == f"layers.3.{kind}"


@pytest.mark.parametrize(
    ("alias", "kind", "kind_with_post_norms"),
    [
        ("hook_resid_pre", "resid_pre", "resid_pre"),
        ("hook_resid_mid", "resid_mid", "resid_mid"),
        ("hook_resid_post", "resid_post", "resid_post"),
        ("attn.hook_z", "attn_heads", "attn_heads"),
        ("hook_attn_out", "attn_out", "attn_out_post"),
        ("hook_mlp_out", "mlp_out", "mlp_out_post"),
        ("attn.hook_out", "attn_out", "attn_out"),
        ("mlp.hook_out", "mlp_out", "mlp_out"),
        ("mlp.hook_in", "mlp_in", "mlp_in"),
    ],
)
def test_transformer_lens_names(alias, kind, kind_with_post_norms):
    assert parse_site(f"blocks.12.{alias}", 30, post_norms=False) == Site(12, kind)
    assert parse_site(f"blocks.12.{alias}", 30, post_norms=True) == Site(12, kind_with_post_norms)


def test_contribution_behind_a_norm_that_is_not_there():
    assert parse_site("layers.0.mlp_out_post", 1, post_norms=False) == Site(0, "mlp_out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers.12.resid_pots", r"unknown site 'layers.12.resid_pots'; did you mean 'layers.12.resid_post'"),
        ("layer.12.resid_post", r"unknown site 'layer.12.resid_post'; did you mean 'layers.15.resid_post'"),
        ("resid_post", r"unknown site 'resid_post'.*layers.15.resid_post.*n is the layer"),
        ("layers.12.resid_post ", r"unknown site"),
        ("layers.30.resid_post", r"layer 30 of site 'layers.30.resid_post' is out of range: .* layers 0 to 29"),
        ("layers.-1.resid_post", r"layer -1 of site .* is out of range: this model has layers 0 to 29"),
        ("blocks.30.hook_resid_post", r"layer 30 .* out of range"),
        ("blocks.2.hook_mlp_in", r"residual stream before the norm.*layers.2.resid_mid"),
        ("blocks.2.ln2.hook_normalized", r"before the norm's gain.*layers.2.mlp_in"),
        ("blocks.2.mlp.hook_post", r"inside the MLP"),
        ("blocks.2.hook_resid_pots", r"unknown site .*did you mean 'blocks.2.hook_resid_post'"),
    ],
)
def test_refusals_are_one_line_with_the_choices(name, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_site(name, 30, post_norms=False)
    assert "\n" not in str(caught.value)
    assert "_out_post" not in str(caught.value)


def test_aliases_resolve_on_models(tiny_model):
    plain, gemma = tiny_model("gpt2"), tiny_model("gemma2")
    assert plain.resolve("blocks.1.hook_mlp_out") == "layers.1.mlp_out"
    assert gemma.resolve("blocks.1.hook_mlp_out") == "layers.1.mlp_out_post"
    assert gemma.resolve("blocks.1.mlp.hook_out") == "layers.1.mlp_out"
    assert gemma.site_width("blocks.1.attn.hook_z") == 64
    assert gemma.site_width("blocks.1.hook_resid_pre") == 32
