"""Which latents are worth trying for wished-for words: three sources, none of which finds them all.

Place on the path: words → [candidates] → a short answer with each (`trial`) → the latent that `monosemy steer --find …
--prompt …` steers by.

    push     the words' probability after one push of the latent before the next token (`output_score`)
    fires    Σ_w max_t a_i(w, t) / max a_i · ln(n_max / n_i): what fires on the words themselves. a_i(w, t) at word w's
             tokens after a neutral text; n_i on how many tokens latent i fired, so that one that fires everywhere
             counts little
    meaning  the latents whose label and peaks lie near the words in the model's token embedding, where features were
             built (`features.view.meaning`)

They are taken in turn. A push at one token favours latents that make *some* word of that kind follow ("The", "July
is"), and misses most of those about a topic; the other two name topics, and miss latents that only make words likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from monosemy.models.prompts import text_ids
from monosemy.rooms import load
from monosemy.steering.output_score import NEUTRAL_PROMPT

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.steering.edits import LatentScales

_NEAREST = "monosemy.features.view.meaning:nearest_latents"


def in_turn(sources: Sequence[Sequence[int]], n: int) -> list[int]:
    """The first `n` different latents when the sources give one after the other, each its best first."""
    ordered = (latent for turn in zip_longest(*sources) for latent in turn if latent is not None)
    return list(dict.fromkeys(ordered))[:n]


def named_latents(model: LanguageModel, sae_folder: Path, words: Sequence[str], n: int) -> list[int]:
    """At most `n` latents whose label and peaks lie near the words, nearest first; none without features."""
    tokenizer = model.tokenizer_for("looking for words")
    embedding = model.module.get_input_embeddings().weight  # type: ignore[operator]
    nearest = load(_NEAREST)(sae_folder, embedding, tokenizer, words=words)
    return list(nearest)[:n]


@torch.no_grad()
def firing_latents(
    model: LanguageModel, sae: SparseAutoencoder, scales: LatentScales, words: Sequence[str], *, n: int
) -> list[int]:
    """At most `n` latents that fire on the words, the most telling first; none where maxima are not known."""
    if scales.maximum is None or scales.n_fired is None:
        return []
    tokenizer = model.tokenizer_for("looking for words")
    # A latent that never fired on ordinary text has no maximum to compare with.
    fired = (scales.n_fired > 0) & (scales.maximum > 0)
    rarity = (scales.n_fired.max() / scales.n_fired.double().clamp_min(1)).log()
    telling = torch.zeros(sae.d_sae, dtype=torch.float64)
    n_before = len(text_ids(tokenizer, NEUTRAL_PROMPT))
    for word in words:
        tokens = torch.tensor([text_ids(tokenizer, f"{NEUTRAL_PROMPT} {word}")], device=model.device)
        (x_BTD,) = model.activations(tokens, [sae.config.site]).values()
        # A tokenizer that joins the comma to the word leaves fewer tokens: the last one is always the word's.
        rows = x_BTD[0, min(n_before, tokens.shape[1] - 1) :]
        code = sae.encode(rows.float().to(sae.W_dec.device)).to_dense().cpu()
        telling[fired] += code.amax(0)[fired] / scales.maximum[fired]
    telling *= rarity
    return [latent for latent in telling.argsort(descending=True)[:n].tolist() if telling[latent] > 0]
