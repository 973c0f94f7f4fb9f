"""Checks every site when a model is loaded, and removes those that are not what their name says.

Place on the path: `sources.load_model` → [checks] → everything that reads or replaces activations. With 16 random
tokens, at every layer:

    causality       later tokens do not change earlier logits
    shape           a site's activation is [B, T, site_width]
    replacement     with activations at all sites replaced by copies, the logits are equal to the last bit
    residual sum    pre + attention = mid and mid + MLP = post; without a mid (parallel blocks, OPT)
                    pre + attention + MLP = post; with contributions after the post-norm where there is one
    writing         the same sums hold while every contribution is replaced by another one
    heads           attn_heads @ W_O plus the projection's bias = attn_out
    late start      with layers skipped, the logits are equal to the last bit; otherwise layers are never skipped

The sums may be off by 16 units of the dtype's precision, relative to the largest term of the token's vector, since
models add in their own dtype and perhaps in another order. A site that fails is refused with the reason. Shape, sums
and heads are checked by site and layer, replacement by kind of site. A late start that raises an error has failed.
Limits: 16 tokens show wrong wiring, not rare numerical faults.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.padding import Edit
from monosemy.models.sites import KINDS
from monosemy.shapes import Logits, SiteActivations, TokenIds
from monosemy.support.numbers import exponent_text

N_SEQUENCES, N_POSITIONS = 2, 8
TOLERANCE_UNITS = 16


def check_model(model: LanguageModel) -> dict[str, str]:
    """Runs all checks, removes the sites that fail and returns {site: reason}.

    Raises UserError when the model's logits are not finite, not repeatable or not causal, and when no site is left.
    """
    tokens = sample_tokens(model)
    plain = model.logits(tokens)
    if not bool(torch.isfinite(plain).all()):
        raise UserError(f"{model.name} gives NaN or infinite logits in {model.dtype}; load it with another dtype")
    if not torch.equal(plain, model.logits(tokens)):
        raise UserError(f"{model.name} gives other logits each time for the same tokens, so nothing can be verified")
    if not is_causal(model, tokens, plain):
        raise UserError(f"{model.name} lets later tokens change earlier predictions: it is no causal decoder")
    # Each check leaves out the sites that an earlier one found wrong, so that a fault is blamed only once.
    read = model.all_activations(tokens)
    failed = wrong_shapes(model, tokens, read)
    failed |= wrong_heads(model, {name: value for name, value in read.items() if name not in failed})
    failed |= wrong_sums(model, {name: value for name, value in read.items() if name not in failed})
    _refuse(model, failed)
    written = wrong_writes(model, tokens)
    _refuse(model, written)
    failed |= written
    failed |= wrong_replacements(model, tokens, plain)
    _refuse(model, failed)
    if not model.site_names():
        raise UserError(f"no site of {model.name} passes the self-checks: {next(iter(failed.values()), 'none found')}")
    model.can_start_late = model.can_start_late and late_start_is_exact(model, tokens, plain)
    return failed


def sample_tokens(model: LanguageModel) -> TokenIds:
    """Random token ids [2, 8], the same at every load; none is the padding token."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_SEQUENCES, min(N_POSITIONS, model.max_positions))
    return _as_text(model, torch.randint(model.vocab_size, shape, generator=generator))


def _as_text(model: LanguageModel, tokens: TokenIds) -> TokenIds:
    """The tokens, with the padding token replaced by the next id, so that nothing is taken for padding."""
    pad = getattr(model.padding_names, "pad_token_id", None)
    return tokens if pad is None else torch.where(tokens == pad, (tokens + 1) % model.vocab_size, tokens)


def is_causal(model: LanguageModel, tokens: TokenIds, plain: Logits) -> bool:
    """Whether changing the last token leaves earlier logits unchanged, up to the rounding of kernels."""
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.vocab_size
    changed = _as_text(model, changed)
    difference = (model.logits(changed)[:, :-1] - plain[:, :-1]).abs().max()
    return bool(difference <= 1e-2 * plain.abs().max())


def wrong_shapes(model: LanguageModel, tokens: TokenIds, read: dict[str, SiteActivations]) -> dict[str, str]:
    """Sites that are never computed, not of shape [B, T, site_width], or overwritten later in the same pass."""
    failed: dict[str, str] = {}
    for name in model.site_names():
        expected = [*tokens.shape, model.site_width(name)]
        if name not in read:
            failed[name] = "its module is never run"
        elif list(read[name].shape) != expected:
            failed[name] = f"its activation has shape {list(read[name].shape)} instead of {expected}"
    # `read` holds copies, `later` the model's own tensors: a difference means that a later step wrote into one.
    later = model.activations(tokens, [name for name in model.site_names() if name not in failed])
    overwritten = [name for name, value in later.items() if not torch.equal(value, read[name])]
    return failed | dict.fromkeys(overwritten, "a later step of the same pass overwrites its activation in place")


