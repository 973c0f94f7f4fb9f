"""Exports a few latents as one page that anybody can open: `monosemy export-html RUN LATENT …`.

Place on the data's path: its end, for people without the run. The page is one self-contained file without scripts. It
opens offline, in light and dark, and can be read by keyboard and screen reader: behind the number of each context is a
table of its activations. Line breaks are shown as a sign rather than made, so that a context stays one paragraph.
Limits: it is meant for a few dozen latents; a page of hundreds is large (about 60 KB per latent).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.features.export import html_page
from monosemy.features.store.database import Example, FeatureDatabase
from monosemy.features.view.excerpt import Excerpt, by_group, excerpt, level, quoted
from monosemy.features.view.facts import (
    built_from,
    column_text,
    explanation,
    fired,
    hints,
    neighbours,
    score_text,
    scored_on,
    scores,
    stats,
    title,
)
from monosemy.features.view.words import words_of
from monosemy.support import files
from monosemy.support.html import Html, details, escape, join
from monosemy.support.numbers import activation_text, count_text, fixed_text, setting_text, signed_text
from monosemy.support.visible import visible

BEFORE, AFTER = 28, 12
"""Pieces before and after the peak that a context shows until it is expanded."""
N_LISTED = 8
"""Number of output tokens and of neighbours listed in a table."""


def export_html(database: FeatureDatabase, latents: Sequence[int], out: Path, *, n: int = 8) -> Path:
    """Writes the page of `latents` to `out` and returns `out`. A group shows at most `n` contexts.

    Raises UserError if `out` is a folder, does not end in .html, is a file that this command did not make, or cannot be
    written.
    """
    out = _target(out)
    where = f"{database.info['site']}/{database.info['name']}"
    name = f"Latent {latents[0]} of {where}" if len(latents) == 1 else f"{len(latents)} latents of {where}"
    contents = [(f"latent-{i}", f"{i}", title(database, i)) for i in latents]
    body = join((_article(database, latent, n) for latent in latents), "\n")
    lede = Html("<p>Measured on {}. {}</p>").format(built_from(database.info), words_of(database.info).how_to_read)
    files.write_text(out, html_page.page(name, lede, contents, body, foot=_foot(database)))
    return out


def _target(out: Path) -> Path:
    """The file to write. Raises UserError for one that must not be written (see `export_html`)."""
    out = out.expanduser()
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file, e.g. {out / 'latents.html'}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html")
    if out.exists():
        # a page made by this command names it in its head and may be replaced; any other file is the user's own
        with out.open("rb") as file:
            ours = html_page.GENERATOR.encode() in file.read(4096)
        if not ours:
            raise UserError(f"--out {out} exists and was not made by export-html; give another name or delete it first")
    files.require_writable(out, "--out")
    return out


def _article(database: FeatureDatabase, latent: int, n: int) -> Html:
    """One latent's part of the page."""
    side = [_histogram(database, latent)] if fired(database, latent) else []
    side += [_numbers(database, latent), _scores(database, latent)]
    if not database.of_rows:
        side.append(_outputs(database, latent))
    return Html(
        '<article id="latent-{latent}" aria-labelledby="h-{latent}">{heading}<div class="sides"><div class="main">'
        '{examples}</div><div class="side">{side}</div></div></article>'
    ).format(
        latent=latent,
        heading=_heading(database, latent),
        examples=_examples(database, latent, n),
        side=join([*side, *_neighbours(database, latent)]),
    )


def _heading(database: FeatureDatabase, latent: int) -> Html:
    """The latent's site and number, its label and hints, and a chat model's explanation if there is one."""
    place = Html('<p class="where">{}/{} · latent {}</p>')
    heading = place.format(database.info["site"], database.info["name"], latent)
    heading += Html('<h2 id="h-{}">{}</h2>').format(latent, title(database, latent))
    if lines := hints(database, latent):
        heading += Html('<p class="hints">{}</p>').format("; ".join(lines))
    if text := explanation(database.label(latent)):
        heading += Html('<p class="explanation">A chat model’s explanation: {}</p>').format(text)
    return heading


