"""Adds SAEs that were published elsewhere to a run, so that they are measured and shown like those trained here.

Place on the path: SAEs of any layout (`saes.formats`) → [checks] → saes/SITE/NAME of a run → evaluation, features,
report. A new run has a model, a text and the SAEs' sites, and trains nothing. In a run that trained SAEs, they join
them at one of its sites. A transcoder needs both its sites there, and stands at the one that it gives. Nothing is
measured here: `monosemy evaluate RUN` does that, over the same text and positions for all. What may make an SAE's
numbers there differ from its publisher's is saved with it, as warnings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    fingerprint,
    identity,
    trains_nothing,
)
from monosemy.errors import UserError
from monosemy.layout import RunFiles, SaeFiles
from monosemy.pipeline.training import trained
from monosemy.ranges import number_name
from monosemy.run import Run, open_run, read_run
from monosemy.saes.listing import SKIP_TRANSCODER, TRANSCODER, label_of, saved_saes
from monosemy.support import files

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SaeConfig

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")


@dataclass(frozen=True)
class ImportSettings:
    """What the user says about SAEs and their run; what is empty comes from the SAEs, or from the run they join."""

    model: str = ""
    site: str = ""
    text: str = ""
    name: str = ""
    """What tables and figures call them; by default `published_` and the architecture."""
    input_scale: float | None = None
    """The factor of their input, for SAEs whose files leave it out."""
    n_tokens: int = TextConfig.n_tokens
    """Training tokens of a new run's text, which features read."""
    n_validation_tokens: int = TextConfig.n_validation_tokens
    n_loss_tokens: int = EvaluationConfig.n_loss_tokens


@dataclass(frozen=True)
class Publication:
    """An SAE as its files describe it, before its weights are read."""

    source: str
    """What the user typed: what `load_sae` takes."""
    config: SaeConfig
    content: str
    """A hash of its files, wherever they lie."""

    @property
    def transcoder(self) -> bool:
        return self.config.transforms.transcoder


class SitePair(NamedTuple):
    """The sites of an SAE in the model's own words."""

    read: str
    measured: str
    """The same site; of a transcoder the one that it gives."""


def import_saes(sources: Sequence[str], folder: Path, settings: ImportSettings) -> list[SaeFiles]:
    """Adds SAEs to the run in `folder`, which is made if it is not there; returns their files in it.

    Raises UserError, before anything is written, for a model or site that neither SAE nor user names; for a transcoder
    that does not say which site it gives; for a site that the model or the run lacks; for a wrong width; for a run of
    another model or text, of rows, or not trained to the end; and for a name in use.
    """
    from monosemy.models.of_run import load_run_model
    from monosemy.models.sources import load_model
    from monosemy.saes.storage import load_sae, save_sae

    folder = folder.expanduser()
    joins = RunFiles(folder).run_json.is_file()
    publications = [describe_publication(source, settings.input_scale) for source in sources]
    if joins:
        config, provenance = read_run(folder)
        _refuse_other_source(folder, config, settings)
        model = load_run_model(folder, config, provenance)
    else:
        config = _new_config(publications, settings)
        _check_text(config.text)
        model = load_model(config.model.source)
    sites = [_sites(publication, settings, model) for publication in publications]
    if joins:
        _refuse_other_site(folder, config, sites, model)
    else:
        # Nothing is trained, so activations are read when they are needed and none is kept.
        names = dict.fromkeys(name for pair in sites for name in pair)
        activations = ActivationsConfig(sites=tuple(names), storage="stream")
        config = dataclasses.replace(config, activations=activations)
    with open_run(folder, config) as run:
        places = _places(run, publications, sites, settings.name)
        for publication, pair, place in zip(publications, sites, places, strict=True):
            sae = load_sae(publication.source, input_scale=settings.input_scale)
            record = {
                "source": publication.source,
                "content": publication.content,
                "warnings": _warnings(publication.config, pair, model),
            }
            sae.config = dataclasses.replace(
                sae.config, site=pair.read, record={**sae.config.record, "imported": record}
            )
            if publication.transcoder:
                sae.config = dataclasses.replace(sae.config, site_out=pair.measured)
            save_sae(sae, place.folder)
        if trains_nothing(config) and not run.stage_done("training", identity(config)):
            run.mark_done("training", identity(config), 0.0, {"n_tokens": 0, "saes": []})
    return places


