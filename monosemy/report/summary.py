"""The opening of the report in plain words: what was run, which architecture is ahead, and what to be wary of.

Place on the data's path: from verdicts to sentences. Every sentence is derived from the run's numbers, and none claims
more than the intervals allow (see compare.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from monosemy.config import trains_nothing
from monosemy.report.compare import Point, Verdict, beaten_by_control, names, points, verdicts, with_interval
from monosemy.report.read import Evaluated, ReportInputs
from monosemy.report.theme import CONTROLS, label, order
from monosemy.saes.listing import is_transcoder_kind
from monosemy.support.numbers import count_text, counted_text, fixed_percent_text, rounded_text, setting_text
from monosemy.support.wording import and_text, sites_text

MEASURES = {"delta_loss": ("delta loss", " nats per token"), "fvu": ("FVU", "")}
MANY_DEAD = 0.3
"""The share of dead latents from which on the opening mentions them."""


def model_name(run: ReportInputs) -> str:
    """The name of the model, or of the rows that took its place, in the provenance, or else in the configuration."""
    return _name(run.provenance.get("rows") or run.provenance.get("model"), run.config.model.source)


def _name(entry: object, otherwise: str) -> str:
    if isinstance(entry, Mapping):
        entry = entry.get("name") or entry.get("source")
    return str(entry) if entry else otherwise


def title(run: ReportInputs) -> str:
    """`Sparse autoencoders of MODEL: SITES`; `Transcoders of …` where the run has no others."""
    kinds = {r.architecture for r in run.records} | {c.architecture for c in run.curves.values()}
    kinds -= set(CONTROLS)
    sort = "Transcoders" if kinds and all(map(is_transcoder_kind, kinds)) else "Sparse autoencoders"
    return f"{sort} of {model_name(run)}: {sites_text(run.sites)}"


def what_was_run(run: ReportInputs) -> str:
    """A paragraph on how many SAEs of which kinds were trained or imported, on what, and what they were measured on."""
    measured = count_text(max((r.n_tokens for r in run.records), default=0))
    imported = [r for r in run.records if (r.site, r.name) in run.imported]
    if imported and trains_nothing(run.config):
        return (
            f"{_published(imported)} measured on the activations of {model_name(run)} at {sites_text(run.sites)}, over "
            f"{measured} tokens. {_ELSEWHERE}"
        )
    # SAEs whose training stopped may have a curve but no record, so both are counted.
    saes = [r for r in run.records if not r.control and (r.site, r.name) not in run.imported]
    curves = [c for c in run.curves.values() if c.architecture in run.config.architectures]
    kind_of = {(c.site, c.name): c.architecture for c in curves} | {(r.site, r.name): r.architecture for r in saes}
    kinds = order(kind_of.values())
    widths = sorted({r.d_sae for r in saes}) or [run.config.d_sae]
    levels = sorted({r.target_l0 for r in saes if r.target_l0} or set(run.config.l0))
    trained_on = max((c["n_tokens"].max() for c in run.curves.values()), default=math.nan)
    most = "up to " if run.stopped else ""
    activations = "rows, passes counted," if run.of_rows else "activations"
    trained = f"{most}{count_text(trained_on)} {activations}" if math.isfinite(trained_on) else activations
    seeds = len(run.config.seeds)
    learnt = f"rebuild the activations of {model_name(run)} at {sites_text(run.sites)}"
    if kinds and all(map(is_transcoder_kind, kinds)):
        learnt = f"compute the activations of {model_name(run)} at {sites_text(run.sites)} from what the MLPs receive"
    held_out = "tokens from documents that training never saw"
    if run.of_rows:
        learnt, held_out = f"rebuild the rows of {model_name(run)}", "rows that training never saw"
    beside = f" Beside them, {_published(imported)} measured on the same tokens. {_ELSEWHERE}" if imported else ""
    return (
        f"{_dictionaries(kind_of.values())} ({and_text([label(k) for k in kinds])}; "
        f"{' or '.join(count_text(w) for w in widths)} latents; {_plural('sparsity level', len(levels))} L0 "
        f"{and_text([setting_text(v) for v in levels])}; {seeds} {_plural('seed', seeds)}) learnt to "
        f"{learnt}. Each was trained on {trained} and measured on {measured} {held_out}.{beside}"
    )


_ELSEWHERE = "What was published was trained elsewhere, on text that may hold what it is measured on here."


def _dictionaries(kinds: Collection[str]) -> str:
    """`24 sparse autoencoders and 30 transcoders`, by the kind of each."""
    n_transcoders = sum(map(is_transcoder_kind, kinds))
    counts = {"sparse autoencoder": len(kinds) - n_transcoders, "transcoder": n_transcoders}
    return and_text([counted_text(n, sort) for sort, n in counts.items() if n] or ["0 sparse autoencoders"])


def _published(records: Sequence[Evaluated]) -> str:
    """`2 published sparse autoencoders (published JumpReLU; 16,384 latents) were`."""
    kinds = and_text([label(kind) for kind in order(r.architecture for r in records)])
    widths = " or ".join(count_text(width) for width in sorted({r.d_sae for r in records}))
    verb = "was" if len(records) == 1 else "were"
    return f"{len(records)} published sparse {_plural('autoencoder', len(records))} ({kinds}; {widths} latents) {verb}"


HOW_TO_READ = (
    "Delta loss is how much worse the model predicts the next token, in nats per token, when the site's activations "
    "are replaced by the SAE's reconstruction. FVU is the fraction of the activations' variance that the "
    "reconstruction misses. Lower is better for both, and only SAEs that are equally sparse (the same L0, the mean "
    "number of latents active on a token) should be compared. Brackets are 95% bootstrap intervals over validation "
    "documents; where two overlap, this run does not tell the SAEs apart."
)

HOW_TO_READ_ROWS = (
    "FVU is the fraction of the rows' variance that the reconstruction misses. Lower is better, and only SAEs that are "
    "equally sparse (the same L0, the mean number of latents active on a row) should be compared. Brackets are 95% "
    "bootstrap intervals over validation rows or groups of them; where two overlap, this run does not tell the SAEs "
    "apart. No language model stands behind these rows, so there is no delta loss, no loss recovered and no KL."
)


def headline(run: ReportInputs, site: str) -> str:
    """The answer in two sentences: which architecture is lowest at which L0, and where its lead is certain.

    It is about delta loss, or about FVU if that is not measured; empty if nothing can be ranked.
    """
    site_points = points(run.at(site))
    # The first measure with anything to compare decides; a single ranked architecture leads over nothing.
    for measure, (words, _) in MEASURES.items():
        judged = [v for v in verdicts(site_points, measure) if v.best and len(v.ranked) > 1]
        if not judged:
            continue
        leaders = order(v.best.architecture for v in judged if v.best)
        levels = {name: [v for v in judged if v.best and v.best.architecture == name] for name in leaders}
        lead = f"lowest {words}: {and_text([f'{label(name)} at {_levels(where)}' for name, where in levels.items()])}."
        sure = [v for v in judged if not v.tied]
        if not sure:
            return f"{lead} At none of these is the lead larger than the 95% intervals."
        if len(sure) == len(judged):
            return f"{lead} Everywhere the lead is larger than the 95% intervals."
        return f"{lead} The lead is larger than the 95% intervals only at {_levels(sure)}."
    return ""


def _levels(judged: Sequence[Verdict]) -> str:
    return f"L0 {and_text([setting_text(v.target_l0) for v in judged])}"


CONTROL_WORDS = {
    "frozen_random": "a dictionary of frozen random directions",
    "transcoder_frozen_random": "a transcoder with a frozen random decoder",
    "skip_transcoder_frozen_random": "a transcoder with a linear path and a frozen random decoder",
    "pca": "PCA",
}
"""The controls that have an L0, in words; the best linear map has none and stands in the tables."""


def findings(run: ReportInputs, site: str) -> list[str]:
    """A sentence for each target L0 and measure, followed by the comparison of the SAEs with the controls."""
    site_points = points(run.at(site))
    lines = []
    by_level = {m: {v.target_l0: v for v in verdicts(site_points, m)} for m in MEASURES}
    for target in sorted({level for judged in by_level.values() for level in judged}):
        sentences = [verdict_sentence(judged[target]) for judged in by_level.values() if target in judged]
        lines.append(f"L0 {setting_text(target)}: " + " ".join(sentences))
    if not lines:
        lines.append("No SAE here was asked for an L0 and measured, so none is ranked; compare them in the plots.")
    for control, words in CONTROL_WORDS.items():
        if sentence := control_sentence(site_points, control, words):
            lines.append(sentence)
    return lines


def verdict_sentence(verdict: Verdict) -> str:
    """A sentence on which architecture is lowest, and whether the intervals tell it apart from the others."""
    measure, unit = MEASURES[verdict.measure]
    if verdict.best is None:
        return f"No SAE reached this L0 within 5%, so none is ranked on {measure}."
    best, value = label(verdict.best.architecture), with_interval(verdict.best[verdict.measure]) + unit
    others = verdict.ranked[1:]
    if not others:
        return f"{best} alone can be ranked here: {measure} {value}."
    lead = f"{best} has the lowest {measure}, {value}"
    if not math.isfinite(verdict.best[verdict.measure].high):
        return f"{lead}, but without an interval (too few documents) the order may be chance."
    if not verdict.tied:
        return f"{lead}, and its interval lies below {'that' if len(others) == 1 else 'those'} of {names(others)}."
    return f"{lead}, not told apart from {names(verdict.tied)} (the intervals overlap)."


def control_sentence(site_points: Sequence[Point], control: str, words: str) -> str | None:
    """A sentence on whether every SAE reconstructs better than a control at the same target L0; None without it."""
    compared, unclear = beaten_by_control(site_points, control, "fvu")
    if not compared:
        return None
    if not unclear:
        return f"Every SAE has a lower FVU than {words} at the same L0, with intervals apart."
    levels = ["" if p.target_l0 is None else f" at L0 {setting_text(p.target_l0)}" for p in unclear]
    unclear_text = and_text([f"{label(p.architecture)}{level}" for p, level in zip(unclear, levels, strict=True)])
    sentence = f"Not clearly lower in FVU than {words} at the same L0: {unclear_text}."
    n_clear = len(compared) - len(unclear)
    return sentence if n_clear == 0 else f"{sentence} The other {'one is' if n_clear == 1 else f'{n_clear} are'}."


def warnings(run: ReportInputs) -> list[str]:
    """What a reader must know before trusting the numbers, a sentence each."""
    lines = [f"Training stopped early: {line}. It is not ranked and not in the frontier plots." for line in run.stopped]
    lines += [f"{name} was asked for, but there is no record of its training." for name in run.unrecorded]
    # Without a message from training, a missing record means that evaluation has not been run since.
    unevaluated = [
        c for key, c in run.curves.items() if not c.stopped and key not in {(r.site, r.name) for r in run.records}
    ]
    lines += [f"{c.name} at {c.site} was trained but not evaluated." for c in unevaluated]
    for (site, name), remarks in run.imported.items():
        lines += [f"{name} at {site}: {remark}." for remark in remarks]
    without_control = []
    for site in run.sites:
        site_points = points(run.at(site))
        for p in site_points:
            if p.target_l0 and not p.on_target and not p.control:
                imported = any((record.site, record.name) in run.imported for record in p.records)
                verb = "was published with" if imported else "was asked for"
                lines.append(
                    f"{label(p.architecture)} at {site} {verb} L0 {setting_text(p.target_l0)} and reached "
                    f"{rounded_text(p['l0'].value)}, more than 5% away: it is plotted where it landed, but not ranked."
                )
        if dead := [p for p in site_points if not p.control and p["dead_fraction"].value >= MANY_DEAD]:
            dead_saes = [
                f"{label(p.architecture)} at L0 {rounded_text(p['l0'].value)} "
                f"({fixed_percent_text(p['dead_fraction'].value)})"
                for p in dead
            ]
            lines.append(
                f"{fixed_percent_text(MANY_DEAD)} or more of the latents are dead at {site}: {and_text(dead_saes)}."
            )
        if site_points and not any(p.control for p in site_points):
            without_control.append(site)
    if without_control:
        lines.append(
            f"No control was measured at {sites_text(without_control)}: how much any dictionary would explain is not "
            "known."
        )
    return lines


def _plural(word: str, n: int) -> str:
    return word if n == 1 else f"{word}s"
