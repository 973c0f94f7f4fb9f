"""Writes the report of a run: figures/*.png and one self-contained report.html.

Place on the data's path: the end of the main job. `write_report` reads the run folder, draws the figures and writes the
page. It changes nothing else in the folder and can be run again at any time. The page works offline: pictures are
inlined as PNG, in a light and a dark version, and nothing is loaded from elsewhere.

Limits: a run of many sites gives a long page and a file of some megabytes (about 1 MB a site).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.config import to_json
from monosemy.layout import RunFiles
from monosemy.report import tables
from monosemy.report.canvas import Drawing
from monosemy.report.compare import names, points, verdicts, with_interval
from monosemy.report.figures import site_figures, write_figures
from monosemy.report.markup import Cell, Html, bullets, details, facts, figure, join, page, table
from monosemy.report.power_law import UsageLaws, fit_usage
from monosemy.report.read import Key, ReportInputs, read_inputs
from monosemy.report.sections import Section, read_sections
from monosemy.report.summary import (
    HOW_TO_READ,
    HOW_TO_READ_ROWS,
    MEASURES,
    findings,
    headline,
    title,
    warnings,
    what_was_run,
)
from monosemy.support.files import write_text
from monosemy.support.numbers import count_text, duration_text, measured_text, setting_text
from monosemy.support.progress import stage
from monosemy.support.wording import sites_text

HEADINGS = {
    "frontier": "Reconstruction against sparsity, in numbers",
    "shares": "Dead and over-active latents",
    "firing_rates": "How often latents fire",
    "usage": "How often against how strongly",
    "training": "Training",
}
"""The folded parts of a site's section."""


def write_report(run_folder: Path) -> Path:
    """Writes figures/*.png and report.html into a run folder, and returns the path of report.html.

    Raises UserError when an input is missing or damaged, before anything is written, naming the file and the command
    that makes it; also when the folder cannot be written to.
    """
    # All inputs are read before anything is written, so that a damaged one leaves the old report as it was.
    run = read_inputs(Path(run_folder))
    sections = read_sections(run.folder)
    with stage("report", total=len(run.sites), unit="sites") as bar:
        laws = {key: fit_usage(latents.firing_rate, latents.mean_when_active) for key, latents in run.latents.items()}
        drawings: dict[str, dict[str, Drawing]] = {}
        for site in run.sites:
            drawings[site] = dict(site_figures(run, site, laws))
            bar.advance()
    drawing_groups = [*drawings.values(), *(section.drawings for section in sections)]
    write_figures(run.folder, [drawing for drawn in drawing_groups for drawing in drawn.values()])
    path = RunFiles(run.folder).report
    write_text(path, _document(run, drawings, laws, sections))
    return path


def _document(
    run: ReportInputs,
    drawings: Mapping[str, Mapping[str, Drawing]],
    laws: Mapping[Key, UsageLaws | None],
    sections: Sequence[Section],
) -> str:
    """The whole page: opening, sections of rooms, sites, provenance."""
    lede = Html('<p class="lede">{}</p>').format(what_was_run(run))
    body = [_summary(run, drawings[run.sites[0]] if run.sites else {})]
    contents = [("summary", "Which architecture is ahead")]
    body += [section.html for section in sections]
    contents += [(section.anchor, section.title) for section in sections]
    for number_, site in enumerate(run.sites):
        body.append(_site(run, site, f"site-{number_}", drawings[site], laws=laws))
        contents.append((f"site-{number_}", site))
    body.append(_provenance(run))
    contents.append(("provenance", "Provenance"))
    version = _flat(run.provenance.get("versions", {})).get("monosemy", "")
    foot = (
        f"Made by monosemy {version} from run.json, metrics.jsonl, evaluation.json and the statistics of the latents; "
        "figures/ holds the pictures."
    )
    return page(title(run), lede, contents, join(body, "\n"), foot=foot)


def _pair(drawings: Mapping[str, Drawing]) -> Html:
    """The two figures of a site that answer first: loss and variance against sparsity."""
    pair = [figure(drawings[kind]) for kind in ("delta_loss", "fvu") if kind in drawings]
    return Html('<div class="pair">\n{}\n</div>').format(join(pair, "\n")) if pair else Html()


