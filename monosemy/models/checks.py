"""Self-checks when a model is loaded: every site is what its name says, or it is taken out of service.

Place on the path: `sources.load_model` → [checks] → everything that reads or replaces activations. With 16 random
tokens, at every layer:

    causality       later tokens leave earlier logits as they are
    shape           a site's activation is [B, T, site_width]
    replacement     activations at all sites replaced by copies of themselves: logits equal to the last bit
    residual sum    pre + attention = mid and mid + MLP = post; without a mid (parallel blocks, OPT) their sum
                    pre + attention + MLP = post; contributions behind the post-norm where there is one
    writing         the same sums while every contribution is replaced by another one
    heads           attn_heads @ W_O plus the projection's bias = attn_out
    late start      layers skipped: logits equal to the last bit, else layers are never skipped

Tolerance of the sums: 16 units of the dtype's precision, relative to the largest term of the token's vector (models
add in their own dtype, perhaps in another order). A site that fails is refused with the reason; shape, sums and heads
are per site and layer, the replacement is bisected by kind. A late start that raises an error of any kind is none.
Limits: 16 tokens show wrong wiring, not rare numerics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.sites import KINDS

N_SEQUENCES, N_POSITIONS = 2, 8
TOLERANCE_UNITS = 16


def check_model(model: LanguageModel) -> dict[str, str]:
    """Runs all checks; takes failing sites out of service and returns {site: reason}.

    Raises UserError when the model's logits are not finite, not repeatable or not causal, or no site is left.
    """
    tokens = sample_tokens(model)
    plain = model.logits(tokens)
    if not bool(torch.isfinite(plain).all()):
        raise UserError(f"{model.name} gives NaN or infinite logits in {model.dtype}; load it with another dtype")
    if not torch.equal(plain, model.logits(tokens)):
        raise UserError(f"{model.name} gives other logits each time for the same tokens, so nothing can be verified")
    if not is_causal(model, tokens, plain):
        raise UserError(f"{model.name} lets later tokens change earlier predictions: it is no causal decoder")
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


def sample_tokens(model: LanguageModel) -> Tensor:
    """[2, 8] random token ids, the same at every load; none is the padding token."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_SEQUENCES, min(N_POSITIONS, model.max_positions))
    return _as_text(model, torch.randint(model.vocab_size, shape, generator=generator))


def _as_text(model: LanguageModel, tokens: Tensor) -> Tensor:
    """The tokens with the next id in place of the padding token, which would be taken for padding."""
    pad = getattr(model.padding_names, "pad_token_id", None)
    return tokens if pad is None else torch.where(tokens == pad, (tokens + 1) % model.vocab_size, tokens)


def is_causal(model: LanguageModel, tokens: Tensor, plain: Tensor) -> bool:
    """Whether other last tokens leave the logits before them (nearly: kernels may round otherwise) as they were."""
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.vocab_size
    changed = _as_text(model, changed)
    difference = (model.logits(changed)[:, :-1] - plain[:, :-1]).abs().max()
    return bool(difference <= 1e-2 * plain.abs().max())


def wrong_shapes(model: LanguageModel, tokens: Tensor, read: dict[str, Tensor]) -> dict[str, str]:
    """Sites that are never computed, not of shape [B, T, site_width], or overwritten later in the same pass."""
    failed: dict[str, str] = {}
    for name in model.site_names():
        expected = [*tokens.shape, model.site_width(name)]
        if name not in read:
            failed[name] = "its module is never run"
        elif list(read[name].shape) != expected:
            failed[name] = f"its activation has shape {list(read[name].shape)} instead of {expected}"
    later = model.activations(tokens, [name for name in model.site_names() if name not in failed])
    overwritten = [name for name, value in later.items() if not torch.equal(value, read[name])]
    return failed | dict.fromkeys(overwritten, "a later step of the same pass overwrites its activation in place")


