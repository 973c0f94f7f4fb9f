"""The report's section on latents: a handful of clear ones, each with its strongest contexts.

Place on the path: feature databases of a run → highlights → HTML. A run without features has no such section; the
report is written again when features have been built.
"""

from __future__ import annotations

from pathlib import Path

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.errors import UserError
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import Excerpt, excerpt, level
from monosemy.features.view.highlights import CLEAR_SCORE, highlights
from monosemy.report.markup import Html, join
from monosemy.report.sections import Section
from monosemy.report.theme import label as architecture_label
from monosemy.support.numbers import count_text, fixed_text, percent_text, setting_text

N_EXAMPLES, LEVELS = 2, 5
BEFORE, AFTER = 16, 8


def read_section(run_folder: Path) -> Section | None:
    """The section; None for a run of which no SAE has features that can be read."""
    try:
        saes = Catalogue(run_folder).saes()
    except UserError:  # no SAE yet: the rest of the report says so
        return None
    trained = [sae for sae in saes if sae.database is not None and not sae.saved.control]
    if not trained or trained[0].database is None:
        return None
    sae, database = trained[0], trained[0].database
    best = highlights(database)
    cards = join((_card(sae, database, latent) for latent in best.latents), "\n")
    body = Html(
        '<section id="latents"><h2>What its latents respond to</h2><p>{}</p><div class="cards">{}</div></section>'
    )
    return Section("latents", "What its latents respond to", body.format(_lead(sae, best.n_clear), cards), {})


def _lead(sae: Dictionary, n_clear: int) -> str:
    level_text = f", L0 {setting_text(sae.config['l0'])}" if sae.config.get("l0") else ""
    name = f"{architecture_label(sae.saved.kind)}{level_text}"
    if not n_clear:
        return f"No latent of {name} is clear by its label's score, which more text may change; the best are these."
    return (
        f"{count_text(n_clear)} of {count_text(sae.d_sae)} latents of {name} are clear: their label tells where they "
        f"fire, on text that it was not made from, with an AUROC of at least {setting_text(CLEAR_SCORE)} even at the "
        "lower end of its interval, and they are neither very rare nor common. Some of them, unlike each other:"
    )


def _card(sae: Dictionary, database: FeatureDatabase, latent: int) -> Html:
    columns = database.columns
    facts = [f"latent {latent}", f"fires on {percent_text(float(columns['firing_rate'][latent]))}"]
    if "label_auroc" in columns and columns["label_auroc"][latent] == columns["label_auroc"][latent]:
        score, low, high = (
            float(columns[name][latent]) for name in ("label_auroc", "label_auroc_low", "label_auroc_high")
        )
        facts.append(f"label score {fixed_text(score, 2)} [{fixed_text(low, 2)}, {fixed_text(high, 2)}]")
    examples = database.examples(latent, ["top"])[:N_EXAMPLES]
    maximum = max((example.value for example in examples), default=0.0)
    contexts = join(_context(excerpt(database, example, BEFORE, AFTER), maximum) for example in examples)
    heading = sae.labels([latent])[0] or f"Latent {latent}"
    card = Html('<article class="card"><h3>{}</h3><p class="where">{}</p>{}</article>')
    return card.format(heading, "; ".join(facts), contexts)


def _context(passage: Excerpt, maximum: float) -> Html:
    shades = (level(value, maximum, LEVELS) for value in passage.activations)
    pieces = join(
        Html('<span class="a{}">{}</span>').format(shade, piece) if shade else Html("{}").format(piece)
        for shade, piece in zip(shades, passage.pieces, strict=True)
    )
    before, after = ("…" if cut else "" for cut in passage.cut)
    return Html('<p class="ctx">{}{}{}</p>').format(before, pieces, after)