def _summary(run: ReportInputs, drawings: Mapping[str, Drawing]) -> Html:
    """The opening: which architecture is ahead at each site, two figures, one table, and what to keep in mind.

    `drawings` are those of the first site.
    """
    parts = [Html('<section id="summary"><h2>Which architecture is ahead</h2>')]
    for site in run.sites:
        if line := headline(run, site):
            parts.append(Html('<p class="short">At {}, {}</p>').format(site, line))
    parts.append(_pair(drawings))
    several = len(run.sites) > 1
    for site in run.sites:
        heading = Html("<h3>{}</h3>").format(site) if several else Html()
        words = f"Every comparison at {site}, in words" if several else "Every comparison in words"
        parts.append(heading + _wins(run, site) + details(words, bullets(findings(run, site))))
    parts.append(
        details("How to read this", Html("<p>{}</p>").format(HOW_TO_READ_ROWS if run.of_rows else HOW_TO_READ))
    )
    if notes := warnings(run):
        parts.append(Html('<div class="note" role="note"><h3>Keep in mind</h3>{}</div>').format(bullets(notes)))
    return join([*parts, Html("</section>")], "\n")


def _wins(run: ReportInputs, site: str) -> Html:
    """The verdicts as a table: for each target L0 and measure, the lowest and those not told apart from it."""
    site_points = points(run.at(site))
    judged = {m: {v.target_l0: v for v in verdicts(site_points, m)} for m in MEASURES}
    if run.of_rows:
        del judged["delta_loss"]
    rows: list[list[Cell | str]] = []
    for target in sorted({level for by_level in judged.values() for level in by_level}):
        row: list[Cell | str] = [setting_text(target)]
        for measure, by_level in judged.items():
            verdict = by_level.get(target)
            if verdict is None or verdict.best is None:
                row += ["–", Cell("–", float("nan")), "–"]
                continue
            value = verdict.best[measure]
            tied = names(verdict.tied) if verdict.tied else "–"
            row += [names([verdict.best]), Cell(with_interval(value), value.value), tied]
        rows.append(row)
    if not rows:
        return Html()
    headings = ["Asked L0"]
    if "delta_loss" in judged:
        headings += ["Lowest delta loss", "nats per token", "Not told apart from it"]
    headings += ["Lowest FVU", "FVU", "Not told apart"]
    return table(f"Best at each sparsity at {site}: lower is better, 95% intervals in brackets", headings, rows)


def _site(
    run: ReportInputs, site: str, anchor: str, drawings: Mapping[str, Drawing], *, laws: Mapping[Key, UsageLaws | None]
) -> Html:
    """The section of one site: figures with the tables of their numbers, folded."""

    def folded(kind: str, content: Html) -> Html:
        return details(HEADINGS[kind], (figure(drawings[kind]) if kind in drawings else Html()) + content)

    parts = [Html('<section id="{}"><h2>{}</h2>').format(anchor, site)]
    if run.at(site):
        parts.append(Html("<p>{}</p>").format(_losses(run, site)))
        if site != run.sites[0]:  # those of the first site open the page
            parts.append(_pair(drawings))
        parts.append(folded("frontier", tables.frontier(run, site)))
        if len(run.config.seeds) > 1:
            parts.append(details("Every SAE, seed by seed", tables.by_seed(run, site)))
        parts.append(folded("shares", tables.shares(run, site)))
    if "usage" in drawings:
        parts.append(folded("firing_rates", tables.firing_rates(run, site)))
        parts.append(folded("usage", tables.usage(run, site, laws)))
    if "training" in drawings:
        parts.append(folded("training", tables.training(run, site)))
    return join([*parts, Html("</section>")], "\n")


def _losses(run: ReportInputs, site: str) -> str:
    """A sentence with the model's own loss and its loss with zeros at the site, for scale; empty if not measured."""
    clean, zero = run.evaluation.get("clean_loss"), run.evaluation.get("zero_loss")
    zero = zero.get(site) if isinstance(zero, Mapping) else zero
    if not isinstance(clean, int | float):
        return ""
    sentence = f"For scale: the model's own loss on these tokens is {measured_text(clean)} nats per token"
    if isinstance(zero, int | float):
        difference = measured_text(zero - clean)
        sentence += (
            f"; with the site's activations set to zero it is {measured_text(zero)}, a delta loss of {difference}"
        )
    return sentence + "."


