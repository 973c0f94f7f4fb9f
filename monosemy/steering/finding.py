"""Finds the latents that make a model say some words, and names latents: what `monosemy steer --find` shows and uses.

Place on the path: output_score → [found latents] → command. Names come from the features of the SAE, which another room
builds; without them a latent is its number alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.rooms import load
from monosemy.support.numbers import fixed_percent_text, fixed_text
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.steering.edits import LatentScales
    from monosemy.steering.output_score import OutputScores

_NAMES = "monosemy.features.view.names:latent_names"
_LABEL_LENGTH = 48
MOST_PIECES = 2
"""Into how many tokens SmolLM2-135M cuts a word that it knows, at most.

Of the 522 English words of research/interpretability/concepts.py one has more; of 500 words made of random syllables
83% have, of 500 of random letters 95%. The scores of found latents tell the two apart much worse.
"""
N_NEAREST = 3


def names_of(sae_folder: Path, latents: Iterable[int]) -> dict[int, str]:
    """The labels of latents by number, shortened; empty without features."""
    names = load(_NAMES)(sae_folder, latents)
    return {
        latent: text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1].rstrip()}…"
        for latent, text in names.items()
    }


def named(latent: int, names: Mapping[int, str]) -> str:
    """`12 (fires on “July”)`, or the number alone."""
    return f"{latent} ({names[latent]})" if latent in names else str(latent)


def score_words(
    model: LanguageModel, sae: SparseAutoencoder, scales: LatentScales, words: Sequence[str]
) -> tuple[OutputScores, list[int]]:
    """(the output scores of all latents, their rows ranked by how probable a push makes the words, best first).

    Ranked by the words' probability after the push, since the wish is to make the model say them.
    """
    from monosemy.steering.output_score import output_scores
    from monosemy.support import progress

    with progress.stage("push each latent", total=sae.d_sae, unit="latents") as bar:
        scores = output_scores(model, sae, scales, words=[words], advance=bar.advance)
    return scores, scores.words[:, 0].argsort(descending=True).tolist()


def cut_words(tokenizer: Any, words: Sequence[str]) -> dict[str, list[str]]:
    """Those of the words that are cut into more than `MOST_PIECES` tokens however they are written, with the pieces."""
    from monosemy.steering.output_score import written_forms

    cut = {}
    for word in (part for words_together in words for part in words_together.split()):
        ids = min(written_forms(tokenizer, word), key=len)
        if len(ids) > MOST_PIECES:
            cut[word] = [visible(tokenizer.decode([token])).strip() for token in ids]
    return cut


def warn_of_cut_words(model: LanguageModel, sae_folder: Path, words: Sequence[str]) -> None:
    """Warns of words that the model does not know as such: what is found then says the pieces that it reads."""
    from monosemy.steering.candidates import named_latents

    cut = cut_words(model.tokenizer_for("looking for words"), words)
    if not cut:
        return
    read = "; ".join(f"{word!r} as {'|'.join(pieces)}" for word, pieces in cut.items())
    nearest = named_latents(model, sae_folder, words, N_NEAREST)
    names = names_of(sae_folder, nearest)
    labels = f"; the nearest labels: {', '.join(named(latent, names) for latent in nearest)}" if nearest else ""
    print(
        f"warning: the model knows no such word and reads {read}, so what is found may have nothing to do with it"
        f"{labels}; give common words, or search the labels on the pages (monosemy browse)",
        file=sys.stderr,
    )


def print_found(
    model: LanguageModel,
    sae: SparseAutoencoder,
    scores: OutputScores,
    *,
    rows: Sequence[int],
    names: Mapping[int, str],
) -> None:
    """Prints the latents in these rows of the scores, with what their direction raises."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from monosemy.steering.output_score import NEUTRAL_PROMPT, written_directions

    print(
        f"after {NEUTRAL_PROMPT!r} these words have probability {fixed_percent_text(float(scores.words_before), 2)} "
        "unsteered"
    )
    has_scores = scores.tokens.shape[1] > 0
    headings = ["latent", "words", *(("output score", "without push", "its direction raises") if has_scores else ())]
    table = Table(*headings, *(("label",) if names else ()))
    for row in rows:
        latent = int(scores.latents[row])
        cells: list[str | Text] = [str(latent), fixed_percent_text(float(scores.words[row, 0]), 2)]
        if has_scores:
            raised = " ".join(
                repr(visible(model.tokenizer.decode([token]))) for token in scores.tokens[row, :6].tolist()
            )
            cells += [
                fixed_text(float(scores.score[row]), 3),
                fixed_text(float(scores.score_before[row]), 3),
                Text(raised),
            ]
        if names:
            cells.append(Text(names.get(latent, "")))
        table.add_row(*cells)
    Console().print(table)
    if not has_scores:
        reason = written_directions(model, sae.config.site, sae.W_dec[:1])
        print(f"no output scores: {reason}; the words' probabilities are those after a push at the site itself")
