"""Loads the model that a run was made with, from wherever it is now.

Place on the path: run folder → [model] → evaluation, features, steering, pages. The model keeps the name that it had
when the run began. It is refused if it is not the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.models.placement import Placement
from monosemy.models.sources import load_model
from monosemy.support.moved import NOT_MOVED, Moved, find_source

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.models.engine import EngineReader


def load_run_model(
    folder: Path, config: RunConfig, provenance: Mapping[str, Any], moved: Moved = NOT_MOVED
) -> LanguageModel:
    """The model of a run. Raises UserError when it is not found, naming the flag for its path, when it changed, and for
    a run on rows, which has none."""
    if "rows" in provenance:
        raise UserError(f"{folder} was trained on rows without a language model, so there is none that reads or writes")
    settings, began_with = config.model, provenance.get("model", {})
    source = find_source(folder, config, provenance, "model", moved=moved)
    model = load_model(
        source,
        revision=settings.revision or began_with.get("commit"),
        dtype=settings.dtype,
        device=settings.device,
        randomise=settings.randomise,
        placement=Placement(settings.device_map, settings.weights),
    )
    if source != settings.source:
        model.name = settings.source + model.name.removeprefix(source)
    refuse_change("the model", began_with.get("fingerprint"), model.fingerprint, folder, flag="--model")
    return model


def load_run_reader(
    model: LanguageModel, folder: Path, config: RunConfig, provenance: Mapping[str, Any], *, moved: Moved
) -> LanguageModel | EngineReader:
    """What reads the activations of a run: its model, loaded already, or another engine with the same weights.

    Raises UserError for what that engine cannot do.
    """
    from monosemy.models.engine import TRANSFORMERS, EngineReader

    if config.model.backend == TRANSFORMERS:
        return model
    source = find_source(folder, config, provenance, "model", moved=moved)
    return EngineReader(
        model, source, config.model, sites=config.activations.sites, context_length=config.text.context_length
    )


def refuse_change(subject: str, before: str | None, now: str, folder: Path, *, flag: str) -> None:
    """Raises UserError when a run's model or text has another fingerprint than at the run's beginning."""
    if before not in (None, now):
        raise UserError(
            f"{subject} has changed since this run was made (run {folder}: fingerprint {before} then, {now} now); "
            f"restore it, say where the old one is ({flag} PATH), or choose another run folder"
        )
