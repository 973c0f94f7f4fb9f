"""The latents of one SAE for Python and notebooks: look one up, list the clear ones, search by word.

Place on the path: feature database → [Features, Latent] → people. The pages of `monosemy browse` show more; here a
latent is a few lines and its strongest contexts, and every number behind it is in `Features.database`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import Excerpt, by_group, excerpt, quoted
from monosemy.features.view.facts import fired, score_text, scores, stats, title
from monosemy.features.view.highlights import highlights
from monosemy.support.html import Html, escape, join
from monosemy.support.notebook import facts_line
from monosemy.support.numbers import DASH, activation_text, count_text, fixed_text, rate_text
from monosemy.support.visible import visible

BEFORE, AFTER = 20, 8
"""Tokens of a context shown before and after its peak."""
_N_CONTEXTS, _N_OUTPUTS = 5, 6
_TABLE = Html(
    "<table><thead><tr><th>latent</th><th>label</th><th>label score</th><th>fires on</th></tr></thead>{}</table>"
)


class Features:
    """What the latents of one SAE respond to; `open_run(RUN).features()` opens them.

    `features[12]` is one latent. `database` has every array and number.
    """

    def __init__(self, database: FeatureDatabase) -> None:
        self.database = database

    def __len__(self) -> int:
        return self.database.n_latents

    def __getitem__(self, latent: int) -> Latent:
        """A latent by its number. Raises UserError for one that the SAE does not have."""
        return Latent(self.database, self.database.check(latent))

    def clear(self, n: int = 6) -> Latents:
        """The `n` latents whose labels tell best where they fire, unlike each other (`features.view.highlights`)."""
        return self._latents(highlights(self.database, n).latents)

    def search(self, words: str, n: int = 10) -> Latents:
        """At most `n` latents whose labels have these words, or words that begin with them, best first."""
        return self._latents(latent for latent, _, _ in self.database.search_labels(words, n))

    def _latents(self, numbers: Iterable[int]) -> Latents:
        return Latents(self[number] for number in numbers)

    def __repr__(self) -> str:
        info = self.database.info
        facts = {"latents": count_text(len(self)), "tokens": count_text(info["n_tokens"])}
        return facts_line(f"Features of {info['site']}/{info['name']}", facts)


@dataclass(frozen=True, repr=False)
class Latent:
    """One latent: its label, how often it fires, and the contexts where it is strongest."""

    database: FeatureDatabase
    number: int

    @property
    def label(self) -> str:
        """The label, or a remark in parentheses if there is none."""
        return title(self.database, self.number)

    @property
    def score(self) -> float | None:
        """AUROC of telling by the label whether it fires, on held-out documents; None where it was not measured."""
        measured = scores(self.database, self.number)
        return measured[0].auroc if measured else None

    @property
    def firing_rate(self) -> float:
        """The share of the tokens on which it fires."""
        return stats(self.database, self.number)["firing_rate"] or 0.0

    def contexts(self, n: int = _N_CONTEXTS) -> list[Excerpt]:
        """The at most `n` contexts in which it is strongest, cut around the peak."""
        examples = by_group(self.database, self.number, ("top",)).get("top", [])[:n]
        return [excerpt(self.database, example, BEFORE, AFTER) for example in examples]

    def raises(self, n: int = _N_OUTPUTS) -> list[str]:
        """The at most `n` output tokens that its direction raises most; none where it has no direct path to them."""
        return [self.database.tokens.text(token) for token, _ in self.database.output_tokens(self.number)[0][:n]]

    def __repr__(self) -> str:
        return facts_line(
            f"Latent {self.number} ({self.label})", dict(zip(("label score", "fires on"), self._numbers()))
        )

    def __str__(self) -> str:
        return "\n".join([repr(self), *(_line(context) for context in self.contexts())])

    def _numbers(self) -> tuple[str, str]:
        return (DASH if self.score is None else fixed_text(self.score, 2)), rate_text(self.firing_rate)

    def _repr_html_(self) -> str:
        measured = scores(self.database, self.number)
        facts = [f"label score {score_text(measured[0])}"] if measured else []
        facts += [f"fires on {rate_text(self.firing_rate)}"] if fired(self.database, self.number) else []
        facts += [f"raises {', '.join(quoted(text) for text in self.raises())}"] if self.raises() else []
        maximum = stats(self.database, self.number).get("max") or 0.0
        rows = join(_row(context, maximum) for context in self.contexts())
        heading = Html("<strong>Latent {}: {}</strong><br>{}").format(self.number, self.label, " · ".join(facts))
        return str(Html("<div>{}<table>{}</table></div>").format(heading, rows))


class Latents(list[Latent]):
    """Latents in an order; a notebook shows them as a table, and print one a line."""

    def __str__(self) -> str:
        return "\n".join(map(repr, self)) or "no latents"

    def _repr_html_(self) -> str:
        row = Html("<tr><td>{}</td><td style='text-align:left'>{}</td><td>{}</td><td>{}</td></tr>")
        return str(_TABLE.format(join(row.format(item.number, item.label, *item._numbers()) for item in self)))


def _line(context: Excerpt) -> str:
    """A context as a line: the activation at the peak, and the text with the peak in marks."""
    start, stop = ("…" if cut else "" for cut in context.cut)
    pieces = [visible(piece) for piece in context.pieces]
    peak = pieces[context.peak]
    word = peak.lstrip(" ")
    pieces[context.peak] = f"{peak[: len(peak) - len(word)]}«{word}»"
    return f"{activation_text(context.value):>6}  {start}{''.join(pieces)}{stop}"


def _row(context: Excerpt, maximum: float) -> Html:
    """A context as a row: the activation at the peak, and the text with the firing tokens shaded by their strength."""
    start, stop = ("…" if cut else "" for cut in context.cut)
    pieces = join(_piece(context, i, maximum) for i in range(len(context.pieces)))
    return Html("<tr><td>{}</td><td style='text-align:left'>{}{}{}</td></tr>").format(
        activation_text(context.value), start, pieces, stop
    )


def _piece(context: Excerpt, i: int, maximum: float) -> Html:
    # a see-through shade, so that the text can be read on light and on dark pages
    text = escape(context.pieces[i].replace("\n", "↵").replace("\t", "→"))
    if context.activations[i] <= 0 or maximum <= 0:
        return text
    shade = fixed_text(0.15 + 0.45 * min(1.0, context.activations[i] / maximum), 2)
    marked = Html("<b>{}</b>").format(text) if i == context.peak else text
    return Html("<span style='background:rgba(66,133,244,{})'>{}</span>").format(shade, marked)
