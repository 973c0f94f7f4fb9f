"""Opens transcoders by where they lie: a run, a circuit-tracer set, or files and names one by one.

Place on the path: paths → [SAEs with two sites] → `transcoders.match_layers`.

Of a run, each layer gives the transcoder that `saes.listing.default_sae` would choose among those at its site, or the
one of the asked name; controls never take part by themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

from monosemy.errors import UserError, unknown
from monosemy.layout import RUN_JSON
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.listing import SavedSae, default_sae, saved_saes
from monosemy.saes.storage import load_sae
from monosemy.support.wording import sites_text

_SET_FILE = re.compile(r"layer_(\d+)\.safetensors")


def open_transcoders(source: str | Path, name: str | None = None) -> list[SparseAutoencoder]:
    """The transcoders of a run folder, of a folder of a circuit-tracer set, or the one of any other SAE's place.

    name: which of a run's transcoders to take at every site, where it has several. Raises UserError when there are
    none.
    """
    folder = Path(source).expanduser()
    if (folder / RUN_JSON).is_file():
        return [load_sae(saved.folder) for saved in run_transcoders(folder, name)]
    if folder.is_dir() and (files := set_files(folder)):
        return [load_sae(file) for file in files]
    return [load_sae(source)]


def set_files(folder: Path) -> list[Path]:
    """The files of a circuit-tracer set in a folder, layer by layer."""
    matches = [(int(match[1]), path) for path in folder.iterdir() if (match := _SET_FILE.fullmatch(path.name))]
    return [path for _, path in sorted(matches)]


def run_transcoders(folder: Path, name: str | None = None) -> list[SavedSae]:
    """One transcoder for each site of a run that has any. Raises UserError when none has, or none of that name."""
    saes = [sae for sae in saved_saes(folder) if sae.is_transcoder]
    if not saes:
        others = saved_saes(folder)
        sites = f"at {sites_text(sae.site for sae in others)}" if others else "none at all"
        raise UserError(
            f"{folder} holds no transcoders, which a graph needs (its SAEs: {sites}); train them with monosemy train "
            "transcoders, or give a circuit-tracer set (--transcoders FOLDER)"
        )
    if name is not None and name not in {sae.name for sae in saes}:
        raise unknown("transcoder", name, dict.fromkeys(sae.name for sae in saes))
    by_site: dict[str, list[SavedSae]] = {}
    for sae in saes:
        if name in (None, sae.name):
            by_site.setdefault(sae.site, []).append(sae)
    return [default_sae(folder, of_site) if name is None else of_site[0] for of_site in by_site.values()]


def open_controls(folder: Path, name: str | None = None) -> list[SparseAutoencoder]:
    """The trained controls (frozen random decoder) at the sites of a run's transcoders, nearest in L0; [] without any.

    Only where every one of the sites has a control is there a set of them.
    """
    saved = [sae for sae in saved_saes(folder) if sae.is_transcoder and sae.control and not sae.stopped]
    controls: list[SavedSae] = []
    for sae in run_transcoders(folder, name):
        at_site = [control for control in saved if control.site == sae.site]
        if not at_site:
            return []
        controls.append(min(at_site, key=lambda control: abs(_l0(control) - _l0(sae))))
    return [load_sae(control.folder) for control in controls]


def _l0(sae: SavedSae) -> float:
    return float(sae.config.get("l0") or 0)
