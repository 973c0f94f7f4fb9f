"""Finds the run that stands for an SAE given to a command in place of one, and makes it where it is not there yet.

Place on the path: `monosemy evaluate|features|browse|steer|show SAE` → [run folder] → the command, as on any run. What
a command finds out about an SAE needs a place (measurements, features, notes, labels), a model, a site and a text: that
is a run. It is runs/NAME-HASH, of which the hash covers the SAE's files, its model and site and the text, so that the
same words find the same run again, and others get another.
"""

from __future__ import annotations

import re
from pathlib import Path

from monosemy.config import TextConfig, fingerprint
from monosemy.errors import UserError
from monosemy.layout import RunFiles, SaeFiles
from monosemy.pipeline.imported import ImportSettings, describe_publication, import_saes, model_of, site_name
from monosemy.run import near_runs, runs_inside
from monosemy.saes.listing import saved_saes

_FOLDER = Path("runs")


def run_of_sae(source: str, settings: ImportSettings) -> tuple[Path, str]:
    """(the folder of the SAE's run, the SAE's `SITE/NAME` in it).

    source: what `load_sae` takes. An SAE in the folder of a run belongs to that run. Raises UserError as `import_saes`
    does, and for a source that is neither a run nor an SAE.
    """
    place = _sae_place(source)
    if place is not None and (run := SaeFiles(place.absolute()).run):
        files = SaeFiles(place.absolute())
        return run.folder, f"{files.site}/{files.name}"
    try:
        publication = describe_publication(source)
    except UserError as error:
        # A mistyped run folder looks like a name on the hub.
        if place is None and not source.startswith("hf://"):
            near = near_runs(Path(source))
            raise UserError(f"{source} is not a run folder here; {near}taken as a name on the hub: {error}") from None
        raise
    model, site = model_of(publication, settings.model), site_name(publication, settings.site)
    text = settings.text or TextConfig.source
    covered = [publication.content, model, site, text, settings.n_tokens, settings.n_validation_tokens]
    folder = _FOLDER / f"{_short(source)}-{fingerprint(covered)[:8]}"
    # A run without its SAE is what an interrupted import leaves behind.
    if not RunFiles(folder).run_json.is_file() or not saved_saes(folder):
        import_saes([source], folder, settings)
    return folder, saved_saes(folder)[0].label


def _sae_place(source: str) -> Path | None:
    """The local folder or file of an SAE; None for a name on the hub. Raises UserError when it is neither."""
    from monosemy.saes.formats import LAYOUTS, OWN, layout_of
    from monosemy.saes.formats.hub import hub_name
    from monosemy.saes.storage import is_local

    if not is_local(source) and hub_name(source):
        return None
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"{source} is not a run folder (it has no run.json), nor an SAE; {near_runs(path)}give a run's or an SAE's "
            "folder, or a name on the hub, OWNER/REPOSITORY/PATH, which monosemy catalogue lists"
        )
    no_run = f"{source} is not a run folder (it has no run.json)"
    if runs_inside(path):
        raise UserError(f"{no_run}; {near_runs(path)}give one, or one of its SAEs")
    try:
        layout, place = layout_of(path)
    except UserError as error:
        raise UserError(f"{no_run}, and {error}") from None
    if not layout.recognises(place):
        raise UserError(
            f"{no_run}, and no SAE of a layout that is read ({', '.join(name for name in LAYOUTS if name != OWN)}); "
            "give the folder that a run or an SAE was written to"
        )
    return place


def _short(source: str) -> str:
    """The end of an SAE's name, fit for the name of a folder: `gemma-scope-2b-pt-res-layer_20-width_16k`."""
    words = re.sub(r"[^\w.-]+", "-", re.sub(r"^hf://|@.*$", "", source)).strip("-.")
    return words[-60:].lstrip("-._") or "sae"
