"""`monosemy export-html RUN LATENT …`: a few latents on one page that anybody can open.

Place on the data's path: the end of the path for people without the run. One self-contained file without scripts: it
opens offline, in light and dark, and reads by keyboard and screen reader (every context's activations are also a
table behind its number). Newlines are shown as a sign and a real line break is not made, so that a context stays one
paragraph. Limits: for a few dozen latents; a page of hundreds is large (about 60 KB a latent).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monosemy.errors import UserError
from monosemy.features.export import html_page
from monosemy.features.export.html_page import escape
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import GROUPS, Excerpt, by_group, excerpt, level, quoted
from monosemy.features.view.facts import (
    COLUMNS,
    SCORES_NOTE,
    built_from,
    explanation,
    fired,
    hints,
    neighbours,
    number,
    scored_on,
    scores,
    shown_score,
    shown_value,
    signed,
    stats,
    title,
)
from monosemy.support import files

BEFORE, AFTER = 28, 12
"""Pieces around the peak that a context shows before all of it is asked for."""
N_LISTED = 8
"""Output tokens and neighbours in a table."""
HOW_TO_READ = (
    "A latent is one direction of a sparse autoencoder; most are silent on most tokens. Shades mark how strongly it "
    "fires, in ninths of its maximum; the underlined token is the peak, and the number before a context is the "
    "activation there (open it for every token's)."
)


def export_html(database: FeatureDatabase, latents: Sequence[int], out: Path, *, n: int = 8) -> Path:
    """Writes the page of `latents` to `out` and returns it. `n`: contexts a group at most.

    Raises UserError when `out` is a folder, is no .html file, or is a file that this command did not make.
    """
    out = _target(out)
    where = f"{database.info['site']}/{database.info['name']}"
    name = f"Latent {latents[0]} of {where}" if len(latents) == 1 else f"{len(latents)} latents of {where}"
    contents = [(f"latent-{i}", f"{i}", title(database, i)) for i in latents]
    body = "\n".join(_article(database, latent, n) for latent in latents)
    lede = f"<p>{escape(f'Measured on {built_from(database.info)}.')} {escape(HOW_TO_READ)}</p>"
    files.write_text(out, html_page.page(name, lede, contents, body, _foot(database)))
    return out


def _target(out: Path) -> Path:
    out = out.expanduser()
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file, e.g. {out / 'latents.html'}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html")
    if out.exists():
        with out.open("rb") as file:
            ours = html_page.GENERATOR.encode() in file.read(4096)
        if not ours:
            raise UserError(f"--out {out} exists and was not made by export-html; give another name or delete it first")
    files.require_writable(out, "--out")
    return out


def _article(database: FeatureDatabase, latent: int, n: int) -> str:
    info, label = database.info, database.label(latent)
    maximum = stats(database, latent).get("max") or 0.0
    parts = [
        f'<article id="latent-{latent}" aria-labelledby="h-{latent}">',
        f'<p class="where">{escape(info["site"])}/{escape(info["name"])} · latent {latent}</p>',
        f'<h2 id="h-{latent}">{escape(title(database, latent))}</h2>',
    ]
    if said := hints(database, latent):
        parts.append(f'<p class="hints">{escape("; ".join(said))}</p>')
    if told := explanation(label):
        parts.append(f'<p class="told">A chat model’s explanation: {escape(told)}</p>')
    parts.append('<div class="sides"><div class="main">')
    for group, found in by_group(database, latent).items():
        listed = "".join(_example(excerpt(database, example), maximum) for example in found[:n])
        parts.append(f'<h3>{escape(GROUPS[group])}</h3><ol class="ex">{listed}</ol>')
    parts.append('</div><div class="side">')
    if fired(database, latent):
        parts.append(_histogram(database, latent))
    parts += [_numbers(database, latent), _scores(database, latent), _outputs(database, latent)]
    parts += _neighbours(database, latent)
    parts.append("</div></div></article>")
    return "".join(parts)


def _numbers(database: FeatureDatabase, latent: int) -> str:
    values = stats(database, latent)
    rows = [
        (name.capitalize(), shown_value(column, values[column]))
        for column, (name, _) in COLUMNS.items()
        if values.get(column) is not None
    ]
    return html_page.table("When it fires", ("what", "value"), rows, numeric=(1,))


def _scores(database: FeatureDatabase, latent: int) -> str:
    found = scores(database, latent)
    if not found:
        return ""
    rows = [
        (score.way.capitalize(), shown_score(score), "–" if score.strong is None else f"{score.strong:.2f}")
        for score in found
    ]
    caption = f"Can its firing be told?{scored_on(found)}"
    headings = ("from", "AUROC (95%)", "strongest quarter")
    return html_page.table(caption, headings, rows, numeric=(1, 2)) + f'<p class="note">{escape(SCORES_NOTE)}</p>'


def _histogram(database: FeatureDatabase, latent: int) -> str:
    edges, counts = database.histogram(latent)
    low, high, total = float(edges[0]), float(edges[-1]), int(counts.sum())
    describe = f"Histogram of {total} positive activations from {number(low)} to {number(high)}"
    picture = html_page.histogram(edges.tolist(), counts.tolist(), describe, (number(low), number(high)))
    rows = [
        (f"{number(float(edges[i]))} to {number(float(edges[i + 1]))}", f"{int(count):,}")
        for i, count in enumerate(counts)
        if count
    ]
    levels, values = database.quantiles(latent)
    quantiles = [(f"{100 * float(q):g}%", number(float(v))) for q, v in zip(levels, values, strict=True)]
    tables = html_page.table("Counts", ("activation", "tokens"), rows, numeric=(1,)) + html_page.table(
        "Quantiles of the positive activations", ("share below", "activation"), quantiles, numeric=(1,)
    )
    caption = f"<b>Activations when it fires</b> · {total:,} tokens"
    return f"<figure><figcaption>{caption}</figcaption>{picture}{html_page.details('as a table', tables)}</figure>"


def _outputs(database: FeatureDatabase, latent: int) -> str:
    raised, lowered = database.output_tokens(latent)
    if not raised:
        return f'<p class="note">{escape(str(database.info.get("no_output_tokens") or "No output tokens."))}</p>'
    rows = [
        (quoted(database.tokens.text(up)), signed(more), quoted(database.tokens.text(down)), signed(less))
        for (up, more), (down, less) in zip(raised[:N_LISTED], lowered[:N_LISTED], strict=True)
    ]
    caption = "Output tokens, in logits per unit of activation"
    return html_page.table(caption, ("raises", "by", "lowers", "by"), rows, numeric=(1, 3))


def _neighbours(database: FeatureDatabase, latent: int) -> list[str]:
    names = {
        "decoder": ("Nearest decoder directions", "cosine"),
        "coactivation": ("Latents that fire together with it", "correlation"),
    }
    tables = []
    for kind, others in neighbours(database, latent).items():
        rows = [(str(other.latent), other.label, signed(other.value)) for other in others[:N_LISTED]]
        if rows:
            caption, unit = names[kind]
            tables.append(html_page.table(caption, ("latent", "label", unit), rows, numeric=(2,)))
    return tables


def _example(one: Excerpt, maximum: float) -> str:
    start, stop = max(0, one.peak - BEFORE), min(len(one.pieces), one.peak + AFTER + 1)
    marks = [_piece(one, i, maximum) for i in range(len(one.pieces))]
    before = f'<span class="far">{"".join(marks[:start])}</span><span class="cut">… </span>' if start else ""
    after = f'<span class="cut"> …</span><span class="far">{"".join(marks[stop:])}</span>' if stop < len(marks) else ""
    source = f'<span class="src">{escape(one.source)}</span>' if one.source else ""
    return f'<li>{_values(one)}<div><p class="ctx">{before}{"".join(marks[start:stop])}{after}</p>{source}</div></li>'


def _values(one: Excerpt) -> str:
    """The peak's number, which opens to every firing token's; a plain number where nothing fires."""
    firing = [
        (quoted(piece), number(value)) for piece, value in zip(one.pieces, one.activations, strict=True) if value > 0
    ]
    if not firing:
        return "<span></span>"
    listed = html_page.table("Tokens on which it fires here", ("token", "activation"), firing, numeric=(1,))
    return html_page.details(number(one.value), listed)


def _piece(one: Excerpt, i: int, maximum: float) -> str:
    text = escape(one.pieces[i])
    text = text.replace("\n", '<span class="br">↵</span>').replace("\t", '<span class="br">→</span>')
    shade = level(one.activations[i], maximum)
    if one.special[i]:
        text = f'<span class="sp">{text}</span>'
    if i == one.peak and one.value > 0:
        text = f"<b>{text}</b>"
    if not shade:
        return text
    return f'<span class="a{shade}" title="{number(one.activations[i])}">{text}</span>'


def _foot(database: FeatureDatabase) -> str:
    info = database.info
    rows = [
        ("SAE", f"{info['site']}/{info['name']} ({info['architecture']}, {info['d_sae']:,} latents)"),
        ("weights (SHA-256)", str(info["sae_sha256"])),
        ("model", f"{info['model']['name']} ({info['model']['fingerprint']})"),
        ("tokens", f"{info['n_tokens']:,} in contexts of {info['context_length']}"),
        ("built", str(info["created"])),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<p>Made by monosemy from the run's feature database.</p><dl>{listed}</dl>"