def _examples(database: FeatureDatabase, latent: int, n: int) -> Html:
    """The first n contexts of each group."""
    maximum = stats(database, latent).get("max") or 0.0
    groups = words_of(database.info).groups

    def item(example: Example) -> Html:
        context = excerpt(database, example)
        return _row(context, database.picture(example.context)) if database.of_rows else _example(context, maximum)

    return join(
        Html('<h3>{}</h3><ol class="ex">{}</ol>').format(groups[group], join(item(example) for example in examples[:n]))
        for group, examples in by_group(database, latent).items()
    )


def _numbers(database: FeatureDatabase, latent: int) -> Html:
    values, words = stats(database, latent), words_of(database.info)
    rows = [
        (name.capitalize(), column_text(column, values[column], words))
        for column, (name, _) in words.columns.items()
        if values.get(column) is not None
    ]
    return html_page.table("When it fires", ("what", "value"), rows, numeric=(1,))


def _scores(database: FeatureDatabase, latent: int) -> Html:
    label_scores = scores(database, latent)
    if not label_scores:
        return Html()
    rows = [
        (score.way.capitalize(), score_text(score), "–" if score.strong is None else fixed_text(score.strong, 2))
        for score in label_scores
    ]
    words = words_of(database.info)
    caption = f"Can its firing be told?{scored_on(label_scores, words)}"
    headings = ("from", "AUROC (95%)", "strongest quarter")
    note = Html('<p class="note">{}</p>').format(words.scores_note)
    return html_page.table(caption, headings, rows, numeric=(1, 2)) + note


def _histogram(database: FeatureDatabase, latent: int) -> Html:
    """The histogram as a picture, with its counts and the quantiles as tables."""
    unit = words_of(database.info).unit
    edges, counts = database.histogram(latent)
    low, high, total = float(edges[0]), float(edges[-1]), int(counts.sum())
    describe = f"Histogram of {total} positive activations from {activation_text(low)} to {activation_text(high)}"
    picture = html_page.histogram(
        edges.tolist(), counts.tolist(), describe, (activation_text(low), activation_text(high))
    )
    rows = [
        (f"{activation_text(float(edges[i]))} to {activation_text(float(edges[i + 1]))}", count_text(int(count)))
        for i, count in enumerate(counts)
        if count
    ]
    levels, values = database.quantiles(latent)
    quantiles = [
        (f"{setting_text(100 * float(q))}%", activation_text(float(v))) for q, v in zip(levels, values, strict=True)
    ]
    tables = html_page.table("Counts", ("activation", unit), rows, numeric=(1,)) + html_page.table(
        "Quantiles of the positive activations", ("share below", "activation"), quantiles, numeric=(1,)
    )
    return Html("<figure><figcaption><b>Activations when it fires</b> · {} {}</figcaption>{}{}</figure>").format(
        count_text(total), unit, picture, details("as a table", tables)
    )


def _outputs(database: FeatureDatabase, latent: int) -> Html:
    """The table of output tokens raised and lowered, or the reason why there are none."""
    raised, lowered = database.output_tokens(latent)
    if not raised:
        reason = database.info.get("no_output_tokens") or "No output tokens."
        return Html('<p class="note">{}</p>').format(reason)
    rows = [
        (quoted(database.tokens.text(up)), signed_text(more), quoted(database.tokens.text(down)), signed_text(less))
        for (up, more), (down, less) in zip(raised[:N_LISTED], lowered[:N_LISTED], strict=True)
    ]
    caption = "Output tokens, in logits per unit of activation"
    return html_page.table(caption, ("raises", "by", "lowers", "by"), rows, numeric=(1, 3))


