"""What the server holds: one model, the SAEs that steer and read it, recipes, latents to report, monitors.

Place on the path: run folders, words of the command line → [served model] → jobs → answering. Everything that a word of
the command line can get wrong is refused here, before the server answers anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.app.live import LiveModel, steering_scales
from monosemy.app.monitored import watched_sae
from monosemy.errors import UserError, unknown
from monosemy.models.adapter import LanguageModel
from monosemy.models.generation import PlacedEdit
from monosemy.monitors.monitor import read_monitors, resolved
from monosemy.saes.base import SparseAutoencoder
from monosemy.serving.answering import Hooks, Job, LatentRef
from monosemy.serving.reading import SaeReader, SiteWatch
from monosemy.serving.recipes import Recipe
from monosemy.steering.edits import LatentScales, Steering
from monosemy.steering.recipe import beside
from monosemy.steering.saes import SteeredSae, SteeringSaes, TextEdits
from monosemy.support.moved import Moved

MAX_LATENTS = 256
"""The largest number of latents that an answer reports."""
_LATENT = re.compile(r"(?:(?P<name>[^=]{1,64})=)?(?:(?P<sae>.+):)?(?P<latent>\d{1,9})")


@dataclass(frozen=True)
class ServedSae:
    """One SAE on the model's device."""

    entry: Dictionary
    sae: SparseAutoencoder
    scales: LatentScales
    n_first: int
    """Positions at the start of a text that training dropped."""

    @property
    def label(self) -> str:
        return self.entry.saved.label


@dataclass(frozen=True)
class Place:
    """A run folder, and the labels of the SAEs that are wanted of it."""

    folder: Path
    saes: tuple[tuple[str, str], ...]
    """(site, name) of each."""
    moved: Moved


