"""The feature stage: builds the feature databases of one or several SAEs in one pass over a run's text or rows.

It is `monosemy features RUN`, and the last stage of `monosemy demo`. What is read is a `FeatureSource`: the training
text (`feature_text`), or what a room brings in place of one. A database that was built from the same SAE, source and
settings is not built again.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig, fingerprint, taking_part
from monosemy.errors import UserError
from monosemy.pipeline.feature_source import N_TOKENS, FeatureRequest, FeatureSource
from monosemy.pipeline.feature_text import TextSource
from monosemy.pipeline.prepare import Prepared, training_data
from monosemy.pipeline.training_data import TrainingData
from monosemy.rooms import load
from monosemy.run import Run, open_run, read_run, require_weights, versions
from monosemy.saes.config_file import read_weights_sha256
from monosemy.saes.listing import Key, choose_sae
from monosemy.support import files, progress, ranks
from monosemy.support.flags import with_settings
from monosemy.support.moved import NOT_MOVED, Moved
from monosemy.support.numbers import fixed_text
from monosemy.support.shares import share_out

if TYPE_CHECKING:
    from monosemy.features.labels.embeddings import Encoder
    from monosemy.saes.base import SparseAutoencoder

_UNKNOWN_L0 = 100
"""For estimates only: the L0 of a published SAE that does not say its own."""


def build_features(
    folder: Path,
    saes: list[str] | None = None,
    n_tokens: int | None = None,
    embedding_model: str | Encoder | None = None,
    *,
    moved: Moved = NOT_MOVED,
    settings: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Builds the feature databases of SAEs, named as SITE/NAME or NAME, and returns their folders.

    saes: by default the JumpReLU SAE with the middle L0 of the first site, or, without JumpReLU, the SAE with the
    middle L0.
    n_tokens: of text, or rows; by default about 150,000, or all of them if there are fewer.
    embedding_model: a hub id or a folder of sentence-transformers, or an object like it; its vectors of windows are
    scored beside the labels.
    settings: settings of the run that only describe it, by dotted name, such as {"rows.text": "title"}; the run keeps
    them.
    Raises UserError for a folder that is not a run, an unknown SAE, an embedding model that cannot be loaded, too few
    tokens, too little disk, and features that are being built or explained at the moment.
    """
    config, _ = read_run(folder)
    with open_run(folder, with_settings(config, settings or {}), moved) as run:
        try:
            return build_for_run(run, saes, n_tokens, embedding_model=embedding_model)
        except UserError:
            run.relabel(config)  # a description that does not fit must not stay with the run
            raise


def build_for_run(
    run: Run,
    saes: list[str] | None = None,
    n_tokens: int | None = None,
    prepared: TrainingData | None = None,
    *,
    embedding_model: str | Encoder | None = None,
) -> list[Path]:
    """As `build_features`, for a run that is already open."""
    from monosemy.features.store.write import writing
    from monosemy.saes.storage import read_sae_config

    keys = ranks.from_first(lambda: choose_saes(run.folder, saes))
    n_tokens = N_TOKENS if n_tokens is None else n_tokens
    if n_tokens < 1:
        raise UserError(f"n_tokens must be at least 1, got {n_tokens}")
    require_weights(run.folder, *keys)
    folders = [run.files.features(*key).folder for key in keys]
    prepared = prepared or training_data(run)
    stage = _Stage(run, _source(run.config, prepared, FeatureRequest(n_tokens, embedding_model)))
    missing = ranks.from_first(lambda: [key for key in keys if not stage.built(key)])
    if missing:
        widths = [float(read_sae_config(run.files.sae(*key).folder).d_sae) for key in missing]
        owners = share_out(widths, ranks.n_ranks())
        own = [key for key, owner in zip(missing, owners, strict=True) if owner == ranks.rank()]
        with contextlib.ExitStack() as held:
            # The locks of all databases are taken first, so that a busy one is refused before the long pass.
            for key in own:
                held.enter_context(writing(run.files.features(*key).folder))
            ranks.barrier()
            if own:
                stage.build(own)
        ranks.barrier()
        if run.files.report.exists() and ranks.is_first():  # it shows what the latents respond to
            from monosemy.report.page import write_report

            write_report(run.folder)
    return folders


def choose_saes(folder: Path, names: Sequence[str] | None) -> list[Key]:
    """The (site, name) of the named SAEs, or of the default one. Raises UserError as `choose_sae` does."""
    saes = [choose_sae(folder, name) for name in names] if names else [choose_sae(folder)]
    return list(dict.fromkeys(sae.key for sae in saes))