def wrong_sums(model: LanguageModel, read: dict[str, Tensor]) -> dict[str, str]:
    """Contributions (and resid_mid) of layers whose residual stream does not add up."""
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
                reason = f"{' + '.join(terms)} = {total} does not hold at this layer (relative error {error:.1e})"
                suspects = {term.removesuffix("_post") for term in terms if "out" in term}
                suspects |= {f"{kind}_post" for kind in suspects}
                if total == "resid_mid" or attention not in here:  # else the first sum vouches for it
                    suspects.add("resid_mid")
                failed |= {f"layers.{layer}.{kind}": reason for kind in sorted(suspects & here.keys())}
    return failed


def wrong_writes(model: LanguageModel, tokens: Tensor) -> dict[str, str]:
    """Contributions (and resid_mid) whose replacement is not what reaches the residual stream."""
    suffix = "_post" if model.post_norms else ""
    kinds = (f".attn_out{suffix}", f".mlp_out{suffix}")
    sites = [name for name in model.site_names() if name.endswith(kinds)]
    written: dict[str, Tensor] = {}

    def other(name: str) -> Callable[[Tensor], Tensor]:
        def edit(value: Tensor) -> Tensor:
            written[name] = value.flip(-1) + 0.5 * value
            return written[name]

        return edit

    with model.editing({name: other(name) for name in sites}, tokens.to(model.device)):
        read = model.all_activations(tokens)
    return wrong_sums(model, {**read, **written})


def wrong_heads(model: LanguageModel, read: dict[str, Tensor]) -> dict[str, str]:
    """attn_heads of layers whose output projection does not make attn_out of them."""
    failed: dict[str, str] = {}
    for layer in range(model.n_layers):
        site, out = f"layers.{layer}.attn_heads", f"layers.{layer}.attn_out"
        if not {site, out} <= read.keys():
            continue
        try:
            matrix = model.output_matrix(layer).double()
        except UserError:
            continue  # quantised weights: the site is there, its heads are refused where they are needed
        heads, total = read[site].double(), read[out].double()
        gap = heads @ matrix - total
        gap = gap - gap[:1, :1]  # a bias is the same at every token
        size = (heads.abs() @ matrix.abs()).amax() + total.abs().amax()
        error = float(gap.abs().amax() / size.clamp_min(1e-30))
        if error > TOLERANCE_UNITS * torch.finfo(read[out].dtype).eps:
            failed[site] = f"attn_heads @ W_O = attn_out does not hold at this layer (relative error {error:.1e})"
    return failed


def sum_error(terms: list[Tensor], total: Tensor) -> float:
    """Largest |Σ terms − total| of any token, relative to the largest entry among that token's terms."""
    left = torch.stack([term.double() for term in terms])
    gap = (left.sum(0) - total.double()).abs().amax(-1)
    size = torch.maximum(left.abs().amax((0, -1)), total.double().abs().amax(-1))
    return float((gap / size.clamp_min(1e-30)).max())


def wrong_replacements(model: LanguageModel, tokens: Tensor, plain: Tensor) -> dict[str, str]:
    """Sites of the kinds whose replacement by itself changes the logits."""
    if _is_unchanged(model, tokens, plain, model.site_names()):
        return {}
    failed: dict[str, str] = {}
    for kind in KINDS:
        sites = [name for name in model.site_names() if name.endswith(f".{kind}")]
        if sites and not _is_unchanged(model, tokens, plain, sites):
            failed |= dict.fromkeys(sites, "replacing its activation by itself changes the logits")
    return failed


def late_start_is_exact(model: LanguageModel, tokens: Tensor, plain: Tensor) -> bool:
    """Whether skipping half of the layers, and all of them, leaves the logits equal to the last bit.

    Between the prefix and the pass that continues it, other tokens run: what layers leave behind must not matter.
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


def _is_unchanged(model: LanguageModel, tokens: Tensor, plain: Tensor, sites: list[str]) -> bool:
    return torch.equal(model.logits(tokens, dict.fromkeys(sites, torch.clone)), plain)


def _refuse(model: LanguageModel, failed: dict[str, str]) -> None:
    for name, reason in failed.items():
        model.refuse(name, f"it fails the self-check on load: {reason}")
