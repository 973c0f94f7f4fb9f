"""The feature stage: builds the feature databases of one or several SAEs in one pass over the text.

It is `monosemy features RUN`, and the last stage of `monosemy demo`. The text is the run's training text, because the
validation text is a tenth of what a latent needs. It is read from the start, at the positions that training kept. If
the run's activations are on disk, they are read from there, in the number format in which they were stored; otherwise
the model runs. A database that was built from the same SAE, text and settings is not built again.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.config import fingerprint
from monosemy.errors import UserError
from monosemy.pipeline.prepare import Prepared, prepare
from monosemy.run import Run, open_run, read_run, require_weights, versions
from monosemy.saes.config_file import read_weights_sha256
from monosemy.saes.listing import Key, choose_sae
from monosemy.support import files, progress
from monosemy.support.moved import NOT_MOVED, Moved
from monosemy.support.numbers import fixed_text

if TYPE_CHECKING:
    from monosemy.data.tokens import TokenSet
    from monosemy.features.building.build import FeatureInputs
    from monosemy.features.building.by_latent import Text
    from monosemy.features.building.encode_pass import EncodePass, ShardRows
    from monosemy.features.labels.embeddings import Encoder
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder

N_TOKENS = 150_000
_SIGMA_SEQUENCES = 8
_UNKNOWN_L0 = 100
"""For estimates only: the L0 of a published SAE that does not say its own."""


def build_features(
    folder: Path,
    saes: list[str] | None = None,
    n_tokens: int | None = None,
    embedding_model: str | Encoder | None = None,
    *,
    moved: Moved = NOT_MOVED,
) -> list[Path]:
    """Builds the feature databases of SAEs, named as SITE/NAME or NAME, and returns their folders.

    saes: by default the JumpReLU SAE with the middle L0 of the first site, or, without JumpReLU, the SAE with the
    middle L0.
    n_tokens: by default about 150,000; the whole training text if that is shorter.
    embedding_model: a hub id or a folder of sentence-transformers, or an object like it; its vectors of windows are
    scored beside the labels.
    Raises UserError for a folder that is not a run, an unknown SAE, an embedding model that cannot be loaded, too few
    tokens, too little disk, and features that are being built or explained at the moment.
    """
    config, _ = read_run(folder)
    with open_run(folder, config, moved) as run:
        return build_for_run(run, saes, n_tokens, embedding_model=embedding_model)


def build_for_run(
    run: Run,
    saes: list[str] | None = None,
    n_tokens: int | None = None,
    prepared: Prepared | None = None,
    *,
    embedding_model: str | Encoder | None = None,
) -> list[Path]:
    """As `build_features`, for a run that is already open."""
    from monosemy.features.store.write import writing

    keys = choose_saes(run.folder, saes)
    n_tokens = N_TOKENS if n_tokens is None else n_tokens
    if n_tokens < 1:
        raise UserError(f"n_tokens must be at least 1, got {n_tokens}")
    require_weights(run.folder, *keys)
    folders = [run.files.features(*key).folder for key in keys]
    prepared = prepared or prepare(run)
    stage = _Stage(run, prepared, n_tokens, embedding_model)
    missing = [key for key in keys if not stage.built(key)]
    if missing:
        with contextlib.ExitStack() as held:
            # The locks of all databases are taken first, so that a busy one is refused before the long pass.
            for key in missing:
                held.enter_context(writing(run.files.features(*key).folder))
            stage.build(missing)
    return folders


def choose_saes(folder: Path, names: Sequence[str] | None) -> list[Key]:
    """The (site, name) of the named SAEs, or of the default one. Raises UserError as `choose_sae` does."""
    saes = [choose_sae(folder, name) for name in names] if names else [choose_sae(folder)]
    return list(dict.fromkeys(sae.key for sae in saes))


class _Stage:
    """The work of one call: the shared pass over the text, then a database for each SAE."""

    def __init__(
        self, run: Run, prepared: Prepared, n_tokens: int, embedding_model: str | Encoder | None = None
    ) -> None:
        from monosemy.features.labels.embeddings import model_name
        from monosemy.features.store.settings import FeatureSettings

        self.run, self.prepared = run, prepared
        shards = prepared.tokens.train
        self.length = shards.context_length
        self.n_sequences = min(shards.n_sequences, -(-n_tokens // self.length))
        # The largest window, up to the default, that divides a sequence into whole windows.
        window = next(w for w in range(min(FeatureSettings.window, self.length), 0, -1) if self.length % w == 0)
        self.settings = FeatureSettings(window=window)
        self.embedding_model = embedding_model
        self.embedding_name = model_name(embedding_model) if isinstance(embedding_model, str) else None
        if embedding_model is not None and not isinstance(embedding_model, str):
            self.embedding_name = embedding_model.name
        self.work = run.files.feature_work

    def fingerprint(self, key: Key) -> str:
        """The fingerprint of everything that a database depends on."""
        from monosemy.features.labels.labelling import LABELS_VERSION
        from monosemy.features.store.settings import FORMAT

        settings = [asdict(self.settings), LABELS_VERSION, self.embedding_name]
        return fingerprint([FORMAT, self.prepared.fingerprint, self.n_sequences, *settings, self._sha(key)])

    def _sha(self, key: Key) -> str:
        return read_weights_sha256(self.run.files.sae(*key).folder)

    def built(self, key: Key) -> bool:
        """Whether an intact database exists that was built from the same SAE, text and settings."""
        from monosemy.features.store.database import FeatureDatabase

        try:
            database = FeatureDatabase.open(self.run.files.features(*key).folder)
        except UserError:
            return False
        return bool(database.info.get("fingerprint") == self.fingerprint(key))

    def build(self, keys: list[Key]) -> None:
        """Encodes the text with all SAEs in one pass, which continues an interrupted one, and builds the databases."""
        from monosemy.features.building.build import N_STEPS, build_database
        from monosemy.features.building.encode_pass import EncodePass
        from monosemy.saes.storage import load_sae

        self._check_disk(keys)
        # Loaded first, so that a wrong name is refused before the long pass.
        encoder = self._encoder()
        saes = {key: load_sae(self.run.files.sae(*key).folder).to(self.prepared.model.device) for key in keys}
        identity = {key: self.fingerprint(key) for key in keys}
        encode_pass = EncodePass(
            self.work,
            identity,
            saes,
            self.prepared.scale,
            n_sequences=self.n_sequences,
            context_length=self.length,
            window=self.settings.window,
        )
        total, done = self.n_sequences * self.length, encode_pass.n_sequences_done * self.length
        with progress.stage("features: reading the text", total=total, unit="tokens", start=done) as bar:
            encode_pass.run(self._reader(sorted({site for site, _ in keys})), bar.advance)
        shared = SharedText(self.prepared.model, self.prepared.tokens, self.n_sequences, self.settings.window)
        if encoder is not None:
            shared.embed(encoder)
        for key, sae in saes.items():
            inputs = shared.inputs(encode_pass, key, sae, self._info(key, sae))
            with progress.stage(f"features: {key[1]} at {key[0]}", total=N_STEPS, unit="steps") as bar:
                # Bound as a default, since the name `bar` is bound anew in each round of the loop.
                def advance(step: str, bar: Any = bar) -> None:
                    bar.note(step)
                    bar.advance(1)

                build_database(inputs, self.run.files.features(*key).folder, self.settings, advance=advance)
        shutil.rmtree(self.work, ignore_errors=True)

    def _encoder(self) -> Encoder | None:
        """The embedding model, loaded before the long work begins."""
        from monosemy.features.labels.embeddings import SentenceModel

        named = self.embedding_model
        return SentenceModel(named) if isinstance(named, str) else named

    def _reader(self, sites: list[str]) -> Callable[[int, int], Iterable[ShardRows]]:
        """A function that yields the kept rows of sequences `start` to `stop`, from the store or from the model."""
        from monosemy.features.building.encode_pass import ShardRows

        prepared, store = self.prepared, self.prepared.store
        if store is not None:
            # Rows lie in the order of their sequences: ends[s] is the first row of sequence s.
            ends = np.searchsorted(store.sequences, np.arange(self.n_sequences + 1))
            token = store.sequences.astype(np.int64) * self.length + store.positions

            def stored(start: int, stop: int) -> Iterable[ShardRows]:
                here = slice(int(ends[start]), int(ends[stop]))
                yield ShardRows({site: store.rows(site, here) for site in sites}, token[here])

            return stored

        from monosemy.activations.harvest import harvest_rows

        def harvested(start: int, stop: int) -> Iterable[ShardRows]:
            settings = prepared.config.activations
            shards = prepared.tokens.train
            for part in harvest_rows(
                prepared.model, shards, prepared.sites, settings, statistics=prepared.rules, start=start, stop=stop
            ):
                token = part.sequence.numpy().astype(np.int64) * self.length + part.position.numpy()
                yield ShardRows({site: part.activations[site] for site in sites}, token)

        return harvested

    def _info(self, key: Key, sae: SparseAutoencoder) -> dict[str, Any]:
        """The description of a database: its SAE, model, text and settings, as JSON values."""
        prepared, (site, name) = self.prepared, key
        multiple = prepared.config.activations.outlier_multiple
        # The limit is a multiple of the median norm, so dividing it gives the median again.
        limit = prepared.rules.norm_limits[site]
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
            "model": {
                "name": prepared.model.name,
                "fingerprint": prepared.model.fingerprint,
                "n_layers": prepared.model.n_layers,
                "post_norms": prepared.model.post_norms,
            },
            "sae_sha256": self._sha(key),
            "scale": float(prepared.scale[site]),
            "median_norm": limit / multiple if multiple else float(prepared.scale[site]),
            "text": {
                "source": prepared.config.text.source,
                "side": "train",
                "why": "the validation text is too short to show what a latent responds to",
                "fingerprint": prepared.tokens.fingerprint,
            },
            "embedding_model": self.embedding_name,
            "activation_dtype": prepared.store.dtype if prepared.store is not None else prepared.config.model.dtype,
            "versions": versions(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _check_disk(self, keys: list[Key]) -> None:
        """Raises UserError when the disk is too small.

        Codes take 4 + 8·L0 bytes a token, a database some 4 KB a latent, and the rest 6 bytes a token.
        """
        from monosemy.saes.storage import read_sae_config

        configs = [read_sae_config(self.run.files.sae(*key).folder) for key in keys]
        n_tokens = self.n_sequences * self.length
        needed = sum(
            n_tokens * (4 + 8 * (config.l0 or _UNKNOWN_L0)) + 4096 * config.d_sae + 6 * n_tokens for config in configs
        )
        if needed > (free := files.free_bytes(self.run.folder)):
            raise UserError(
                f"the features need {fixed_text(needed / 1e9, 2)} GB in {self.run.folder} and "
                f"{fixed_text(free / 1e9, 2)} GB are free; free space, or ask for fewer SAEs or tokens"
            )


class SharedText:
    """What all databases of a pass share: the text, its documents and the vocabulary."""

    def __init__(self, model: LanguageModel, tokens: TokenSet, n_sequences: int, window: int) -> None:
        from monosemy.features.store.token_texts import token_bytes

        self.model, self.window = model, window
        self.embeddings: np.ndarray | None = None
        shards = tokens.train
        self.tokens = np.array(shards.sequences(0, n_sequences), np.int32)
        self.documents = np.array(shards.documents(0, n_sequences), np.int32)
        document_numbers = set(np.unique(self.documents).tolist())
        self.names = {
            number: (str(entry["source"]), str(entry["origin"]))
            for number, entry in enumerate(tokens.documents())
            if number in document_numbers
        }
        self.token_bytes = token_bytes(model.tokenizer, model.vocab_size)
        self.special = np.zeros(model.vocab_size, bool)
        # A tokenizer may have special tokens beyond the model's embedding.
        self.special[[t for t in model.special_token_ids if t < len(self.special)]] = True

    def embed(self, encoder: Encoder) -> None:
        """Computes the embedding of every window of the text."""
        from monosemy.features.labels.embeddings import embed, window_texts

        with progress.stage(f"features: embedding by {encoder.name}"):
            texts = window_texts(self.tokens, self.window, self.token_bytes, self.special)
            self.embeddings = embed(encoder, texts)

    def text(self, encoded: np.ndarray) -> Text:
        """The text, with the positions that were encoded."""
        from monosemy.features.building.by_latent import Text, document_ends

        first, last = document_ends(self.documents.reshape(-1), encoded)
        return Text(self.tokens, self.window, first, last, encoded=encoded, n_vocabulary=self.model.vocab_size)

    def inputs(self, encode_pass: EncodePass, key: Key, sae: SparseAutoencoder, info: dict[str, Any]) -> FeatureInputs:
        """The inputs from which the database of one SAE is built."""
        import torch

        from monosemy.features.building.build import FeatureInputs
        from monosemy.features.building.logit_effects import no_direct_path, output_map

        model = self.model
        outputs = no_direct_path(model, key[0]) or output_map(model, torch.from_numpy(self.tokens[:_SIGMA_SEQUENCES]))
        return FeatureInputs(
            codes=encode_pass.codes(key),
            text=self.text(encode_pass.encoded()),
            documents=self.documents,
            document_names=self.names,
            hidden=encode_pass.hidden(key[0]),
            W_dec=sae.W_dec.detach(),
            outputs=outputs,
            token_bytes=self.token_bytes,
            special=self.special,
            info=info,
            embeddings=self.embeddings,
        )
