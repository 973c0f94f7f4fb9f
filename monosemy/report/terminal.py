"""A run in the terminal, on one screen: what it read, what it trained, how it came out and what to do next.

Place on the path: run folder → [lines of text] → `monosemy info RUN`. Reads what the report reads, without weights and
without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.config import RunConfig, computed_settings, taking_part, to_json
from monosemy.errors import UserError
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.layout import RunFiles
from monosemy.run import read_feature_info, read_run
from monosemy.saes.config_file import describes_another
from monosemy.saes.listing import SavedSae, dictionaries_text, saved_saes
from monosemy.support.numbers import DASH, count_text, duration_text, setting_text, value_text
from monosemy.support.wording import sites_text

_SECTIONS = ("model", "text", "activations", "architectures", "l0", "d_sae", "seeds", "rows", "evaluation")
"""Sections and settings that the lines of a run show, or that follow from them; others are named if they differ."""


def run_lines(folder: Path) -> list[str]:
    """The lines about a run. Raises UserError when the folder holds none, or a file of it is damaged."""
    config, provenance = read_run(folder)
    saes = saved_saes(folder)
    facts = _facts(folder, config, provenance)
    width = max(map(len, facts))
    lines = [f"{folder}: {dictionaries_text(saes)}", ""]
    lines += [f"  {name:{width}}  {text}" for name, text in facts.items()]
    if saes:
        lines += ["", *_table(folder, saes)]
    return [*lines, "", *_next(folder, saes)]


def _facts(folder: Path, config: RunConfig, provenance: Mapping[str, Any]) -> dict[str, str]:
    """What was read, trained and spent, by name."""
    facts = {}
    if rows := provenance.get("rows"):
        facts["rows"] = str(rows.get("name", config.model.source))
    else:
        text, passes = config.text, config.training.n_passes
        times = "once" if passes == 1 else f"{passes} times"
        facts["model"] = f"{provenance.get('model', {}).get('name', config.model.source)}, {config.model.dtype}"
        facts["text"] = (
            f"{text.source}: {count_text(text.n_tokens)} tokens, read {times}, "
            f"{count_text(text.n_validation_tokens)} for validation, contexts of {text.context_length}"
        )
        facts["sites"] = sites_text(config.activations.sites)
    if config.architectures or taking_part(config):
        levels = ", ".join(map(setting_text, config.l0))
        sizes = f"L0 {levels}; {count_text(config.d_sae)} latents"
        facts["asked for"] = f"{', '.join(config.architectures)}; {sizes}" if config.architectures else sizes
        if len(config.seeds) > 1:
            facts["asked for"] += f"; seeds {', '.join(map(str, config.seeds))}"
    for room in taking_part(config):
        facts[room.name] = "takes part"
    changed = _changed(config)
    if changed:
        facts["other settings"] = ", ".join(changed)
    seconds = {stage: float(value) for stage, value in provenance.get("seconds", {}).items()}
    if seconds:
        facts["time"] = ", ".join(f"{stage} {duration_text(value)}" for stage, value in seconds.items())
    origin = [str(provenance.get(key)) for key in ("created", "machine") if provenance.get(key)]
    if version := provenance.get("versions", {}).get("monosemy"):
        origin.append(f"monosemy {version}")
    if origin:
        facts["made"] = ", ".join(origin)
    return facts


def _changed(config: RunConfig) -> list[str]:
    """Settings that are not the defaults, as their flags would be written, among those that no line shows."""
    ours, defaults = computed_settings(config), to_json(RunConfig())
    names = []
    for section, value in ours.items():
        if section in _SECTIONS:
            continue
        if not isinstance(value, dict):
            continue
        before = defaults.get(section, {})
        names += [
            f"{section}.{name} {' '.join(map(str, setting)) if isinstance(setting, list) else setting}"
            for name, setting in value.items()
            if setting != before.get(name) and (section, name) != ("training", "n_passes")
        ]
    return names


def _table(folder: Path, saes: Sequence[SavedSae]) -> list[str]:
    """A line for every SAE: its name, what was measured, whether its features are built.

    Columns that are empty for all of them are left out.
    """
    try:
        records = {(record["site"], record["name"]): record for record in read_evaluation(folder)["records"]}
    except UserError:
        records = {}
    files = RunFiles(folder)
    sort = "transcoder" if all(sae.is_transcoder for sae in saes) else "SAE"
    columns = [[sort, *(sae.label for sae in saes)]]
    for heading, measure, decimals in _MEASURES:
        values = [records.get(sae.key, {}).get(measure) for sae in saes]
        columns.append([heading, *(value_text(value, decimals=decimals) for value in values)])
    columns.append(["features built", *(_described(files, sae) for sae in saes)])
    columns = [column for column in columns if set(column[1:]) != {DASH}]
    remarks = ["", *(sae.remark for sae in saes)]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells, remark in zip(zip(*columns, strict=True), remarks, strict=True):
        aligned = [
            cell.rjust(width) if column[0] in _NUMBERS else cell.ljust(width)
            for column, cell, width in zip(columns, cells, widths, strict=True)
        ]
        lines.append(f"  {'  '.join(aligned).rstrip()}{remark}")
    return lines


def _described(files: RunFiles, sae: SavedSae) -> str:
    """Whether features of the SAE's present weights are built: `yes`, `outdated` if of others, `–` if none are."""
    features = files.features(*sae.key)
    if not features.info.exists():
        return DASH
    return "outdated" if describes_another(read_feature_info(features.folder), sae.folder) else "yes"


_MEASURES = (("L0", "l0", 1), ("FVU", "fvu", 3), ("Δ loss", "delta_loss", 3))
_NUMBERS = {heading for heading, _, _ in _MEASURES}


def _next(folder: Path, saes: Sequence[SavedSae]) -> list[str]:
    """What can be done with the run as it is."""
    files = RunFiles(folder)
    steps = []
    if any(True for _ in files.databases()):
        steps.append(("read the latents", f"monosemy browse {folder}"))
    elif saes:
        steps.append(("find out what the latents respond to", f"monosemy features {folder}"))
    if files.report.exists():
        steps.append(("the report", str(files.report)))
    if not files.evaluation.exists():
        steps.append(("train and measure the rest", f"monosemy train {folder}"))
    steps.append(("every setting", str(files.run_json)))
    width = max(len(name) for name, _ in steps)
    return [f"  {name + ':':{width + 1}}  {command}" for name, command in steps]