def _neighbours(database: FeatureDatabase, latent: int) -> list[Html]:
    names = {
        "decoder": ("Nearest decoder directions", "cosine"),
        "coactivation": ("Latents that fire together with it", "correlation"),
    }
    tables = []
    for kind, others in neighbours(database, latent).items():
        rows = [(str(other.latent), other.label, signed_text(other.value)) for other in others[:N_LISTED]]
        if rows:
            caption, unit = names[kind]
            tables.append(html_page.table(caption, ("latent", "label", unit), rows, numeric=(2,)))
    return tables


def _example(context: Excerpt, maximum: float) -> Html:
    """One context: the part around the peak, with the rest hidden until it is asked for."""
    start, stop = max(0, context.peak - BEFORE), min(len(context.pieces), context.peak + AFTER + 1)
    marks = [_piece(context, i, maximum) for i in range(len(context.pieces))]
    before = after = source = Html()
    if start:
        before = Html('<span class="far">{}</span><span class="cut">… </span>').format(join(marks[:start]))
    if stop < len(marks):
        after = Html('<span class="cut"> …</span><span class="far">{}</span>').format(join(marks[stop:]))
    if context.source:
        source = Html('<span class="src">{}</span>').format(context.source)
    return Html('<li>{}<div><p class="ctx">{}{}{}</p>{}</div></li>').format(
        _values(context), before, join(marks[start:stop]), after, source
    )


def _row(context: Excerpt, picture: bytes | None) -> Html:
    """A row that stands in no text: its activation, its thumbnail if it has one, and its text."""
    image = Html()
    if picture is not None:
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        address = f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
        image = Html('<img class="row" src="{}" alt="{}">').format(address, context.source or "the row's picture")
    source = Html('<span class="src">{}</span>').format(context.source) if context.source else Html()
    return Html('<li><span>{}</span><div>{}<p class="ctx">{}</p>{}</div></li>').format(
        activation_text(context.value), image, "".join(visible(piece) for piece in context.pieces), source
    )


def _values(context: Excerpt) -> Html:
    """The activation at the peak, which opens to a table of all firing tokens; an empty element if nothing fires."""
    # shades cannot be heard or read exactly: the same numbers once more, as a table
    firing = [
        (quoted(piece), activation_text(value))
        for piece, value in zip(context.pieces, context.activations, strict=True)
        if value > 0
    ]
    if not firing:
        return Html("<span></span>")
    tokens = html_page.table("Tokens on which it fires here", ("token", "activation"), firing, numeric=(1,))
    return details(activation_text(context.value), tokens)


def _piece(context: Excerpt, i: int, maximum: float) -> Html:
    """A piece of text shaded by its activation, with signs for line breaks and tabs, and the peak in bold."""
    # escaped first: what is added below is markup
    text = escape(context.pieces[i])
    for character, sign in (("\n", "↵"), ("\t", "→")):
        text = text.replace(character, Html('<span class="br">{}</span>').format(sign))
    shade = level(context.activations[i], maximum)
    if context.special[i]:
        text = Html('<span class="sp">{}</span>').format(text)
    if i == context.peak and context.value > 0:
        text = Html("<b>{}</b>").format(text)
    if not shade:
        return text
    return Html('<span class="a{}" title="{}">{}</span>').format(shade, activation_text(context.activations[i]), text)


def _foot(database: FeatureDatabase) -> Html:
    """The record of what the page was made from."""
    info = database.info
    rows = [
        ("SAE", f"{info['site']}/{info['name']} ({info['architecture']}, {count_text(info['d_sae'])} latents)"),
        ("weights (SHA-256)", str(info["sae_sha256"])),
        *_origin(info),
        ("built", str(info["created"])),
    ]
    items = join(Html("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in rows)
    return Html("<p>Made by monosemy from the run's feature database.</p><dl>{}</dl>").format(items)


def _origin(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the database was built from, as (name, value)."""
    if "rows" in info:
        rows = info["rows"]
        return [("rows", f"{count_text(info['n_tokens'])} of {rows['name']} ({rows['fingerprint']})")]
    return [
        ("model", f"{info['model']['name']} ({info['model']['fingerprint']})"),
        ("tokens", f"{count_text(info['n_tokens'])} in contexts of {info['context_length']}"),
    ]
