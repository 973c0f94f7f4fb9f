"""The trained pairs of a run: found, loaded, and read on the run's text for the Jacobian studies.

Place on the path: a trained and evaluated run with pairs (`jacobian.lambdas`) → **its pairs, loaded** → jacobian/ in
its folder (measuring.py, studies.py), for the report and the terminal; the files are listed in layout.py. Every result
is written as soon as it exists and is not computed again while the SAEs and settings behind it stay the same, so an
interrupted study continues where it stopped.

Latent graphs are written where the caller says. Measures are taken on validation text; strongest pairs and graphs are
taken on training text, like feature databases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.circuits.jacobian.layout import StudyFiles
from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.circuits.jacobian.study_file import read_study
from monosemy.config import fingerprint, room_settings
from monosemy.errors import UserError, unknown
from monosemy.layout import RunFiles
from monosemy.pipeline.prepare import Prepared, prepare
from monosemy.run import Run
from monosemy.saes.config_file import read_weights_sha256
from monosemy.support import progress
from monosemy.support.numbers import count_text

if TYPE_CHECKING:
    from monosemy.circuits.jacobian.latent_map import LatentMap
    from monosemy.circuits.jacobian.mlp_rows import Rows
    from monosemy.circuits.jacobian.slices import JacobianSlices
    from monosemy.circuits.jacobian.weights import MlpWeights
    from monosemy.saes.base import SparseAutoencoder

FORMAT = 2
SHARE_OF_MEMORY = 4
"""Rows held in memory may take the free memory divided by this number."""


@dataclass(frozen=True)
class PairEntry:
    """A trained pair of a run, as its files describe it; nothing is loaded."""

    name: str
    sites: tuple[str, str]
    coef: float
    """λ of the penalty."""
    l0: float
    _: KW_ONLY
    seed: int
    layer: int
    at: str
    folders: tuple[Path, Path]
    weights: tuple[str, str]
    """SHA-256 of each SAE's weights."""

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "lambda": self.coef,
            "l0": self.l0,
            "seed": self.seed,
            "layer": self.layer,
            "at": self.at,
            "sites": list(self.sites),
        }

    @property
    def made_of(self) -> dict[str, Any]:
        """The identity and the hashes of the exact weights."""
        return {**self.identity, "weights": list(self.weights)}


def find_pairs(folder: Path) -> list[PairEntry]:
    """The trained pairs of a run, sorted by layer, L0, seed and λ; pairs that stopped early are left out.

    Raises UserError where there is none, or where a pair lacks its output SAE.
    """
    from monosemy.models.sites import parse_site
    from monosemy.saes.storage import read_sae_config, stopped_early

    pairs: list[PairEntry] = []
    sae_folders = {(sae.site, sae.name): sae.folder for sae in RunFiles(folder).saes()}
    for (site, name), path in sae_folders.items():
        config = read_sae_config(path)
        # Both SAEs of a pair carry the record; the input SAE stands for the pair.
        record = config.record.get("jacobian")
        if not isinstance(record, Mapping) or stopped_early(config) or record["sites"][0] != site:
            continue
        first, second = record["sites"]
        if (second, name) not in sae_folders:
            raise UserError(f"pair {name} lacks its SAE at {second}; train it again: monosemy train {folder}")
        paths = (path, sae_folders[second, name])
        shas = [read_weights_sha256(place) for place in paths]
        layer = parse_site(site, 10**6, post_norms=True).layer
        pairs.append(
            PairEntry(
                name,
                (first, second),
                float(record["lambda"]),
                config.l0,
                seed=config.seed,
                layer=layer,
                at=str(record["at"]),
                folders=paths,
                weights=(shas[0], shas[1]),
            )
        )
    if not pairs:
        raise UserError(f"{folder} has no trained pairs of SAEs; train some: monosemy jacobian train --run {folder}")
    return sorted(pairs, key=lambda pair: (pair.layer, pair.l0, pair.seed, pair.coef))


