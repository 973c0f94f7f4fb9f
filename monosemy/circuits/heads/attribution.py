"""Effects of all heads at once from gradients: HISP, attribution patching (EAP on heads), EAP-IG and EAP after a step.

Place on the path: `Contrast` → [one backward pass, or a few] → estimates of what exhaustive patching would find.

    EAP       Σ_{t,d} (v − v') · ∂m/∂v                     first order in the replacement, at the clean prompt
    EAP-IG    the same with ∂m/∂v averaged over inputs e' + k/K (e − e'), k = 1 … K (e, e' embeddings)
    EAP-step  the same with ∂m/∂v where all heads are at v − s (v − v')
    HISP      mean over prompts of |Σ (v − v') · ∂m/∂v|, divided by each layer's L2 norm

v and v' are a head's values on the prompt and as replaced. Signs are those of patching: score ≈ m(clean) − m(head
replaced). (The sources estimate m(replaced) − m(clean); HISP has no sign.) The values get a term c · (v − v') with a
coefficient c = 0 per head, whose derivative is the score itself.

Source: Nanda 2023 (attribution patching), Syed et al. 2023 (2310.10348), Hanna et al. 2024 (2403.17806), and Michel et
al. 2019 (1905.10650) as in Conmy et al. 2023 (2304.14997); EAP-step is ours. Limits: the estimates are of first order.
At the prompt itself gradients see nothing of a head where attention is saturated or where others stand in for it; a
step, which takes all heads a part of the way, leaves that point, but where it ends is no prompt.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Batch, Contrast
from monosemy.circuits.heads.model_heads import Heads
from monosemy.circuits.heads.scores import HeadScores, from_examples
from monosemy.circuits.heads.task import HeadEdit
from monosemy.support import progress

N_STEPS = 5
"""K, the number of points on the path of EAP-IG."""
STEP = 0.25
"""s, the share of the way to the replacement after which EAP-step takes its gradient."""


def attribution_patching(contrast: Contrast, ablation: Ablation = "resample") -> HeadScores:
    """EAP on heads, from one forward and one backward pass."""
    began = time.perf_counter()
    return _estimates(from_examples("EAP", contrast, _attribute(contrast, ablation, n_steps=1), began, n_passes=3))


def integrated_attribution(contrast: Contrast, ablation: Ablation = "resample", n_steps: int = N_STEPS) -> HeadScores:
    """EAP-IG on heads, from `n_steps` forward and backward passes along the straight path between the embeddings."""
    began = time.perf_counter()
    per_example = _attribute(contrast, ablation, n_steps)
    return _estimates(from_examples("EAP-IG", contrast, per_example, began, n_passes=3 * n_steps))


def step_attribution(contrast: Contrast, ablation: Ablation = "resample", step: float = STEP) -> HeadScores:
    """EAP on heads with the gradient where every head has gone a `step` towards its replacement; 0 is EAP itself."""
    began = time.perf_counter()
    effects = []
    with progress.stage("attribute after a step", total=contrast.n_examples, unit="passes") as bar:
        for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
            effects.append(_derivatives(contrast.heads, batch, batch.clean.values - replacement, step=step))
            bar.advance(len(batch.examples))
    return _estimates(from_examples("EAP-step", contrast, torch.cat(effects), began, n_passes=3))


def _estimates(scores: HeadScores) -> HeadScores:
    """The scores, marked as estimates for every head."""
    return replace(scores, checked=frozenset())


def head_importance(contrast: Contrast, ablation: Ablation = "resample") -> HeadScores:
    """HISP: unsigned scores, divided by each layer's norm, since raw sizes compare only within a layer."""
    began = time.perf_counter()
    size = _attribute(contrast, ablation, n_steps=1).abs().mean(0).cpu().double()
    by_layer = size.view(contrast.heads.n_layers, -1)
    scores = (by_layer / by_layer.norm(dim=1, keepdim=True).clamp_min(1e-30)).flatten()
    return HeadScores("HISP", scores, False, time.perf_counter() - began, reading_seconds=contrast.seconds, n_passes=3)


def _attribute(contrast: Contrast, ablation: Ablation, n_steps: int) -> Float[Tensor, "E n"]:
    """The estimated effect of every head on every prompt, averaged over the points of the path."""
    effects = []
    heads = contrast.heads
    with progress.stage("attribute", total=contrast.n_examples * n_steps, unit="passes") as bar:
        for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
            difference = batch.clean.values - replacement
            total = torch.zeros(len(batch.examples), difference.shape[2], device=difference.device)
            for step in range(1, n_steps + 1):
                # The last point is the prompt itself, which needs no replaced embeddings.
                inputs = None if step == n_steps else _between(heads, batch, step / n_steps)
                total += _derivatives(heads, batch, difference, inputs)
                bar.advance(len(batch.examples))
            effects.append(total / n_steps)
    return torch.cat(effects)


def _between(heads: Heads, batch: Batch, share: float) -> Tensor:
    """The embeddings a `share` of the way from the counterpart to the prompt."""
    clean, corrupted = heads.inputs(batch.clean.tokens), heads.inputs(batch.corrupted.tokens)
    return corrupted + share * (clean - corrupted)


def _derivatives(
    heads: Heads, batch: Batch, difference: Tensor, inputs: Tensor | None = None, *, step: float = 0.0
) -> Float[Tensor, "B n"]:
    """∂m/∂c at c = −step for values v + c · difference."""
    # One coefficient per prompt and head, so that one gradient gives the whole table of scores.
    c = torch.full((difference.shape[0], difference.shape[2]), -step, device=difference.device, requires_grad=True)
    logits = heads.logits(batch.clean.tokens, _push_edit(c, difference, heads.n_heads), inputs=inputs, gradients=True)
    with torch.enable_grad():
        total = batch.measure(logits).sum()  # prompts do not interact: one backward pass serves them all
    (gradient,) = torch.autograd.grad(total, c)
    return gradient


def _push_edit(c: Tensor, difference: Tensor, n_heads: int) -> HeadEdit:
    def edit(layer: int, values: Tensor) -> Tensor:
        block = slice(layer * n_heads, (layer + 1) * n_heads)
        return values + (c[:, None, block, None] * difference[:, :, block]).to(values.dtype)

    return edit