def _source(config: RunConfig, prepared: TrainingData, request: FeatureRequest) -> FeatureSource:
    """The source of a run's features: a room's, or else its training text."""
    for room in taking_part(config):
        if room.features:
            source: FeatureSource = load(room.features)(prepared, request)
            return source
    assert isinstance(prepared, Prepared), "activations that a room brings need a source of features"
    return TextSource(prepared, request)


class _Stage:
    """The work of one call: the shared pass over the source, then a database for each SAE."""

    def __init__(self, run: Run, source: FeatureSource) -> None:
        self.run, self.source = run, source
        self.work = run.files.feature_work(ranks.rank())

    def fingerprint(self, key: Key) -> str:
        """The fingerprint of everything that a database depends on."""
        from monosemy.features.store.settings import FORMAT

        return fingerprint([FORMAT, *self.source.identity, self._sha(key)])

    def _sha(self, key: Key) -> str:
        return read_weights_sha256(self.run.files.sae(*key).folder)

    def built(self, key: Key) -> bool:
        """Whether an intact database exists that was built from the same SAE, source and settings."""
        from monosemy.features.store.database import FeatureDatabase

        try:
            database = FeatureDatabase.open(self.run.files.features(*key).folder)
        except UserError:
            return False
        return bool(database.info.get("fingerprint") == self.fingerprint(key))

    def build(self, keys: list[Key]) -> None:
        """Encodes the source with all SAEs in one pass, which continues an interrupted one, and builds the
        databases."""
        from monosemy.features.building.build import N_STEPS, build_database
        from monosemy.features.building.encode_pass import EncodePass
        from monosemy.saes.storage import load_sae

        self._check_disk(keys)
        source = self.source
        source.load()
        saes = {key: load_sae(self.run.files.sae(*key).folder).to(source.device) for key in keys}
        encode_pass = EncodePass(
            self.work,
            {key: self.fingerprint(key) for key in keys},
            saes,
            source.scale,
            n_sequences=source.n_sequences,
            context_length=source.context_length,
            window=source.window,
        )
        length = source.context_length
        total, done = source.n_sequences * length, encode_pass.n_sequences_done * length
        with progress.stage(f"features: reading the {source.name}", total=total, unit=source.unit, start=done) as bar:
            read_sites = {site for site, _ in keys} | {sae.source_site for sae in saes.values() if sae.source_site}
            encode_pass.run(source.reader(sorted(read_sites)), bar.advance)
        source.collect()
        for key, sae in saes.items():
            inputs = source.inputs(encode_pass, key, sae, self._info(key, sae))
            with progress.stage(f"features: {key[1]} at {key[0]}", total=N_STEPS, unit="steps") as bar:
                # Bound as a default, since the name `bar` is bound anew in each round of the loop.
                def advance(step: str, bar: Any = bar) -> None:
                    bar.note(step)
                    bar.advance(1)

                build_database(inputs, self.run.files.features(*key).folder, source.settings, advance=advance)
        shutil.rmtree(self.work, ignore_errors=True)

    def _info(self, key: Key, sae: SparseAutoencoder) -> dict[str, Any]:
        """The description of a database: its SAE and its source, as JSON values."""
        site, name = key
        return {
            "fingerprint": self.fingerprint(key),
            "site": site,
            "name": name,
            "architecture": sae.config.architecture,
            "l0": sae.config.l0 or None,
            "d_sae": sae.d_sae,
            "d_in": sae.d_in,
            "seed": sae.config.seed,
            "frozen_decoder": sae.config.frozen_decoder,
            "sae_sha256": self._sha(key),
            "scale": float(self.source.scale[site]),
            "unit": self.source.unit,
            **self.source.info(site),
            "versions": versions(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _check_disk(self, keys: list[Key]) -> None:
        """Raises UserError when the disk is too small.

        Codes take 4 + 8·L0 bytes a token, a database some 4 KB a latent, and the rest 6 bytes a token.
        """
        from monosemy.saes.storage import read_sae_config

        configs = [read_sae_config(self.run.files.sae(*key).folder) for key in keys]
        n_tokens = self.source.n_sequences * self.source.context_length
        needed = sum(
            n_tokens * (4 + 8 * (config.l0 or _UNKNOWN_L0)) + 4096 * config.d_sae + 6 * n_tokens for config in configs
        )
        if needed > (free := files.free_bytes(self.run.folder)):
            raise UserError(
                f"the features need {fixed_text(needed / 1e9, 2)} GB in {self.run.folder} and "
                f"{fixed_text(free / 1e9, 2)} GB are free; free space, or ask for fewer SAEs or tokens"
            )