def wrong_sums(model: LanguageModel, read: dict[str, SiteActivations]) -> dict[str, str]:
    """The contributions and resid_mid of layers whose residual stream does not add up, with the reason."""
    failed: dict[str, str] = {}
    suffix = "_post" if model.post_norms else ""
    for layer in range(model.n_layers):
        here = {kind: read[name] for kind in KINDS if (name := f"layers.{layer}.{kind}") in read}
        attention, mlp = f"attn_out{suffix}", f"mlp_out{suffix}"
        sums: list[tuple[tuple[str, ...], str]]
        sums = [(("resid_pre", attention), "resid_mid"), (("resid_mid", mlp), "resid_post")]
        if "resid_mid" not in here:
            sums = [(("resid_pre", attention, mlp), "resid_post")]
        for terms, total in sums:
            if not {*terms, total} <= here.keys():
                continue
            error = sum_error([here[term] for term in terms], here[total])
            if error > TOLERANCE_UNITS * torch.finfo(here[total].dtype).eps:
                reason = (
                    f"{' + '.join(terms)} = {total} does not hold at this layer (relative error {exponent_text(error)})"
                )
                suspects = {term.removesuffix("_post") for term in terms if "out" in term}
                suspects |= {f"{kind}_post" for kind in suspects}
                # resid_mid is suspect only if the first sum has not confirmed it.
                if total == "resid_mid" or attention not in here:
                    suspects.add("resid_mid")
                failed |= {f"layers.{layer}.{kind}": reason for kind in sorted(suspects & here.keys())}
    return failed


def wrong_writes(model: LanguageModel, tokens: TokenIds) -> dict[str, str]:
    """The contributions and resid_mid of layers where a replaced contribution does not reach the residual stream."""
    suffix = "_post" if model.post_norms else ""
    kinds = (f".attn_out{suffix}", f".mlp_out{suffix}")
    sites = [name for name in model.site_names() if name.endswith(kinds)]
    written: dict[str, SiteActivations] = {}

    def other(name: str) -> Edit:
        def edit(value: SiteActivations) -> SiteActivations:
            # Any value that differs from the original and is of about the same size.
            written[name] = value.flip(-1) + 0.5 * value
            return written[name]

        return edit

    with model.editing({name: other(name) for name in sites}, tokens.to(model.device)):
        read = model.all_activations(tokens)
    return wrong_sums(model, {**read, **written})


def wrong_heads(model: LanguageModel, read: dict[str, SiteActivations]) -> dict[str, str]:
    """The attn_heads of layers where W_O does not turn them into attn_out, with the reason."""
    failed: dict[str, str] = {}
    for layer in range(model.n_layers):
        site, out = f"layers.{layer}.attn_heads", f"layers.{layer}.attn_out"
        if not {site, out} <= read.keys():
            continue
        try:
            matrix = model.output_matrix(layer).double()
        except UserError:
            continue  # quantised weights: the site stays, and what needs W_O by head refuses later
        heads, total = read[site].double(), read[out].double()
        gap = heads @ matrix - total
        # A bias is the same at every token, so the first token's gap is taken off all of them.
        gap = gap - gap[:1, :1]
        size = (heads.abs() @ matrix.abs()).amax() + total.abs().amax()
        error = float(gap.abs().amax() / size.clamp_min(1e-30))
        if error > TOLERANCE_UNITS * torch.finfo(read[out].dtype).eps:
            failed[site] = (
                f"attn_heads @ W_O = attn_out does not hold at this layer (relative error {exponent_text(error)})"
            )
    return failed


def sum_error(terms: list[Float[Tensor, "*rows d_model"]], total: Float[Tensor, "*rows d_model"]) -> float:
    """The largest |Σ terms − total| of any token, relative to the largest entry among that token's terms."""
    left = torch.stack([term.double() for term in terms])
    gap = (left.sum(0) - total.double()).abs().amax(-1)
    size = torch.maximum(left.abs().amax((0, -1)), total.double().abs().amax(-1))
    return float((gap / size.clamp_min(1e-30)).max())


def wrong_replacements(model: LanguageModel, tokens: TokenIds, plain: Logits) -> dict[str, str]:
    """All sites of each kind for which replacing activations by copies changes the logits."""
    # All sites at once first: the usual case needs a single pass.
    if _is_unchanged(model, tokens, plain, model.site_names()):
        return {}
    failed: dict[str, str] = {}
    for kind in KINDS:
        sites = [name for name in model.site_names() if name.endswith(f".{kind}")]
        if sites and not _is_unchanged(model, tokens, plain, sites):
            failed |= dict.fromkeys(sites, "replacing its activation by itself changes the logits")
    return failed


def late_start_is_exact(model: LanguageModel, tokens: TokenIds, plain: Logits) -> bool:
    """Whether skipping half of the layers, and skipping all, leaves the logits equal to the last bit.

    Other tokens run between the prefix and the pass that continues it, since state left in a layer must not matter.
    """
    for layer in sorted({model.n_layers // 2, model.n_layers - 1}):
        site = f"layers.{layer}.resid_post"
        if site not in model.site_names():
            return False
        start = model.prefix(tokens, site)
        model.logits(tokens.flip(1))
        try:
            if not torch.equal(model.logits(tokens, start=start), plain):
                return False
        except Exception:  # of any kind: later layers need more of the skipped ones than the residual stream
            return False
    return True


def _is_unchanged(model: LanguageModel, tokens: TokenIds, plain: Logits, sites: list[str]) -> bool:
    return torch.equal(model.logits(tokens, dict.fromkeys(sites, torch.clone)), plain)


def _refuse(model: LanguageModel, failed: dict[str, str]) -> None:
    for name, reason in failed.items():
        model.refuse(name, f"it fails the self-check on load: {reason}")
