"""The feature database: everything that pages, exports and explanations read about the latents of one SAE.

Place on the path: RUN/features/<site>/<name>/ (made by `build`) → [FeatureDatabase] → pages, exports, explanations.
Arrays are memory-mapped, so opening takes milliseconds whatever the number of latents; labels and documents are in
SQLite. Neither torch nor numba is imported. A database may be used from several threads: each gets its own SQLite
connection.

A *token index* is flat: context · T + position. Units: activations and all values derived from them are raw, as the
SAE gives them; cosines and correlations have no unit; output tokens are in logits per unit of activation.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32, Int64, Integer, Shaped
from numpy import ndarray

from monosemy.errors import UserError, unknown
from monosemy.features.store.activation_codes import decode_activations
from monosemy.features.store.compact import ARRAYS
from monosemy.features.store.heading import explanation_leads
from monosemy.features.store.search import match_expression
from monosemy.features.store.settings import FORMAT, GROUPS, LEVELS
from monosemy.features.store.token_texts import TokenTexts
from monosemy.features.store.write import replace_explanation
from monosemy.layout import FeatureFiles, RunFiles
from monosemy.run import read_feature_info, read_run
from monosemy.saes.config_file import describes_another
from monosemy.saes.decoder_rows import read_decoder_rows
from monosemy.saes.listing import refuse_stopped, saved_saes
from monosemy.support.visible import visible


@dataclass(frozen=True)
class Example:
    """One context shown for a latent."""

    group: str
    """`top`, `q0` (weakest fifth) … `q4` (strongest), `near_miss`, `random`."""
    context: int
    """Number of the context in the pass."""
    peak: int
    """Position of the peak in the context; for negatives, a position in the silent window."""
    value: float
    """Activation at the peak, raw; 0 for negatives."""
    _: KW_ONLY
    token_ids: Int32[ndarray, " position"]
    """The tokens of the context."""
    activations: Float32[ndarray, " position"]
    """Raw, over the whole context; a negative may have activations outside its window."""
    source: str
    """Name of the text source of the document at the peak."""
    origin: str
    """The document's title or file name."""