def _provenance(run: ReportInputs) -> Html:
    """The section on where the numbers come from: in short; inputs, times, versions and configuration folded away."""
    inputs = dict(run.provenance)
    seconds = {str(k): float(v) for k, v in dict(inputs.pop("seconds", {})).items()}
    versions = inputs.pop("versions", {})
    rows = [
        ("Recipe", run.config.recipe),
        ("Sites", sites_text(run.sites)),
        *([] if run.of_rows else [("Training tokens asked for", count_text(run.config.text.n_tokens))]),
        ("Activations trained on, per SAE", _trained(run)),
        (f"Validation {run.unit.many} (FVU, L0, firing)", _range([r.n_tokens for r in run.records])),
        *([] if run.of_rows else [("Validation tokens (losses)", _loss_tokens(run))]),
        *([("Time", duration_text(sum(seconds.values())))] if seconds else []),
    ]
    parts = [Html('<section id="provenance"><h2>Provenance</h2>'), facts("What was used", rows)]
    recorded = _flat(inputs)
    parts.append(details("Everything that was read", facts("Model, text and sites", list(recorded.items()))))
    if seconds:
        timed = [(name, duration_text(s)) for name, s in seconds.items()]
        parts.append(details("Time by stage", facts("Time by stage", timed)))
    versions_read = _flat(versions)
    parts.append(details("Versions", facts("Versions", list(versions_read.items()))))
    # The evaluation notes its model and text as the run does; what is the same stands above.
    recorded_values = {**recorded, **{f"versions · {name}": text for name, text in versions_read.items()}}
    measured = _flat(run.evaluation.get("provenance", {}))
    if differing := [(name, text) for name, text in measured.items() if recorded_values.get(name) != text]:
        parts.append(details("How it was measured", facts("How it was measured", differing)))
    if noted := _flat({name: done.get("record") for name, done in run.stages.items() if isinstance(done, Mapping)}):
        parts.append(details("What the stages noted", facts("Records of the stages", list(noted.items()))))
    # A text and sites that a run on somebody's rows never read would only mislead.
    unused = ("text", "activations") if run.of_rows else ()
    configuration = {name: value for name, value in to_json(run.config).items() if name not in unused}
    parts.append(
        details("The whole configuration", facts("Configuration (run.json)", list(_flat(configuration).items())))
    )
    return join([*parts, Html("</section>")], "\n")


def _loss_tokens(run: ReportInputs) -> str:
    return _range([r.n_loss_tokens for r in run.records if r.n_loss_tokens])


def _trained(run: ReportInputs) -> str:
    return _range([int(c["n_tokens"][-1]) for c in run.curves.values() if c["n_tokens"][-1] > 0])


def _range(values: list[int]) -> str:
    if not values:
        return "none"
    low, high = min(values), max(values)
    return count_text(low) if low == high else f"{count_text(low)} to {count_text(high)}"


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Flattens nested values into {`name · part`: text} with readable names; leaves out empty values."""
    if isinstance(value, Mapping):
        parts = [_flat(item, f"{prefix} · {key}" if prefix else str(key)) for key, item in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    if value is None or value == [] or value == "":
        return {}
    name = prefix.replace("_", " ")
    if isinstance(value, list):
        if any(isinstance(item, Mapping) for item in value):
            parts = [_flat(item, f"{prefix} · {i + 1}") for i, item in enumerate(value)]
            return {key: text for part in parts for key, text in part.items()}
        return {name: _list_text(prefix.rsplit(" · ", 1)[-1], value)}
    return {name: _text(value)}


def _list_text(key: str, items: Sequence[Any]) -> str:
    """The items of the list `key`; many sites in few words, also those of SAEs, which are (site, name)."""
    if key == "sites":
        return sites_text(map(str, items))
    if key == "saes" and all(isinstance(item, list) and len(item) == 2 for item in items):
        sites: dict[str, list[str]] = {}
        for site, name in items:
            sites.setdefault(str(name), []).append(str(site))
        return "; ".join(f"{name} at {sites_text(at)}" for name, at in sites.items())
    return ", ".join(map(_text, items))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count_text(value)
    return setting_text(value) if isinstance(value, float) else str(value)
