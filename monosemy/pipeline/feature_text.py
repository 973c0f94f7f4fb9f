"""The training text of a run as the source of its features: read from the store, or by running the model.

Place on the path: prepared model, tokens and activations → [text source] → feature stage. The validation text is a
tenth of what a latent needs, so features are read off the training text, from its start, at the positions that training
kept. If the run's activations are on disk, they are read from there, in the number format in which they were stored;
otherwise the model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.pipeline.feature_source import FeatureRequest, FeatureSource
from monosemy.pipeline.prepare import Prepared
from monosemy.saes.listing import Key
from monosemy.support import progress

if TYPE_CHECKING:
    from monosemy.data.tokens import TokenSet
    from monosemy.features.building.build import FeatureInputs
    from monosemy.features.building.by_latent import Text
    from monosemy.features.building.encode_pass import EncodePass, ShardRows
    from monosemy.features.labels.embeddings import Encoder
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder

_SIGMA_SEQUENCES = 8


class TextSource(FeatureSource):
    """The first sequences of a run's training text."""

    def __init__(self, prepared: Prepared, request: FeatureRequest) -> None:
        from monosemy.features.labels.embeddings import model_name
        from monosemy.features.store.settings import FeatureSettings

        self.prepared = prepared
        shards = prepared.tokens.train
        self.context_length = shards.context_length
        self.n_sequences = min(shards.n_sequences, -(-request.n_tokens // self.context_length))
        # The largest window, up to the default, that divides a sequence into whole windows.
        self.window = next(
            w for w in range(min(FeatureSettings.window, self.context_length), 0, -1) if self.context_length % w == 0
        )
        self.settings = FeatureSettings(window=self.window)
        self.scale, self.device = prepared.scale, prepared.model.device
        self._embedding_model = embedding_model = request.embedding_model
        self.embedding_name = model_name(embedding_model) if isinstance(embedding_model, str) else None
        if embedding_model is not None and not isinstance(embedding_model, str):
            self.embedding_name = embedding_model.name
        self._encoder: Encoder | None = None
        self._shared: SharedText | None = None

    @property
    def identity(self) -> list[Any]:
        from monosemy.features.labels.labelling import LABELS_VERSION

        settings = [asdict(self.settings), LABELS_VERSION, self.embedding_name]
        return [self.prepared.fingerprint, self.n_sequences, *settings]

    def load(self) -> None:
        from monosemy.features.labels.embeddings import SentenceModel

        named = self._embedding_model
        self._encoder = SentenceModel(named) if isinstance(named, str) else named

    def reader(self, sites: list[str]) -> Callable[[int, int], Iterable[ShardRows]]:
        from monosemy.features.building.encode_pass import ShardRows

        prepared, store = self.prepared, self.prepared.store
        if store is not None:
            # Rows lie in the order of their sequences: ends[s] is the first row of sequence s.
            ends = np.searchsorted(store.sequences, np.arange(self.n_sequences + 1))
            token = store.sequences.astype(np.int64) * self.context_length + store.positions

            def stored(start: int, stop: int) -> Iterable[ShardRows]:
                here = slice(int(ends[start]), int(ends[stop]))
                yield ShardRows({site: store.rows(site, here) for site in sites}, token[here])

            return stored

        from monosemy.activations.harvest import harvest_rows

        def harvested(start: int, stop: int) -> Iterable[ShardRows]:
            settings = prepared.config.activations
            shards = prepared.tokens.train
            for part in harvest_rows(
                prepared.reader, shards, prepared.sites, settings, statistics=prepared.rules, start=start, stop=stop
            ):
                token = part.sequence.numpy().astype(np.int64) * self.context_length + part.position.numpy()
                yield ShardRows({site: part.activations[site] for site in sites}, token)

        return harvested

    def collect(self) -> None:
        self._shared = SharedText(self.prepared.model, self.prepared.tokens, self.n_sequences, self.window)
        if self._encoder is not None:
            self._shared.embed(self._encoder)

    def inputs(self, encode_pass: EncodePass, key: Key, sae: SparseAutoencoder, info: dict[str, Any]) -> FeatureInputs:
        assert self._shared is not None, "collect is called before inputs"
        return self._shared.inputs(encode_pass, key, sae, info)

    def info(self, site: str) -> dict[str, Any]:
        prepared = self.prepared
        multiple = prepared.config.activations.outlier_multiple
        # The limit is a multiple of the median norm, so dividing it gives the median again.
        limit = prepared.rules.norm_limits[site]
        return {
            "model": {
                "name": prepared.model.name,
                "fingerprint": prepared.model.fingerprint,
                "n_layers": prepared.model.n_layers,
                "post_norms": prepared.model.post_norms,
            },
            "median_norm": limit / multiple if multiple else float(prepared.scale[site]),
            "text": {
                "source": prepared.config.text.source,
                "side": "train",
                "why": "the validation text is too short to show what a latent responds to",
                "fingerprint": prepared.tokens.fingerprint,
            },
            "embedding_model": self.embedding_name,
            "activation_dtype": prepared.store.dtype if prepared.store is not None else prepared.config.model.dtype,
        }


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