def choose_pair(pairs: Sequence[PairEntry], name: str | None) -> PairEntry:
    """The pair of that name; None takes the only one.

    Raises UserError for an unknown name, or for None where there are several pairs.
    """
    if name is None:
        if len(pairs) > 1:
            raise UserError(f"this run has several pairs; name one by --pair: {', '.join(p.name for p in pairs)}")
        return pairs[0]
    for pair in pairs:
        if pair.name == name:
            return pair
    raise unknown("pair", name, [pair.name for pair in pairs])


class Study:
    """A run's model and text, and its pairs, loaded one at a time. The model is loaded when it is first needed."""

    def __init__(self, run: Run, prepared: Prepared | None = None) -> None:
        self.run = run
        self.pairs = find_pairs(run.folder)
        self.files = StudyFiles.of_run(run.folder)
        self._prepared = prepared
        self._weights: dict[int, MlpWeights] = {}
        self._rows: dict[tuple[Any, ...], Rows] = {}

    @property
    def prepared(self) -> Prepared:
        """The run's model, tokens and activations; prepared on first use."""
        if self._prepared is None:
            self._prepared = prepare(self.run)
        return self._prepared

    def weights(self, layer: int) -> MlpWeights:
        """The MLP of a layer in the model's own units; read once and kept."""
        from monosemy.circuits.jacobian.mlp import mlp_weights

        if layer not in self._weights:
            self._weights[layer] = mlp_weights(self.prepared.model, layer)
        return self._weights[layer]

    def load(self, pair: PairEntry) -> LoadedPair:
        """The pair's SAEs on the model's device, with the MLP between them."""
        from monosemy.saes.storage import load_sae

        device = self.prepared.model.device
        sae_in, sae_out = (load_sae(folder).to(device).eval() for folder in pair.folders)
        max_memory = room_settings(self.run.config, JacobianConfig).max_memory_mb * 1_000_000
        return LoadedPair(pair, sae_in, sae_out, self.weights(pair.layer), max_memory=max_memory)

    def rows(self, pair: PairEntry, n_tokens: int, side: str = "validation") -> Rows:
        """The kept rows at the pair's two sites, from about the first n_tokens tokens of the side of the text.

        side: `train` or `validation`. Rows are read once and kept for later calls. Raises UserError where they do not
        fit in memory.
        """
        key = (pair.sites, n_tokens, side)
        if key not in self._rows:
            self._rows[key] = self._read(pair.sites, n_tokens, side)
        return self._rows[key]

    def _read(self, sites: tuple[str, str], n_tokens: int, side: str) -> Rows:
        """Reads the rows from the store where it holds them, else by running the model."""
        import torch

        from monosemy.activations.harvest import harvest_rows
        from monosemy.circuits.jacobian.mlp_rows import Rows
        from monosemy.support.estimates import available_memory
        from monosemy.support.numbers import size_text

        prepared = self.prepared
        shards = getattr(prepared.tokens, side)
        length = shards.context_length
        # Whole sequences, rounded up; float32 at two sites is 8 bytes per token and dimension.
        stop = min(shards.n_sequences, -(-n_tokens // length))
        needed = 8 * prepared.model.d_model * stop * length
        if needed > (room := available_memory() // SHARE_OF_MEMORY):
            raise UserError(
                f"{count_text(stop * length)} tokens of activations take {size_text(needed)} and {size_text(room)} may "
                "be used; read fewer tokens"
            )
        parts = []
        # A store already holds the training activations; all other text is run through the model.
        if side == "train" and prepared.store is not None:
            store = prepared.store
            # Stored rows are in the order of the text, so the first sequences are a prefix.
            last = int(np.searchsorted(store.sequences, stop))
            place = store.sequences[:last].astype(np.int64) * length + store.positions[:last]
            x, y = (store.rows(site, slice(0, last)) for site in sites)
            return Rows(x, y, torch.from_numpy(store.documents[:last].astype(np.int64)), torch.from_numpy(place))
        with progress.stage(f"jacobian: reading the {side} text", total=stop * length, unit="tokens") as bar:
            for part in harvest_rows(
                prepared.model,
                shards,
                prepared.sites,
                prepared.config.activations,
                statistics=prepared.rules,
                start=0,
                stop=stop,
            ):
                x, y = (part.activations[site].float() for site in sites)
                place = part.sequence.long() * length + part.position.long()
                parts.append((x, y, part.document.long(), place))
                bar.advance(part.n_tokens)
        return Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def tokens(self, side: str, n_sequences: int) -> tuple[np.ndarray, np.ndarray]:
        """The token ids and document numbers of a side's first sequences, each [sequence, position]."""
        shards = getattr(self.prepared.tokens, side)
        n = min(n_sequences, shards.n_sequences)
        return np.array(shards.sequences(0, n), np.int64), np.array(shards.documents(0, n), np.int64)

    def done(self, path: Path, expected: str) -> bool:
        """Whether the file of a result exists and carries the fingerprint `expected`."""
        if not path.exists():
            return False
        try:
            return bool(read_study(path).get("fingerprint") == expected)
        except UserError:
            return False  # damaged, so computed again

    @property
    def of(self) -> str:
        """The fingerprint of all trained pairs together; results over several pairs are valid for it only."""
        return fingerprint([FORMAT, *([pair.identity, list(pair.weights)] for pair in self.pairs)])

    def identity(self, pair: PairEntry, settings: Any) -> str:
        """The fingerprint of everything that a result of one pair depends on: SAEs, model, text and settings."""
        setting_values = (
            asdict(settings) if dataclasses.is_dataclass(settings) and not isinstance(settings, type) else settings
        )
        provenance = self.run.provenance
        text = [provenance.get(key, {}).get("fingerprint") for key in ("model", "text")]
        return fingerprint([FORMAT, pair.identity, list(pair.weights), text, setting_values])


@dataclass
class LoadedPair:
    """Two SAEs and the MLP between them, ready to be measured."""

    entry: PairEntry
    sae_in: SparseAutoencoder
    sae_out: SparseAutoencoder
    weights: MlpWeights
    _: KW_ONLY
    max_memory: int
    """Bytes that computing slices may take, tables included (`jacobian.max_memory_mb`)."""

    @property
    def latent_map(self) -> LatentMap:
        """The map from input to output latents, for evaluating changes of the input latents."""
        from monosemy.circuits.jacobian.latent_map import LatentMap

        return LatentMap(self.sae_in, self.sae_out, self.weights.output, self.entry.at)  # type: ignore[arg-type]

    def slicer(self) -> Slicer:
        """A function that computes slices of rows.

        The tables of all latents are made once, for all its calls, if they fit in half the bound on memory.
        """
        from monosemy.circuits.jacobian.mlp import weight_tables

        n_rows = self.sae_in.d_sae * (2 if self.weights.gated else 1) + self.sae_out.d_sae
        n_bytes = self.sae_in.W_dec.element_size() * n_rows * self.weights.d_ff
        if n_bytes > self.max_memory // 2:
            return Slicer(self, None, self.max_memory)
        return Slicer(self, weight_tables(self.weights, self.sae_in, self.sae_out), self.max_memory - n_bytes)


@dataclass
class Slicer:
    """Computes the Jacobian slices of rows for one pair, a call at a time or chunk by chunk."""

    pair: LoadedPair
    tables: Any
    max_memory: int
    """Bytes that a call may take beside the tables."""

    def __call__(self, rows: Rows) -> JacobianSlices:
        from monosemy.circuits.jacobian.mlp import jacobian_slices

        pair = self.pair
        return jacobian_slices(
            pair.weights,
            pair.sae_in,
            pair.sae_out,
            rows.x.to(pair.sae_in.W_dec),
            y=rows.y.to(pair.sae_in.W_dec),
            at=pair.entry.at,  # type: ignore[arg-type]
            tables=self.tables,
            max_memory=self.max_memory,
        )

    def batches(self, rows: Rows) -> Iterator[tuple[Rows, JacobianSlices]]:
        """The rows in chunks, each with its slices."""
        for chunk in rows.chunks():
            yield chunk, self(chunk)