def describe_publication(source: str, input_scale: float | None = None) -> Publication:
    """Reads what an SAE's files say of it. Raises UserError as `load_sae` does."""
    from monosemy.saes.formats import files_of, layout_of
    from monosemy.saes.storage import locate, with_input_scale

    layout, place = layout_of(locate(source)[0])
    config = layout.config(place)
    if input_scale is not None:
        config = with_input_scale(config, input_scale)
    content = fingerprint({name: files.sha256(path) for name, path in files_of(layout, place).items()})
    return Publication(source, config, content)


def model_of(publication: Publication, typed: str) -> str:
    """The source of the SAE's model: what was typed, or what the SAE says. Raises UserError where both are empty."""
    from monosemy.models.embedded import NAME
    from monosemy.models.sources import EMBEDDED

    name = typed or publication.config.model
    if not name:
        raise UserError(
            f"{publication.source} does not say which model it is of; name it, e.g. --model google/gemma-2-2b"
        )
    return EMBEDDED if name == NAME else name


def site_name(publication: Publication, typed: str) -> str:
    """The SAE's site, in our words: what was typed, or what the SAE says. Raises UserError where both are empty."""
    from monosemy.support.hook_names import site_of_hook

    name = typed or publication.config.site
    if not name:
        hook = publication.config.record.get("origin", {}).get("hook")
        reason = f"names a hook that is no site here ({hook})" if hook else "does not say which site it reads"
        raise UserError(f"{publication.source} {reason}; name the site, e.g. --site layers.12.resid_post")
    return site_of_hook(name) or name


def _sites(publication: Publication, settings: ImportSettings, model: LanguageModel) -> SitePair:
    """Its sites. Raises UserError where the model lacks one or has another width there, or it does not say which."""
    from monosemy.evals.reconstruction import require_width

    site = model.resolve(site_name(publication, settings.site))
    require_width(publication.source, publication.config.d_in, site, model.site_width(site))
    if not publication.transcoder:
        return SitePair(site, site)
    if not publication.config.site_out:
        raise UserError(
            f"{publication.source} is a transcoder and does not say which site it gives; write the name of that site "
            "into its configuration, or load it in Python and set config.site_out"
        )
    given = model.resolve(publication.config.site_out)
    require_width(
        publication.source, publication.config.d_out or publication.config.d_in, given, model.site_width(given)
    )
    return SitePair(site, given)


def _new_config(publications: Sequence[Publication], settings: ImportSettings) -> RunConfig:
    """The configuration of a run that trains nothing, still without its sites."""
    models = {model_of(publication, settings.model): publication.source for publication in publications}
    if len(models) > 1:
        raise UserError(
            f"the SAEs are of several models: {', '.join(models)}; a run has one, so import them into a run for each"
        )
    return RunConfig(
        recipe="import",
        model=ModelConfig(source=next(iter(models))),
        text=TextConfig(
            source=settings.text or TextConfig.source,
            n_tokens=settings.n_tokens,
            n_validation_tokens=settings.n_validation_tokens,
        ),
        architectures=(),
        l0=(),
        d_sae=max(publication.config.d_sae for publication in publications),
        evaluation=EvaluationConfig(n_loss_tokens=settings.n_loss_tokens, frozen_random=False),
    )


def _check_text(text: TextConfig) -> None:
    """Raises UserError for a text that is not there, before a run is made that could read nothing."""
    from monosemy.data.corpora import open_sources

    if not text.source.startswith("embedded"):
        open_sources(text)


def _refuse_other_source(folder: Path, config: RunConfig, settings: ImportSettings) -> None:
    if "rows" in read_run(folder)[1]:
        raise UserError(
            f"{folder} was trained on rows without a language model, so an SAE of a model has no site in it; import "
            "into a new run folder"
        )
    for kind, value, of_run in (
        ("model", settings.model, config.model.source),
        ("text", settings.text, config.text.source),
    ):
        if value and value != of_run:
            raise UserError(
                f"run {folder} is of {kind} {of_run}, not {value}; leave --{kind} out, or choose a new run folder"
            )


def _refuse_other_site(folder: Path, config: RunConfig, sites: Sequence[SitePair], model: LanguageModel) -> None:
    of_run = [model.resolve(name) for name in config.activations.sites]
    for pair in sites:
        missing = [site for site in dict.fromkeys(pair) if site not in of_run]
        if missing and pair.read != pair.measured:
            raise UserError(
                f"run {folder} has no site {missing[0]}, only {', '.join(of_run)}, and a transcoder needs both that it "
                f"reads and that it gives; import into a new run folder"
            )
        for site in missing:
            raise UserError(
                f"run {folder} has no site {site}, only {', '.join(of_run)}; import into a new run folder, or measure "
                f"it there all the same with --site {of_run[0]}"
            )


