"""The names of sites, where activations are read and replaced, and TransformerLens' names for them.

Place on the path: tokens → [a site of the model] → activations. This is about names only: it needs no model and imports
nothing heavy. `adapter.py` finds the module of each site, and whether the site is its input or its output.

A site is `layers.<n>.<kind>`. Layer n computes

    resid_pre → attention (attn_heads @ W_O = attn_out) → resid_mid → mlp_in → MLP → mlp_out → resid_post

    sequential:  resid_mid = resid_pre + attn_out,  resid_post = resid_mid + mlp_out
    parallel:    resid_post = resid_pre + attn_out + mlp_out   (no resid_mid)
    post-norm:   the contribution is the output of the norm after the sublayer: attn_out_post, mlp_out_post

Source: the hook points of interp-engine (`resolve_point`) and the hook names of TransformerLens. Limits:
TransformerLens may fold layer norms and centre weights before it runs a model; its names stand for the same place in
the plain model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from monosemy.errors import UserError, unknown
from monosemy.support.hook_names import LENS_KINDS


@dataclass(frozen=True)
class Kind:
    """One kind of site: its name, interp-engine's name for it, and a description of what it holds."""

    name: str
    point: str
    meaning: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("resid_pre", "resid_pre", "residual stream entering the layer"),
        Kind("attn_heads", "z", "concatenated head outputs before W_O"),
        Kind("attn_out", "attn_out", "output of the attention module"),
        Kind("attn_out_post", "attn_out_post", "attention's contribution behind its post-norm (post-norm families)"),
        Kind("resid_mid", "resid_mid", "residual stream between attention and MLP"),
        Kind("mlp_in", "mlp_in", "what the MLP module receives"),
        Kind("mlp_out", "mlp_out", "output of the MLP module"),
        Kind("mlp_out_post", "mlp_out_post", "the MLP's contribution behind its post-norm (post-norm families)"),
        Kind("resid_post", "resid_post", "residual stream leaving the layer"),
    )
}
"""Every kind of site, in the order in which a layer computes them."""

POST_NORM_KINDS = {"attn_out_post": "attn_out", "mlp_out_post": "mlp_out"}
"""Kinds that exist only where a norm follows the sublayer, each with the kind that it is the same as elsewhere."""

_LENS_REFUSED = {
    "hook_mlp_in": "it is the residual stream before the norm, not what the MLP receives: "
    "take layers.{n}.resid_mid for the former, layers.{n}.mlp_in for the latter",
    "ln2.hook_normalized": "it is read before the norm's gain is applied, so no site is the same tensor: "
    "layers.{n}.mlp_in is what the MLP receives, gain included",
    "ln1.hook_normalized": "it is read before the norm's gain is applied, so no site is the same tensor",
    "mlp.hook_post": "it lies inside the MLP: the sites are the MLP's ends, layers.{n}.mlp_in and layers.{n}.mlp_out",
    "mlp.hook_pre": "it lies inside the MLP: the sites are the MLP's ends, layers.{n}.mlp_in and layers.{n}.mlp_out",
}

_OURS = re.compile(r"layers\.(-?\d+)\.(\w+)")
_LENS = re.compile(r"blocks\.(-?\d+)\.([\w.]+)")


@dataclass(frozen=True)
class Site:
    """A site: a layer and a kind. `str(site)` is its canonical name."""

    layer: int
    kind: str

    def __str__(self) -> str:
        return f"layers.{self.layer}.{self.kind}"


def parse_site(name: str, n_layers: int, *, post_norms: bool) -> Site:
    """The site with this canonical or TransformerLens name, in a model of `n_layers` layers.

    `post_norms` says whether a norm follows the model's sublayers; if not, attn_out_post is attn_out.
    Raises UserError for an unknown name (with similar ones), a TransformerLens name without an equivalent site (with
    the reason), and a layer out of range.
    """
    if match := _OURS.fullmatch(name):
        layer, kind = int(match[1]), match[2]
        if kind not in KINDS:
            kinds = [k for k in KINDS if post_norms or k not in POST_NORM_KINDS]
            raise unknown("site", name, [f"layers.{layer}.{kind}" for kind in kinds])
    elif match := _LENS.fullmatch(name):
        layer, hook = int(match[1]), match[2]
        if reason := _LENS_REFUSED.get(hook):
            raise UserError(f"site {name!r} has no equal here: {reason.format(n=layer)}")
        if hook not in LENS_KINDS:
            raise unknown("site", name, [f"blocks.{layer}.{lens_kind}" for lens_kind in LENS_KINDS])
        kind = LENS_KINDS[hook]
    else:
        kinds = [k for k in KINDS if post_norms or k not in POST_NORM_KINDS]
        middle = n_layers // 2
        raise unknown("site", name, [f"layers.{middle}.{kind}" for kind in kinds], fix="n is the layer, from 0")
    if not 0 <= layer < n_layers:
        raise UserError(f"layer {layer} of site {name!r} is out of range: this model has layers 0 to {n_layers - 1}")
    # Without post-norms, a name that means the tensor after one means the sublayer's output.
    if not post_norms:
        kind = POST_NORM_KINDS.get(kind, kind)
    return Site(layer, kind)
