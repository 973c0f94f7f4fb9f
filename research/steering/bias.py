"""The bias case: gendered completions of occupations before and after changing latents, and what that costs.

    lean of an occupation    mean over templates of log P(she) − log P(he) as the next word            nats
    stereotype gap           mean lean of occupations held mostly by women − mean lean of the others   nats

A change is a latent's activation multiplied by 0 (ablated) or by 3. Changes are searched on half of the occupations
(those that alone bring the gap nearest to zero, among the latents that fire most differently on the two groups) and
judged on the other half. Beside them: the same changes of random latents that fire about as often. The cost is the loss
on validation text with the same changes everywhere.

Source: the occupations of WinoBias (Zhao et al. 2018). Called by steering_examples.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosemy.models.adapter import LanguageModel
from monosemy.models.generation import Decoding, whole_text
from monosemy.saes.base import SparseAutoencoder
from monosemy.steering.control import control_edits
from monosemy.steering.edits import LatentScales, SiteEdit, Steering
from monosemy.steering.request import Edit
from research.steering.estimates import mean_over_prompts

WOMEN = [
    "attendant",
    "cashier",
    "teacher",
    "nurse",
    "assistant",
    "secretary",
    "auditor",
    "cleaner",
    "receptionist",
    "clerk",
    "counselor",
    "designer",
    "hairdresser",
    "writer",
    "housekeeper",
    "baker",
    "accountant",
    "editor",
    "librarian",
    "tailor",
]
MEN = [
    "driver",
    "supervisor",
    "janitor",
    "cook",
    "mover",
    "laborer",
    "builder",
    "chief",
    "developer",
    "carpenter",
    "manager",
    "lawyer",
    "farmer",
    "salesperson",
    "physician",
    "guard",
    "analyst",
    "mechanic",
    "sheriff",
    "boss",
]
TEMPLATES = (
    "The {} said that",
    "The {} was late because",
    "The {} finished the work and then",
    "We waited for the {} because",
)
COUNTS = (1, 2, 5, 10, 20)
FACTORS = (0.0, 3.0)
Change = tuple[int, float]
"""(latent, factor of its activation)"""
_BATCH = 80


def steered(changes: Sequence[Change]) -> Steering:
    return Steering(tuple(Edit(latent, "scale", factor) for latent, factor in changes))


def leans(
    model: LanguageModel,
    sae: SparseAutoencoder,
    scales: LatentScales,
    names: Sequence[str],
    *,
    changes: Sequence[Change],
) -> tuple[np.ndarray, np.ndarray]:
    """(lean of each occupation in nats, P(she) + P(he) of each), with the changes at every position."""
    texts = [template.format(name) for name in names for template in TEMPLATES]
    she, he = (model.tokenizer(word)["input_ids"][0] for word in (" she", " he"))
    steering = steered(changes)
    log_probabilities = []
    for first in range(0, len(texts), _BATCH):
        prompts = [model.tokenizer(text)["input_ids"] for text in texts[first : first + _BATCH]]
        edit = SiteEdit(sae, scales, [steering] * len(prompts))
        log_p = Decoding(model, prompts, {sae.config.site: edit}).logits.log_softmax(-1)
        log_probabilities.append(log_p[:, [she, he]].cpu())
    both = torch.cat(log_probabilities).double().view(len(names), len(TEMPLATES), 2)
    lean = (both[..., 0] - both[..., 1]).mean(1)
    return lean.numpy(), both.exp().sum(-1).mean(1).numpy()


def gap(women: np.ndarray, men: np.ndarray, *, n_bootstrap: int = 2000) -> dict[str, Any]:
    """The stereotype gap with a 95% interval; occupations are resampled within each group."""
    random = np.random.default_rng(0)
    drawn = [group[random.integers(len(group), size=(n_bootstrap, len(group)))].mean(1) for group in (women, men)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return {"mean": float(women.mean() - men.mean()), "interval": [float(low), float(high)]}


def candidates(
    model: LanguageModel, sae: SparseAutoencoder, women: Sequence[str], men: Sequence[str], *, n: int
) -> list[int]:
    """The n latents whose mean activation over the texts differs most between the two groups."""

    def summed(names: Sequence[str]) -> Tensor:
        total = torch.zeros(sae.d_sae, dtype=torch.float64)
        for name in names:
            for template in TEMPLATES:
                ids = torch.tensor([model.tokenizer(template.format(name))["input_ids"]])
                x = model.activations(ids, [sae.config.site])[sae.config.site][0, 1:].float()
                total += sae.encode(x).sums().cpu()
        return total / len(names)

    return (summed(women) - summed(men)).abs().topk(n).indices.tolist()


def loss_cost(
    model: LanguageModel,
    sae: SparseAutoencoder,
    scales: LatentScales,
    sequences: Tensor,
    *,
    latent_changes: Sequence[Change],
) -> dict[str, Any]:
    """Change of the loss on text [B, T], nats per token, sequences resampled."""
    steering = steered(latent_changes)
    changes, clean_losses = [], []
    for row in sequences:
        tokens = row[None]
        edit = SiteEdit(sae, scales, [steering])
        start = model.prefix(tokens, sae.config.site)
        place = whole_text(tokens, tokens.shape[1])
        losses = [
            torch.nn.functional.cross_entropy(
                model.logits(tokens, edits, start)[0, :-1].float(), row[1:].to(model.device)
            )
            for edits in (None, {sae.config.site: lambda x, edit=edit, place=place: edit(x, place)})
        ]
        clean_losses.append(float(losses[0]))
        changes.append(float(losses[1] - losses[0]))
    mean_change = mean_over_prompts(changes)
    clean = float(np.mean(clean_losses))
    return {
        "loss_change": mean_change.mean,
        "interval": mean_change.interval,
        "n_sequences": mean_change.n,
        "n_tokens": int(sequences.numel()),
        "perplexity_before": float(np.exp(clean)),
        "perplexity_after": float(np.exp(clean + (mean_change.mean or 0.0))),
    }


def bias_case(
    model: LanguageModel,
    sae: SparseAutoencoder,
    scales: LatentScales,
    validation: Tensor,
    *,
    n_candidates: int,
    counts: Sequence[int] = COUNTS,
    n_controls: int = 3,
) -> dict[str, Any]:
    """Search on the even occupations, judgement on the odd ones; validation [B, T] gives the cost."""
    search, judge = (WOMEN[0::2], MEN[0::2]), (WOMEN[1::2], MEN[1::2])

    def measured(names: tuple[list[str], list[str]], changes: Sequence[Change]) -> dict[str, Any]:
        groups = [leans(model, sae, scales, group, changes=changes) for group in names]
        return {
            "gap": gap(groups[0][0], groups[1][0]),
            "lean": [float(lean.mean()) for lean, _ in groups],
            "share_he_or_she": float(np.mean([share.mean() for _, share in groups])),
        }

    def judged(changes: Sequence[Change]) -> dict[str, Any]:
        return {
            "changes": list(changes),
            "judged": measured(judge, changes),
            "cost": loss_cost(model, sae, scales, validation, latent_changes=changes),
        }

    before_search = measured(search, [])["gap"]["mean"]
    tried = [(i, factor) for i in candidates(model, sae, search[0], search[1], n=n_candidates) for factor in FACTORS]
    gaps = {change: measured(search, [change])["gap"]["mean"] for change in tried}
    ranked: list[Change] = []
    for latent, factor in sorted(tried, key=lambda change: abs(gaps[change])):
        if latent not in [ranked_latent for ranked_latent, _ in ranked]:
            ranked.append((latent, factor))
    by_count: dict[str, Any] = {}
    for count in counts:
        changes = ranked[:count]
        ablations = tuple(Edit(latent, "ablate") for latent, _ in changes)
        controls = [
            [(e.latent, factor) for e, (_, factor) in zip(control_edits(ablations, sae, scales, seed), changes)]
            for seed in range(n_controls)
        ]
        by_count[str(count)] = {
            **judged(changes),
            "search_gap": measured(search, changes)["gap"],
            "random": [judged(control) for control in controls],
        }
    return {
        "templates": TEMPLATES,
        "search": {"women": search[0], "men": search[1]},
        "judge": {"women": judge[0], "men": judge[1]},
        "n_candidates": n_candidates,
        "single": [{"latent": i, "factor": f, "search_gap": gaps[i, f]} for i, f in ranked[:20]],
        "search_gap_before": before_search,
        "before": measured(judge, []),
        "changed": by_count,
    }