def _warnings(sae: SaeConfig, sites: SitePair, model: LanguageModel) -> list[str]:
    """What may make the SAE's numbers on this model, site and text differ from its publisher's."""
    from monosemy.data.tokens import separator_and_bos

    origin = sae.record.get("origin", {})
    warnings = [str(origin["warning"])] if origin.get("warning") else []
    if sae.model and PurePath(sae.model).name.lower() != PurePath(model.name).name.lower():
        warnings.append(f"it is of {sae.model}, and its numbers on {model.name} say little")
    if sae.site and model.resolve(sae.site) != sites.read:
        warnings.append(f"it is of {sae.site}, and its numbers at {sites.read} say little")
    has_bos = separator_and_bos(model.tokenizer)[1] is not None
    if origin.get("prepend_bos") is True and not has_bos:
        warnings.append("it was trained on texts that begin with BOS, and those of this run do not")
    if origin.get("prepend_bos") is False and has_bos:
        warnings.append("it was trained on texts without BOS, and those of this run begin with it")
    return warnings


def _places(run: Run, publications: Sequence[Publication], sites: Sequence[SitePair], name: str) -> list[SaeFiles]:
    """Where the SAEs are saved: NAME-l0_L0 at the sites where they are measured, or NAME where no L0 was published.

    SAEs of one name, width and site are a line of the figures, one point for each L0.
    """
    if not run.created and not trained(run):
        raise UserError(f"{run.folder} is not trained to the end; train it first: monosemy train {run.folder}")
    if name and not _NAME.fullmatch(name):
        raise UserError(f"--name {name!r} has other characters than letters, digits, '_' and '.'; e.g. gemma_scope")
    if not name:
        _refuse_doubles(run, publications, sites)
    places: list[SaeFiles] = []
    widths = _widths(run)
    for publication, (_, site) in zip(publications, sites, strict=True):
        sae = publication.config
        label = name or _free_label(run, publication, site, places, widths=widths)
        place = run.files.sae(site, _folder_name(label, sae))
        if name and (_reserved(run, label, site) or place.folder.exists() or place in places):
            raise UserError(f"--name {name} is in use at {site} ({place.name}); choose another, e.g. --name {name}_2")
        widths[site, label] = sae.d_sae
        places.append(place)
    return places


def _folder_name(label: str, sae: SaeConfig) -> str:
    return f"{label}-l0_{number_name(sae.l0)}" if sae.l0 else label


def _refuse_doubles(run: Run, publications: Sequence[Publication], sites: Sequence[SitePair]) -> None:
    """Raises UserError for an SAE that is in the run already, or is named twice; its files tell, not its path."""
    labels = {(sae.site, sae.imported["content"]): sae.label for sae in saved_saes(run.folder) if sae.imported}
    for publication, (_, site) in zip(publications, sites, strict=True):
        label = labels.get((site, publication.content))
        if label:
            raise UserError(
                f"{publication.source} is in the run already, as {label}; to have it twice, name it, e.g. --name again"
            )
        if label is not None:
            raise UserError(f"{publication.source} is named twice; name each SAE once")
        labels[site, publication.content] = ""


def _widths(run: Run) -> dict[tuple[str, str], int]:
    """The number of latents of the imported SAEs, by site and label."""
    return {(sae.site, sae.kind): int(sae.config["d_sae"]) for sae in saved_saes(run.folder) if sae.imported}


def _reserved(run: Run, label: str, site: str) -> bool:
    """Whether the label is that of an architecture, a control or a trained SAE at the site."""
    from monosemy.report.theme import CONTROLS
    from monosemy.saes.registry import ARCHITECTURES

    trained_labels = {label_of(sae.name) for sae in saved_saes(run.folder) if sae.site == site and not sae.imported}
    return label in {*ARCHITECTURES, *CONTROLS, *trained_labels}


def _free_label(
    run: Run,
    publication: Publication,
    site: str,
    places: Sequence[SaeFiles],
    *,
    widths: dict[tuple[str, str], int],
) -> str:
    """`published_ARCHITECTURE`, with a number behind it where an SAE of that name, or of another width, is there.

    A transcoder's is `published_transcoder_ARCHITECTURE`.
    """
    sae_config, number = publication.config, 1
    prefix = (SKIP_TRANSCODER if sae_config.transforms.skip else TRANSCODER) if publication.transcoder else ""
    while True:
        label = f"published_{prefix}{sae_config.architecture}" + (f"_{number}" if number > 1 else "")
        place = run.files.sae(site, _folder_name(label, sae_config))
        same_width = widths.get((site, label), sae_config.d_sae) == sae_config.d_sae
        if same_width and not place.folder.exists() and place not in places:
            return label
        number += 1