class Served:
    """A model with its SAEs. Raises UserError for what the words of the command line get wrong.

    `kept_recipes` are those of the run: one that cannot be served, or whose name is taken, is left out and said in
    `left_out`.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        recipes: Sequence[Recipe] = (),
        kept_recipes: Sequence[Recipe] = (),
        latents: Iterable[str] = (),
        monitors: Iterable[Path] = (),
    ) -> None:
        self.live = LiveModel(Catalogue(places[0].folder, places[0].moved))
        self.live.require_text()
        # all that needs no weights is refused before the model is loaded
        self.entries = self._entries(places)
        self.latents = tuple(self.latent(words) for words in latents)
        read = [monitor for path in monitors for monitor in read_monitors(path)]
        _require_distinct("monitors", [monitor.name for monitor in read])
        self.monitors = tuple(resolved(read, [watched_sae(entry) for entry, _ in self.entries.values()]))
        self.recipes = {recipe.name: recipe for recipe in recipes}
        _require_distinct("recipes", [recipe.name for recipe in recipes])
        for recipe in recipes:
            for edit in recipe.edits:
                self._entry(edit.sae or recipe.sae).check_latent(edit.latent)
        self.model: LanguageModel = self.live.model()
        self.saes = self._load()
        for recipe in recipes:
            self.check_recipe(recipe)
        self.left_out: list[str] = []
        for recipe in kept_recipes:
            self._keep(recipe)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def first(self) -> ServedSae:
        return next(iter(self.saes.values()))

    def _keep(self, recipe: Recipe) -> None:
        """Adds a recipe of the run, or notes why it cannot be."""
        try:
            if recipe.name in self.recipes:
                raise UserError("another recipe has this name")
            self.check_recipe(recipe)
        except UserError as error:
            self.left_out.append(f"recipe {recipe.name!r} of the run is not served: {error}")
        else:
            self.recipes[recipe.name] = recipe

    def _entries(self, places: Sequence[Place]) -> dict[str, tuple[Dictionary, int]]:
        """The SAEs by label, each with the number of positions that training dropped at the start of a text."""
        entries: dict[str, tuple[Dictionary, int]] = {}
        own = self.live.catalogue.provenance.get("model", {}).get("fingerprint")
        for number, place in enumerate(places):
            catalogue = self.live.catalogue if number == 0 else Catalogue(place.folder, place.moved)
            if catalogue.provenance.get("model", {}).get("fingerprint") not in (None, own):
                raise UserError(
                    f"{place.folder} was made with another model than {places[0].folder}; serve the SAEs of one model"
                )
            for key in place.saes:
                entry = catalogue.sae(*key)
                label = entry.saved.label
                if entry.source_site is not None:
                    raise UserError(
                        f"{label} is a transcoder, whose latents read one site and write another; serve an SAE"
                    )
                if label in entries:
                    raise UserError(f"two SAEs are named {label}; serve one of them")
                entries[label] = entry, catalogue.config.activations.drop_first_positions
        return entries

    def _load(self) -> dict[str, ServedSae]:
        from monosemy.saes.storage import load_sae

        saes = {}
        for label, (entry, n_first) in self.entries.items():
            sae = load_sae(entry.folder, device=str(self.model.device))
            saes[label] = ServedSae(entry, sae, steering_scales(entry, sae), n_first)
        return saes

    def _entry(self, label: str) -> Dictionary:
        """The SAE of a label, the first for an empty one. Raises UserError for one that is not served."""
        if label and label not in self.entries:
            raise unknown("SAE", label, self.entries)
        return self.entries[label or next(iter(self.entries))][0]

    def sae(self, label: str) -> ServedSae:
        """As `_entry`, loaded."""
        return self.saes[self._entry(label).saved.label]

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises UserError for edits that cannot be made: of latents that are not there, in unknown units."""
        saes = self._steering_saes(recipe)
        for edit in recipe.edits:
            saes.resolve(edit)

    def _steering_saes(self, recipe: Recipe) -> SteeringSaes:
        """The SAEs whose latents the recipe's edits may name."""
        own = self.sae(recipe.sae)
        others = {label: SteeredSae(served.sae, served.scales) for label, served in self.saes.items()}
        return SteeringSaes(own.sae, own.scales, others)

    def latent(self, words: str) -> LatentRef:
        """The latent that `[NAME=][SITE/NAME:]LATENT` means. Raises UserError for other words, and one out of range."""
        match = _LATENT.fullmatch(words)
        if match is None:
            raise UserError(f"a latent is written [NAME=][SITE/NAME:]LATENT, e.g. july=12; got {words[:80]!r}")
        entry, number = self._entry(match["sae"] or ""), int(match["latent"])
        if number >= entry.d_sae:
            raise UserError(f"latent {number} is out of range: {entry.saved.label} has latents 0 to {entry.d_sae - 1}")
        return LatentRef(entry.saved.label, number, match["name"] or str(number), entry.labels([number])[0])

    def latents_of(self, recipe: Recipe | None) -> tuple[LatentRef, ...]:
        """The latents that answers report unless a request names others: those given, else those of the recipe."""
        if self.latents or recipe is None:
            return self.latents
        edited = ((self._entry(edit.sae or recipe.sae).saved.label, edit.latent) for edit in recipe.edits)
        return tuple(self.latent(f"{label}:{latent}") for label, latent in dict.fromkeys(edited))

    def hooks(self, job: Job, recipe: Recipe | None) -> Hooks:
        """The hooks of a job's edits and readers."""
        latents_by_label: dict[str, set[int]] = {}
        for label, latents in [
            *((ref.sae, [ref.latent]) for ref in job.latents),
            *((monitor.sae, monitor.latents) for monitor in job.monitors),
        ]:
            latents_by_label.setdefault(label, set()).update(latents)
        readers = {
            label: SaeReader(
                self.saes[label].sae,
                sorted(latents),
                longest=self.saes[label].scales.longest_edited,
                n_first=self.saes[label].n_first,
            )
            for label, latents in latents_by_label.items()
        }
        sites = {label: self.model.resolve(self.saes[label].sae.config.site) for label in readers}
        edits = self._edits(len(job.prompts), recipe)
        watches = {
            site: SiteWatch(edits.get(site), [reader for label, reader in readers.items() if sites[label] == site])
            for site in dict.fromkeys([*sites.values(), *edits])
        }
        return Hooks(watches, readers, sites, edited=recipe is not None)

    def _edits(self, n_texts: int, recipe: Recipe | None) -> Mapping[str, PlacedEdit]:
        if recipe is None:
            return {}
        edits = beside(recipe.edits, self.sae(recipe.sae).label)
        steering = Steering(edits, recipe.positions, recipe.keep_error)
        return TextEdits(self.model, self._steering_saes(recipe), [steering] * n_texts).hooks


def _require_distinct(kind: str, names: Sequence[str]) -> None:
    """Raises UserError for a name that occurs twice."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"several {kind} are named {name!r}; give each its own name")
