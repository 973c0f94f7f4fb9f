"""Prepares what training and evaluation need: the model, the tokens, the activations and the drop rules."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig, computed_activations, fingerprint, taking_part
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_context, check_resources
from monosemy.pipeline.training_data import TrainingData, ValidationRows
from monosemy.rooms import load
from monosemy.run import Run
from monosemy.support import progress, ranks
from monosemy.support.estimates import HELD_ROWS_BYTES
from monosemy.support.moved import remember_sources

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from monosemy.activations.harvest import ActivationModel, DropRules
    from monosemy.activations.store import ActivationStore
    from monosemy.activations.stream import MixingStream, StoredStream
    from monosemy.activations.windows import WindowStream
    from monosemy.data.tokens import TokenSet
    from monosemy.models.adapter import LanguageModel


@dataclass
class Prepared(TrainingData):
    """A loaded model, its tokens and its activations, which are on disk (`store`) or made in training (no `store`)."""

    model: LanguageModel
    tokens: TokenSet
    sites: tuple[str, ...]
    store: ActivationStore | None
    _: KW_ONLY
    stream: StoredStream | MixingStream | WindowStream
    rules: DropRules
    scale: Mapping[str, float]
    config: RunConfig
    reader: ActivationModel
    """What reads activations: `model`, or another engine (models/engine.py)."""

    @property
    def device(self) -> torch.device:
        return trained_on(self.config, self.model)

    @property
    def source_name(self) -> str:
        return self.model.name

    def width(self, site: str) -> int:
        return self.model.site_width(site)

    @property
    def text_facts(self) -> dict[str, Any]:
        from monosemy.data.tokens import separator_and_bos

        text = self.config.text
        # The place of a local file is its owner's business.
        named = {} if Path(text.source).expanduser().exists() else {"dataset_path": text.source}
        starts_with_bos = separator_and_bos(self.model.tokenizer)[1] is not None
        return {"prepend_bos": starts_with_bos, "context_size": text.context_length, **named}

    @property
    def n_validation(self) -> int:
        return self.tokens.validation.n_tokens

    def validation(self) -> Iterator[ValidationRows]:
        """Yields the kept positions of the validation text, harvested by training's drop rules."""
        from monosemy.activations.harvest import harvest_rows

        settings = self.config.activations
        for part in harvest_rows(self.reader, self.tokens.validation, self.sites, settings, statistics=self.rules):
            yield ValidationRows(part.activations, part.document, part.n_tokens)

    @property
    def fingerprint(self) -> str:
        """A hash of the model, the whole text and the settings of activations."""
        if self.store is not None:
            return fingerprint([self.store.fingerprint, self.tokens.fingerprint])
        return fingerprint(
            [self.reader.fingerprint, self.tokens.fingerprint, computed_activations(self.config.activations)]
        )

    @property
    def fingerprints(self) -> dict[str, str]:
        """The separate fingerprints of what `fingerprint` covers."""
        parts = {"model": self.reader.fingerprint, "text": self.tokens.fingerprint}
        return parts | ({} if self.store is None else {"activations": self.store.fingerprint})

    def held_in(self, n_tokens: int, seed: int) -> dict[str, Tensor]:
        """About n_tokens training rows of every site, spread over the text, [n, d] at E‖x‖² = 1.

        Fewer where those of all sites together would take more than `HELD_ROWS_BYTES`.
        """
        import numpy as np

        row_bytes = 4 * sum(self.model.site_width(site) for site in self.sites)
        n_tokens = min(n_tokens, HELD_ROWS_BYTES // row_bytes)
        if self.store is not None:
            n = min(n_tokens, self.store.n_rows)
            # Sorted, so that each shard is read once and in order.
            return self.stored_rows(np.sort(np.random.default_rng(seed).choice(self.store.n_rows, n, replace=False)))
        rows = self._harvested(n_tokens, seed)
        return {site: (x / self.scale[site]).to(self.device) for site, x in rows.items()}

    def _harvested(self, n_tokens: int, seed: int) -> dict[str, Tensor]:
        """As `held_in`, in raw units and straight from the model: whole passes over randomly chosen sequences."""
        import numpy as np
        import torch

        from monosemy.activations.harvest import harvest_rows

        shards, settings = self.tokens.train, self.config.activations
        n_passes = math.ceil(n_tokens / (shards.context_length * settings.batch_sequences))
        # Whole passes that start where harvesting for a store would start them.
        firsts = np.arange(0, shards.n_sequences, settings.batch_sequences)
        first_sequences = np.sort(np.random.default_rng(seed).choice(firsts, min(n_passes, len(firsts)), replace=False))
        parts = [
            part
            for first in first_sequences.tolist()
            for part in harvest_rows(
                self.reader,
                shards,
                self.sites,
                settings,
                statistics=self.rules,
                start=first,
                stop=first + settings.batch_sequences,
            )
        ]
        return {site: torch.cat([part.activations[site].float().cpu() for part in parts]) for site in self.sites}


def trained_on(config: RunConfig, model: LanguageModel) -> torch.device:
    """The device on which SAEs are trained: the model's, unless another is named."""
    from monosemy.models.sources import choose_device

    return model.device if config.training.device == "auto" else choose_device(config.training.device)


def training_data(run: Run) -> TrainingData:
    """The activations of a run: those that a room brings, or else those of its model and text.

    Raises UserError as `prepare` does.
    """
    for room in taking_part(run.config):
        if room.activations:
            with ranks.first_alone():  # the others find what it has converted
                return load(room.activations)(run)
    return prepare(run)


@dataclass(frozen=True)
class Opened:
    """A run's model, checked sites and tokens, before any activations are made."""

    model: LanguageModel
    tokens: TokenSet
    sites: tuple[str, ...]
    _: KW_ONLY
    seconds: float
    """What opening took."""
    reader: ActivationModel
    """As in `Prepared`."""


def open_sources(run: Run) -> Opened:
    """Loads the model and tokenises the text, reusing what the cache holds. Raises UserError as `prepare` does."""
    from monosemy.data.tokens import prepare_tokens, separator_and_bos
    from monosemy.models.of_run import load_run_model, load_run_reader, refuse_change

    config = run.config
    if any(room.activations for room in taking_part(config)):
        raise UserError(
            f"{run.folder} was trained on rows without a language model, so there is no text to read; its report, "
            "`monosemy evaluate`, `features` and `browse` and monosemy.open_run work without one"
        )
    check_resources(run)
    ranks.barrier()  # all have looked at memory and disk before any of them fills them
    started = time.perf_counter()
    model = load_run_model(run.folder, config, run.provenance, run.moved)
    if config.text.context_length > model.max_positions:
        raise UserError(
            f"--text.context-length {config.text.context_length} is above the {model.max_positions} positions of "
            f"{model.name}; lower it to {model.max_positions} or less"
        )
    sites = tuple(dict.fromkeys(model.resolve(site) for site in config.activations.sites))
    reader = load_run_reader(model, run.folder, config, run.provenance, moved=run.moved)
    check_context(config, starts_with_bos=separator_and_bos(model.tokenizer)[1] is not None)
    began_with = run.provenance.get("text", {}).get("fingerprint")
    tokens = prepare_tokens(
        config.text,
        model.tokenizer,
        model.tokenizer_fingerprint,
        vocab_size=model.vocab_size,
        began_with=began_with,
        lies_at=run.source("text"),
    )
    refuse_change("the text", began_with, tokens.fingerprint, run.folder, flag="--text")
    read = {"model": reader.fingerprint, "text": tokens.fingerprint}
    ranks.agree("model or text", read, "give every rank the same files and settings")
    # Only places that have passed both checks are remembered.
    if ranks.is_first():
        remember_sources(run.folder, model=run.source("model"), text=run.source("text"))
    for remark in tokens.record.get("remarks", []):
        progress.say(f"text: {remark}")
    return Opened(model, tokens, sites, seconds=time.perf_counter() - started, reader=reader)


def prepare(run: Run, opened: Opened | None = None) -> Prepared:
    """Loads the model, tokenises the text and harvests the activations, reusing what the cache holds.

    `opened` are the run's model and tokens where they are at hand already.
    Raises UserError when memory or disk cannot hold the run, when the model or the text has changed since the run
    began, and for a run that has neither.
    """
    opened = opened or open_sources(run)
    started = time.perf_counter()
    prepared, dropped = _activations(run, opened)
    # Written once per set of activations: a continued run keeps the provenance that it began with.
    source = prepared.fingerprint
    if not run.stage_done("activations", source):
        run.add_provenance(**source_facts(opened), dropped_positions=dropped, scale=dict(prepared.scale))
        run.mark_done("activations", source, opened.seconds + time.perf_counter() - started)
    return prepared


def source_facts(opened: Opened) -> dict[str, Any]:
    """What a run's provenance says of its model and text."""
    model, tokens = opened.model, opened.tokens
    return {
        "model": {"name": model.name, "fingerprint": model.fingerprint, "commit": model.commit},
        "text": {"fingerprint": tokens.fingerprint, **tokens.record},
    }


def start_of(run: Run, opened: Opened, n_tokens: int) -> Prepared:
    """About the first `n_tokens` of a run alone, with their activations on disk, which the whole run then reuses."""
    from monosemy.activations.store import build_store

    config = run.config
    store = build_store(opened.reader, opened.tokens.train, opened.sites, config.activations, first_tokens=n_tokens)
    return _stored(config, dataclasses.replace(opened, tokens=opened.tokens.first(store.n_sequences)), store)


def _activations(run: Run, opened: Opened) -> tuple[Prepared, dict[str, int]]:
    """The prepared activations, and how many positions were dropped for each reason (empty while still unknown)."""
    from monosemy.activations.harvest import measure_sites
    from monosemy.activations.harvested_stream import RowSource
    from monosemy.activations.store import build_store
    from monosemy.activations.stream import MixingStream
    from monosemy.activations.windows import WindowStream

    config, model, tokens, sites = run.config, opened.model, opened.tokens, opened.sites
    reader = opened.reader
    settings, training = config.activations, config.training
    if settings.storage == "disk":
        store = build_store(reader, tokens.train, sites, settings)
        _close(reader)  # its memory is for the SAEs now
        return _stored(config, opened, store), store.record["n_dropped"]
    statistics = ranks.from_first(lambda: measure_sites(reader, tokens.train, sites, settings))
    source = RowSource(reader, tokens.train, sites, settings, statistics=statistics)
    stream: MixingStream | WindowStream
    if settings.storage == "windows":
        stream = WindowStream(
            source,
            run.files.windows(ranks.rank()),
            batch_tokens=training.batch_tokens,
            n_passes=training.n_passes,
            seed=config.text.seed,
            device=trained_on(config, model),
            n_sharing=ranks.n_local_ranks(),
        )
    else:
        stream = MixingStream(
            source, batch_tokens=training.batch_tokens, seed=config.text.seed, device=trained_on(config, model)
        )
    scale = {site: float(stream.scale[site]) for site in sites}
    prepared = Prepared(
        model, tokens, sites, None, stream=stream, rules=stream.rules, scale=scale, config=config, reader=reader
    )
    return prepared, {}


def _close(reader: ActivationModel) -> None:
    """Ends the engine that reads beside the model, if there is one; it starts again where it is needed."""
    from monosemy.models.engine import EngineReader

    if isinstance(reader, EngineReader):
        reader.close()


def _stored(config: RunConfig, opened: Opened, store: ActivationStore) -> Prepared:
    """The activations of a store, as training reads them."""
    from monosemy.activations.stream import StoredStream

    model, tokens, sites = opened.model, opened.tokens, opened.sites
    stream = StoredStream(
        store,
        sites,
        batch_tokens=config.training.batch_tokens,
        n_passes=config.training.n_passes,
        seed=config.text.seed,
        device=trained_on(config, model),
    )
    scale = {site: float(store.scale[site]) for site in sites}
    return Prepared(
        model, tokens, sites, store, stream=stream, rules=store.rules, scale=scale, config=config, reader=opened.reader
    )
