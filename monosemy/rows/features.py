"""The rows of a table, with their texts and pictures, as the source of a run's features.

Place on the path: prepared rows → [row source] → feature stage. A row is a context of a single token, and its text is
that token's, so that the aggregation, the database, the pages and the exports of texts serve rows as well. All rows are
read, held-out ones too, except those that training left out as outliers; of more than are asked for, a random draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.config import room_settings
from monosemy.errors import UserError
from monosemy.pipeline.feature_source import FeatureRequest, FeatureSource
from monosemy.rows.prepare import PreparedRows
from monosemy.rows.row_values import IMAGE, TEXT, Place, place_of, texts_of, values_of
from monosemy.rows.settings import RowsConfig
from monosemy.rows.thumbnails import PictureError, picture_bytes, thumbnail
from monosemy.saes.listing import Key
from monosemy.support import progress
from monosemy.support.flags import flag_of
from monosemy.support.numbers import count_text

if TYPE_CHECKING:
    from monosemy.features.building.build import FeatureInputs
    from monosemy.features.building.encode_pass import Codes, EncodePass, ShardRows
    from monosemy.saes.base import SparseAutoencoder

MOST_CHARACTERS = 500
"""Length to which the text of a row is cut."""
_ROWS_OF_A_SEQUENCE = 64
"""Rows that the encoding pass takes for one sequence, so that it writes shards of a useful size."""
_VERSION = 1
"""Increased whenever the same rows would give another database."""


def row_source(prepared: PreparedRows, request: FeatureRequest) -> FeatureSource:
    """The source of the features of a run on rows. Raises UserError for texts or pictures that do not fit the rows."""
    if request.embedding_model is not None:
        raise UserError("--embedding-model scores windows of text, and this run was trained on rows; leave it out")
    return RowSource(prepared, request)


class RowSource(FeatureSource):
    """The rows of a table, each with its text."""

    unit = "rows"

    def __init__(self, prepared: PreparedRows, request: FeatureRequest) -> None:
        from monosemy.features.store.settings import FeatureSettings

        store = prepared.store
        self.prepared = prepared
        self.described = room_settings(prepared.config, RowsConfig)
        self.settings = FeatureSettings(window=1)
        rows = np.sort(np.concatenate([store.train, store.validation]))
        if len(rows) > request.n_tokens:
            drawn = np.random.default_rng(self.settings.seed).choice(len(rows), request.n_tokens, replace=False)
            rows = rows[np.sort(drawn)]
        self.rows = rows
        """Numbers in the table of the rows that are read, increasing."""
        self.n_sequences = -(-len(rows) // _ROWS_OF_A_SEQUENCE)
        self.context_length = self.window = _ROWS_OF_A_SEQUENCE
        self.scale, self.device = prepared.scale, prepared.device
        self.name = f"rows of {store.table.name}"
        self.texts = self._texts()
        self._pictures = self._picture_place()

    @property
    def identity(self) -> list[Any]:
        digest = hashlib.blake2b(self.rows.tobytes(), digest_size=8)
        for text in self.texts or ():
            digest.update(text.encode() + b"\0")
        place = self._pictures
        pictures = None if place is None else [str(place.path), place.field, str(self._folder()), _changed(place.path)]
        return ["rows", _VERSION, self.prepared.fingerprint, digest.hexdigest(), pictures, asdict(self.settings)]

    def load(self) -> None:
        """Nothing: the texts were read when the source was made."""

    def reader(self, sites: list[str]) -> Callable[[int, int], Iterable[ShardRows]]:
        import torch

        from monosemy.features.building.encode_pass import ShardRows

        table, rows = self.prepared.store.table, self.rows

        def read(start: int, stop: int) -> Iterable[ShardRows]:
            positions = np.arange(start * self.context_length, min(stop * self.context_length, len(rows)))
            values = torch.from_numpy(table.rows(rows[positions]).astype(np.float32))
            yield ShardRows(dict.fromkeys(sites, values), positions)

        return read

    def collect(self) -> None:
        """Nothing: what databases share is the texts."""

    def inputs(self, encode_pass: EncodePass, key: Key, sae: SparseAutoencoder, info: dict[str, Any]) -> FeatureInputs:
        from monosemy.features.building.build import FeatureInputs
        from monosemy.features.building.by_latent import Text
        from monosemy.rows.labels import RowLabels, RowWords, no_labels

        n = len(self.rows)
        every = np.ones(n, bool)
        numbers = np.arange(n, dtype=np.int32)[:, None]
        groups = self.prepared.store.groups[self.rows]
        return FeatureInputs(
            codes=_first(encode_pass.codes(key), n),
            text=Text(numbers, 1, every, every, encoded=every, n_vocabulary=n),
            documents=self.rows.astype(np.int32)[:, None],
            document_names={},
            hidden=np.broadcast_to(np.float16(0), (n, sae.d_in)),  # the labels of rows do not read it
            W_dec=sae.W_dec.detach(),
            outputs="rows of your own have no language model, so no output tokens",
            token_bytes=[text.encode() for text in self.texts or [f"row {row}" for row in self.rows.tolist()]],
            special=np.zeros(n, bool),
            info=info,
            label=RowLabels(RowWords.read(self.texts), groups) if self.texts else no_labels,
            pictures=self._thumbnails if self._pictures is not None else None,
        )

    def info(self, site: str) -> dict[str, Any]:
        table = self.prepared.store.table
        return {
            "rows": {
                "name": table.name,
                "fingerprint": self.prepared.fingerprint,
                "n_rows": table.n_rows,
                "text": self.described.text,
                "image": self.described.image,
            },
            "activation_dtype": table.dtype,
        }

    def _texts(self) -> list[str] | None:
        """The text of every row that is read; None where the run names none."""
        if not self.described.text:
            return None
        place = place_of(self.described, self.described.text, TEXT)
        n_rows = self.prepared.store.table.n_rows
        return texts_of(place, self.rows, n_rows, most_characters=MOST_CHARACTERS, flag=TEXT)

    def _picture_place(self) -> Place | None:
        return place_of(self.described, self.described.image, IMAGE) if self.described.image else None

    def _folder(self) -> Path:
        """The only folder that pictures are read from."""
        assert self._pictures is not None
        named = self.described.image_folder
        folder = Path(named).expanduser() if named else self._pictures.path.parent
        if not folder.is_dir():
            raise UserError(
                f"{flag_of('rows.image_folder')} {folder} is no folder; name the one that holds the pictures"
            )
        return folder

    def _thumbnails(self, positions: np.ndarray) -> Mapping[int, bytes]:
        """The thumbnails of rows, by position among the rows that are read; rows whose picture is unreadable have none.

        Raises UserError when no picture can be read.
        """
        assert self._pictures is not None
        folder, n_rows = self._folder(), self.prepared.store.table.n_rows
        values = values_of(self._pictures, self.rows[positions], n_rows, IMAGE)
        thumbnails: dict[int, bytes] = {}
        problems: list[str] = []
        for position, value in zip(positions.tolist(), values.values(), strict=True):
            try:
                thumbnails[position] = thumbnail(picture_bytes(value, folder))
            except PictureError as error:
                problems.append(str(error))
        if problems and not thumbnails:
            raise UserError(f"{IMAGE} {self.described.image}: no picture can be read; {problems[0]}")
        if problems:
            share = f"{count_text(len(problems))} of {count_text(len(positions))}"
            progress.say(f"pictures: {share} cannot be read; the first: {problems[0]}")
        return thumbnails


def _first(codes: Codes, n: int) -> Codes:
    """The codes of the first n rows; the last sequence of the pass may be longer than the table."""
    from monosemy.features.building.encode_pass import Codes

    return Codes(codes.offsets[: n + 1], codes.indices, codes.values, codes.d_sae)


def _changed(path: Path) -> int:
    """When a file was last changed, in nanoseconds."""
    return path.stat().st_mtime_ns