class FeatureDatabase:
    """The features of one SAE. Open it with `FeatureDatabase.open` or `open_features`."""

    def __init__(self, folder: Path, info: dict[str, Any], arrays: Mapping[str, Shaped[ndarray, " ..."]]) -> None:
        self.files = FeatureFiles(folder)
        self.info, self._arrays = info, arrays
        self.columns: Mapping[str, Float32[ndarray, " d_sae"]] = dict(zip(info["columns"], arrays["columns"]))
        """Column name → values, NaN where a latent has no value; info["column_help"] says what each means."""
        self.tokens = TokenTexts(arrays["vocabulary_data"], arrays["vocabulary_offsets"], arrays["vocabulary_special"])
        self._local = threading.local()

    @staticmethod
    def open(folder: Path) -> FeatureDatabase:
        """Opens a database.

        Raises UserError if there is none, if it has another format, or if a file is missing or damaged.
        """
        folder = Path(folder).expanduser()
        database = FeatureFiles(folder)
        if not database.info.exists():
            raise UserError(
                f"{folder} holds no feature database (it has no {database.info.name}); build it: monosemy features RUN"
            )
        info = read_feature_info(folder)
        if info.get("format") != FORMAT:
            raise UserError(
                f"{folder} has feature format {info.get('format')!r} and this version reads {FORMAT}; build it again: "
                "monosemy features RUN"
            )
        arrays: dict[str, Shaped[ndarray, " ..."]] = {}
        for name in ARRAYS:
            try:
                # plain arrays over the memory map: slicing np.memmap itself takes ten times as long
                arrays[name] = np.asarray(np.load(database.array(name), mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise _damaged(database.array(name), error) from None
        if not database.sqlite.exists():
            raise _damaged(database.sqlite, FileNotFoundError("missing"))
        return FeatureDatabase(folder, info, arrays)

    @property
    def folder(self) -> Path:
        return self.files.folder

    @property
    def n_latents(self) -> int:
        return int(self.info["d_sae"])

    @property
    def context_length(self) -> int:
        return int(self.info["context_length"])

    @property
    def of_rows(self) -> bool:
        """Whether it was built from rows that stand in no text: a context is then one row, its token the row's text."""
        return self.info.get("unit", "tokens") == "rows"

    def check(self, latent: int) -> int:
        """The latent's number. Raises UserError if the SAE has no such latent."""
        if not 0 <= latent < self.n_latents:
            raise UserError(f"latent {latent} is out of range; this SAE has latents 0 to {self.n_latents - 1}")
        return int(latent)

    def stats(self, latent: int) -> dict[str, float]:
        """The value of every column for one latent; NaN where it has none."""
        self.check(latent)
        return {name: float(column[latent]) for name, column in self.columns.items()}

    # --- contexts ---------------------------------------------------------------------------------------------------

    def examples(self, latent: int, groups: Iterable[str] | None = None) -> list[Example]:
        """The latent's examples in the order of `GROUPS`, those of `top` from the strongest down.

        A latent that never fired has only near misses and random contexts. Raises UserError for an unknown group or
        latent.
        """
        selected_groups = set(GROUPS if groups is None else groups)
        if not selected_groups <= set(GROUPS):
            raise unknown("example group", sorted(selected_groups - set(GROUPS))[0], GROUPS)
        kinds, token, length, position, value = self.example_arrays(latent)
        context, peak = token // self.context_length, token % self.context_length
        # all contexts dense at once: one scatter and one read of tokens, rather than one per example
        activations = np.zeros((len(token), self.context_length), np.float32)
        activations[np.repeat(np.arange(len(token)), length), position] = value
        token_ids = self._arrays["tokens"][context].astype(np.int32)
        peaks, documents = zip(context.tolist(), peak.tolist()), self.documents_at(token)
        return [
            Example(
                group=GROUPS[kind],
                context=context_number,
                peak=peak_position,
                value=activations[k, peak_position].item(),
                token_ids=token_ids[k],
                activations=activations[k],
                source=source,
                origin=origin,
            )
            for k, (kind, (context_number, peak_position), (source, origin)) in enumerate(
                zip(kinds.tolist(), peaks, documents)
            )
            if GROUPS[kind] in selected_groups
        ]

    def example_arrays(
        self, latent: int
    ) -> tuple[
        Int64[ndarray, " example"],
        Int64[ndarray, " example"],
        Integer[ndarray, " example"],
        Integer[ndarray, " firing"],
        Float32[ndarray, " firing"],
    ]:
        """The latent's examples as sparse arrays, with the firings in their contexts, example after example.

        Returns (group, an index into `GROUPS`; token, the token index of the peak; length, the number of firings in the
        context; position of each firing in the context; value of each firing, raw).
        """
        arrays = self._arrays
        first, last = arrays["example_offsets"][self.check(latent) : latent + 2].tolist()
        begin, end = arrays["activation_offsets"][latent : latent + 2].tolist()
        low, high = float(self.columns["min"][latent]), float(self.columns["max"][latent])
        return (
            np.repeat(np.arange(len(GROUPS)), arrays["example_counts"][latent]),
            arrays["example_token"][first:last].astype(np.int64),
            arrays["example_length"][first:last],
            arrays["activation_position"][begin:end],
            decode_activations(arrays["activation_code"][begin:end], low, high),
        )

    def example(self, number: int) -> Example:
        """One example by its number in the whole database, from 0 to info["n_examples"] − 1.

        Raises UserError for a number outside this range.
        """
        n = len(self._arrays["example_token"])
        if not 0 <= number < n:
            raise UserError(f"example {number} is out of range; this database has examples 0 to {n - 1}")
        # side="right" steps over latents without examples, whose offsets are equal
        latent = int(np.searchsorted(self._arrays["example_offsets"], number, side="right")) - 1
        return self.examples(latent)[number - int(self._arrays["example_offsets"][latent])]

    def context(self, context: int) -> Int32[ndarray, " position"]:
        """The tokens of a context. Raises UserError for a number out of range."""
        if not 0 <= context < self.info["n_contexts"]:
            raise UserError(f"context {context} is out of range; there are contexts 0 to {self.info['n_contexts'] - 1}")
        return self._arrays["tokens"][context].astype(np.int32)

    def encoded(self, context: int) -> Bool[ndarray, " position"]:
        """Which positions of a context the SAE encoded: all but first ones, special tokens and outliers."""
        # a context need not begin at a byte: read the bytes that it touches, and cut the bits before it
        length = self.context_length
        bits = np.unpackbits(self._arrays["kept"][context * length // 8 : -(-(context + 1) * length // 8)])
        return bits[context * length % 8 :][:length].astype(bool)

    def document(self, token_index: int) -> tuple[str, str]:
        """(source, origin) of the document at a token index."""
        return self.documents_at(np.array([token_index]))[0]

    def documents_at(self, token: Int[ndarray, " n"]) -> list[tuple[str, str]]:
        """(source, origin) of the documents at token indices."""
        names = self._document_names
        return [names.get(number, ("", "")) for number in self.document_numbers(token).tolist()]

    def document_numbers(self, token: Int[ndarray, " n"]) -> Integer[ndarray, " n"]:
        """The numbers of the documents at token indices."""
        rows = np.searchsorted(self._document_starts, token, side="right") - 1
        return self._arrays["documents"][rows, 1]

    @cached_property
    def _document_starts(self) -> Integer[ndarray, " start"]:
        return np.array(self._arrays["documents"][:, 0])

    @cached_property
    def _document_names(self) -> dict[int, tuple[str, str]]:
        rows = self._sqlite().execute("SELECT id, source, origin FROM documents")
        return {number: (visible(source), visible(origin)) for number, source, origin in rows}

    def row_numbers(self, contexts: Int[ndarray, " n"]) -> list[int]:
        """The number of each context's row in the table that it came from; only for a database of rows."""
        return self.document_numbers(contexts).tolist()

    def picture(self, context: int) -> bytes | None:
        """The thumbnail of a context's row, a PNG or a JPEG; None if it has none."""
        if not self.info.get("n_pictures"):
            return None
        record = self._sqlite().execute("SELECT data FROM pictures WHERE position = ?", (int(context),)).fetchone()
        return bytes(record[0]) if record else None

    def with_picture(self, contexts: Sequence[int]) -> set[int]:
        """Those of the contexts whose row has a thumbnail."""
        if not self.info.get("n_pictures"):
            return set()
        places = ",".join("?" * len(contexts))
        records = self._sqlite().execute(
            f"SELECT position FROM pictures WHERE position IN ({places})", [int(context) for context in contexts]
        )
        return {position for (position,) in records}

    # --- numbers ----------------------------------------------------------------------------------------------------

    def histogram(self, latent: int) -> tuple[Float32[ndarray, " bins_plus_1"], Int64[ndarray, " bin"]]:
        """The histogram of the positive activations: (edges, raw; counts).

        Bins have equal widths from the smallest to the largest activation.
        """
        counts = np.array(self._arrays["histogram"][self.check(latent)], np.int64)
        low, high = float(self.columns["min"][latent]), float(self.columns["max"][latent])
        low = 0.0 if np.isnan(low) else low
        return np.linspace(low, high, len(counts) + 1, dtype=np.float32), counts

    def quantiles(self, latent: int) -> tuple[Float32[ndarray, " level"], Float32[ndarray, " level"]]:
        """The quantiles of the positive activations: (levels; values, raw); NaN if the latent never fired."""
        return np.asarray(LEVELS, np.float32), np.array(self._arrays["quantiles"][self.check(latent)])

    def positions(self, latent: int) -> Int64[ndarray, " part"]:
        """The number of firings in each of several equal parts of a context, first to last."""
        return np.array(self._arrays["positions"][self.check(latent)], np.int64)

    def output_tokens(self, latent: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """(raised, lowered): lists of (token id, logits per unit of activation), strongest first.

        Both are empty if the site has no direct path to the output; info["no_output_tokens"] says why.
        """
        ids, values = self._arrays["output_ids"][self.check(latent)], self._arrays["output_values"][latent]
        raised, lowered = (list(zip(i, v)) for i, v in zip(ids.tolist(), values.tolist()))
        return raised, lowered

    def neighbours(self, latent: int) -> dict[str, list[tuple[int, float]]]:
        """{"decoder": [(latent, cosine)], "coactivation": [(latent, correlation of firing)]}, highest first."""
        near, values = self._arrays["neighbours"][self.check(latent)], self._arrays["neighbour_values"][latent]
        return {
            name: [(i, v) for i, v in zip(ids, own_values) if i < self.n_latents]
            for name, ids, own_values in zip(("decoder", "coactivation"), near.tolist(), values.tolist())
        }

    @property
    def sketches(self) -> Int8[ndarray, "d_sae k"]:
        """Count sketches of the activations (`building.coactivation`).

        sketch · sketch′ / 127² estimates the correlation of two latents' activations with an error of about 1/√k, also
        across databases if their info["text_sha256"] agree.
        """
        return self._arrays["sketches"]

    def decoder_vector(self, latent: int) -> Float32[ndarray, " d_in"]:
        """The latent's decoder row, read from the SAE's own file. Raises UserError if that is gone."""
        return self.decoder_vectors(slice(self.check(latent), latent + 1))[0]

    def decoder_vectors(self, latents: slice | Int[ndarray, " n"]) -> Float32[ndarray, "n d_in"]:
        """The decoder rows of several latents. Raises UserError if the SAE's file is gone."""
        sae = self.files.run.sae(self.info["site"], self.info["name"])
        return read_decoder_rows(sae.folder, latents)

    # --- labels and search --------------------------------------------------------------------------------------------

    def label(self, latent: int) -> dict[str, Any]:
        """The label, explanation and scores of a latent:

        {"text", "hints": [text], "peak_tokens", "before_tokens": [(token id, log-odds in standard deviations)],
        "explanation": {"text", …} or None, "explanation_leads": whether the explanation is the heading,
        "scores": {name: value or NaN}}
        """
        query = "SELECT label, hints FROM texts WHERE latent = ?"
        text, hints = self._sqlite().execute(query, (self.check(latent),)).fetchone() or ("", "")
        query = "SELECT text, record FROM explanations WHERE latent = ?"
        explained = self._sqlite().execute(query, (latent,)).fetchone()
        ids, odds = self._arrays["label_ids"][latent].tolist(), self._arrays["label_odds"][latent].tolist()
        peak, before = ([(i, v) for i, v in zip(*row) if i < len(self.tokens)] for row in zip(ids, odds))
        explanation = {"text": visible(explained[0]), **json.loads(explained[1])} if explained else None
        return {
            "text": visible(text),
            "hints": [visible(hint) for hint in json.loads(hints)] if hints else [],
            "peak_tokens": peak,
            "before_tokens": before,
            "explanation": explanation,
            "explanation_leads": explanation_leads(text, self._label_auroc(latent), explanation),
            "scores": {name: float(self.columns[name][latent]) for name in self.info["label_columns"]},
        }

    @property
    def peak_token_ids(self) -> Integer[ndarray, "d_sae k"]:
        """The tokens over-represented at each latent's peaks, most typical first; the vocabulary's size for none."""
        return self._arrays["label_ids"][:, 0]

    def labels(self, latents: Sequence[int] | Int[ndarray, " n"]) -> list[str]:
        """The texts that name several latents, in the given order: the label, or an explanation that leads (`heading`).

        A latent without either has "".
        """
        numbers = [int(i) for i in latents]
        texts: dict[int, str] = {}
        for start in range(0, len(numbers), 500):  # SQLite limits the variables of a statement
            part = numbers[start : start + 500]
            condition = f"texts.latent IN ({','.join('?' * len(part))})"
            texts.update((i, text) for i, text, _ in self._leading_texts(f"texts WHERE {condition}", part))
        return [texts.get(i, "") for i in numbers]

    def _leading_texts(
        self, rows: str, values: Sequence[Any] | Mapping[str, Any], rank: str = "0.0", end: str = ""
    ) -> list[tuple[int, str, float]]:
        """(latent, leading text, rank) of the selected rows of a table with labels and explanations.

        `rows` is "TABLE WHERE CONDITION", for the tables `texts` and `search`; `rank` and `end` are SQL as well. Values
        from users never go into this text: they are bound as `values`.
        """
        table, _, condition = rows.partition(" WHERE ")
        number = f"{table}.{'rowid' if table == 'search' else 'latent'}"
        query = (
            f"SELECT {number}, {table}.label, {table}.explanation, explanations.record, {rank} FROM {table} "
            f"LEFT JOIN explanations ON explanations.latent = {number} WHERE {condition} {end}"
        )
        records = self._sqlite().execute(query, values)
        return [(i, self._leading(i, label, text, record), place) for i, label, text, record, place in records]

    def _leading(self, latent: int, label: str, explanation: str, record: str | None) -> str:
        """The text that names a latent (`heading`)."""
        if not explanation:
            return visible(label)
        scored_explanation = {"text": explanation, **json.loads(record or "{}")}
        return visible(
            explanation if explanation_leads(label, self._label_auroc(latent), scored_explanation) else label
        )

    def _label_auroc(self, latent: int) -> float | None:
        return float(self.columns["label_auroc"][latent]) if "label_auroc" in self.columns else None

    def search_labels(self, text: str, limit: int = 50) -> list[tuple[int, str, float]]:
        """Searches labels and explanations for words that begin with those of `text`.

        Returns (latent, text as in `labels`, rank), best first; a lower rank is better. A text without letters or
        digits is searched for literally, in the order of the latents.
        """
        if expression := match_expression(text):
            end = "ORDER BY rank, search.rowid LIMIT ?"
            return self._leading_texts("search WHERE search MATCH ?", (expression, limit), "rank", end)
        if not (plain := text.strip()):
            return []
        # the full-text index has no punctuation: scan the texts, with LIKE's wildcards taken literally
        escaped = plain.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        condition = "texts.label LIKE :text ESCAPE '\\' OR texts.explanation LIKE :text ESCAPE '\\'"
        values = {"text": f"%{escaped}%", "limit": limit}
        return self._leading_texts(f"texts WHERE {condition}", values, end="ORDER BY texts.latent LIMIT :limit")

    def latents_of_token(self, token_id: int, limit: int = 50) -> list[tuple[int, float]]:
        """(latent, score) of the latents that go together with a token, best first.

        Score 1 means that all of the latent's activation falls on the token, with full strength at every occurrence.
        Raises UserError for a token outside the vocabulary.
        """
        if not 0 <= token_id < len(self.tokens):
            raise UserError(f"token id {token_id} is out of range; this vocabulary has ids 0 to {len(self.tokens) - 1}")
        first, last = (int(x) for x in self._arrays["index_offsets"][token_id : token_id + 2])
        last = min(last, first + limit)  # stored best first: the limit cuts the weakest
        scores = self._arrays["index_score"][first:last].astype(np.float32)
        return [(int(i), float(s)) for i, s in zip(self._arrays["index_latent"][first:last], scores)]

    def tokens_matching(self, text: str, limit: int = 50) -> list[int]:
        """Ids of the tokens whose text is `text`, then begins with it, then contains it."""
        return self.tokens.matching(text, limit)

    def write_explanations(self, explanations: Mapping[int, tuple[str, Mapping[str, Any]]]) -> None:
        """Stores {latent: (text, record)} in one transaction; earlier explanations of these latents are replaced.

        `record` is a JSON object with the model, scores and so on. Raises UserError for a latent out of range or a
        folder that cannot be written.
        """
        rows = [
            (self.check(i), text, json.dumps(dict(record), ensure_ascii=False, allow_nan=False))
            for i, (text, record) in explanations.items()
        ]
        try:
            # a connection's own context manager commits or rolls back, but does not close
            with closing(sqlite3.connect(self.files.sqlite, timeout=30)) as connection, connection:
                for latent, text, record in rows:
                    replace_explanation(connection, latent, text, record)
        except sqlite3.Error as error:
            raise UserError(f"cannot write {self.files.sqlite}: {error}; check the folder's permissions") from None

    def _sqlite(self) -> sqlite3.Connection:
        """This thread's read-only connection; SQLite connections must not be shared between threads."""
        if not hasattr(self._local, "connection"):
            uri = f"{(self.files.sqlite).resolve().as_uri()}?mode=ro"
            self._local.connection = sqlite3.connect(uri, uri=True, timeout=30)
        connection: sqlite3.Connection = self._local.connection
        return connection


def list_features(run: Path) -> list[tuple[str, str]]:
    """(site, name) of every feature database of a run, sorted."""
    return [(database.site, database.name) for database in RunFiles(run).databases()]


def open_features(run: Path, site: str | None = None, name: str | None = None) -> FeatureDatabase:
    """Opens the database of one SAE of a run; without site or name, the first one that fits, controls last.

    Raises UserError for a folder that is not a run, an unknown SAE, one whose training stopped early, one without
    features (with the command that builds them), or one whose weights were replaced since its features were built.
    """
    read_run(run)
    candidates = [sae for sae in saved_saes(run) if site in (None, sae.site) and name in (None, sae.name)]
    if site and name:
        if not candidates:
            raise unknown("SAE", f"{site}/{name}", [sae.label for sae in saved_saes(run)])
        refuse_stopped(candidates[0].label, candidates[0].stopped)
    features = list_features(run)
    for sae in candidates:
        if sae.key in features and not sae.stopped:
            return open_current(run, *sae.key)
    flag = f" --saes {site}/{name}" if site and name else ""
    subject = f"SAE {site}/{name} of run {run}" if site and name else f"run {run}"
    raise UserError(f"{subject} has no features yet; build them: monosemy features {run}{flag}")


def open_current(run: Path, site: str, name: str) -> FeatureDatabase:
    """Opens the database at the SAE's place. Raises UserError as `FeatureDatabase.open`, and for one of other weights
    than those that now lie in the SAE's folder."""
    files = RunFiles(run)
    database = FeatureDatabase.open(files.features(site, name).folder)
    if describes_another(database.info, files.sae(site, name).folder):
        raise UserError(
            f"the features of {site}/{name} describe an SAE that has since been replaced; they are being built again, "
            f"or build them: monosemy features {shlex.quote(str(run))} --saes {site}/{name}"
        )
    return database


def _damaged(path: Path, error: Exception) -> UserError:
    reason = "missing" if isinstance(error, FileNotFoundError) else str(error)
    return UserError(f"{path} is missing or damaged ({reason}); build it again: monosemy features RUN")
