"""Finds the latents that make a model say some words, and names latents: what `monosemy steer --find` shows and uses.

Place on the path: output_score → [found latents] → command. Names come from the features of the SAE, which another room
builds; without them a latent is its number alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
