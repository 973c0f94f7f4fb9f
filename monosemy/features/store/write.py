"""Writes a feature database as a folder, under a temporary name that is replaced when it is complete.

Place on the path: `build` → [RUN/features/<site>/<name>/] → `database` (the reader).

    features.json                    info: what it was built from and how
    *.npy                            the arrays of `compact.ARRAYS` in small types, memory-mapped by the reader
    features.sqlite                  labels and explanations with full-text search; documents; thumbnails

Explanations of an older database of the same SAE, and all its other files such as prompts and replies, are carried
over: nothing that a user paid for is lost by building again.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from monosemy.errors import UserError
from monosemy.features.store.compact import ARRAYS, compact
from monosemy.layout import FeatureFiles
from monosemy.run import read_feature_info
from monosemy.support import files, locks

_SCHEMA = """
CREATE TABLE texts (latent INTEGER PRIMARY KEY, label TEXT NOT NULL, explanation TEXT NOT NULL, hints TEXT NOT NULL);
CREATE TABLE explanations (latent INTEGER PRIMARY KEY, text TEXT NOT NULL, record TEXT NOT NULL);
CREATE TABLE documents (id INTEGER PRIMARY KEY, source TEXT NOT NULL, origin TEXT NOT NULL);
CREATE TABLE pictures (position INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE VIRTUAL TABLE search USING fts5(
    label, explanation, content='texts', content_rowid='latent', tokenize='unicode61 remove_diacritics 2'
);
"""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Locks the database in `folder`, which need not exist yet, against other writers.

    A build copies the explanations of the older database and then replaces its folder, so an explanation written in
    between would be lost. A second writer is refused at once rather than made to wait. Raises UserError when another
    build or `explain` holds the lock, or when the folder cannot be written to.
    """
    try:
        lock = locks.acquire(FeatureFiles(folder).lock)
    except locks.LockedError as error:
        raise UserError(
            f"the features in {folder} are being built or explained by process {error.holder}; wait for it or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_database(
    folder: Path,
    info: Mapping[str, Any],
    arrays: Mapping[str, Shaped[ndarray, " ..."]],
    labels: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    documents: Iterable[tuple[int, str, str]],
    pictures: Mapping[int, bytes] = MappingProxyType({}),
) -> None:
    """Writes a database, which replaces an older one in `folder` only when it is complete.

    `arrays` are those of `compact.INPUTS`. `labels` has for every latent in order its text and a record with `hints`
    [text] and, where known, `peak_tokens` and `before_tokens` [(token id, log-odds)]. `documents` are (number, source,
    origin), `pictures` thumbnails (PNG or JPEG) by token index. Raises UserError when the folder cannot be written to,
    and ValueError for arrays that don't fit together.
    """
    small = compact(arrays, info["columns"], [record for _, record in labels])
    with files.atomic_folder(folder) as target:
        unfinished = FeatureFiles(target)
        for name in ARRAYS:
            np.save(unfinished.array(name), np.ascontiguousarray(small[name]), allow_pickle=False)
        # read from the older database, which stays in place until this block has ended
        explanations = _carry_over(folder, target, info)
        try:
            _write_sqlite(unfinished.sqlite, labels, documents, explanations, pictures=pictures)
        except sqlite3.Error as error:
            raise UserError(
                f"cannot write {FeatureFiles(folder).sqlite}: {error}; free space or choose another folder"
            ) from error
        files.write_json(unfinished.info, dict(info))


def _write_sqlite(
    path: Path,
    labels: Sequence[tuple[str, Mapping[str, Any]]],
    documents: Iterable[tuple[int, str, str]],
    explanations: Sequence[tuple[int, str, str]],
    *,
    pictures: Mapping[int, bytes],
) -> None:
    """Writes labels, explanations, documents and thumbnails in one transaction, with the full-text index."""
    # autocommit mode: the transaction below is explicit, so that everything is written in one
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size = 4096")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        explained = {latent: text for latent, text, _ in explanations}
        rows = (
            (i, text, explained.get(i, ""), json.dumps(record["hints"], ensure_ascii=False) if record["hints"] else "")
            for i, (text, record) in enumerate(labels)
        )
        connection.executemany("INSERT INTO texts VALUES (?, ?, ?, ?)", rows)
        connection.executemany("INSERT INTO documents VALUES (?, ?, ?)", documents)
        connection.executemany("INSERT INTO explanations VALUES (?, ?, ?)", explanations)
        connection.executemany("INSERT INTO pictures VALUES (?, ?)", pictures.items())
        # commands of FTS5, written as inserts: index all of `texts`, then merge the index into one segment
        connection.execute("INSERT INTO search (search) VALUES ('rebuild')")
        connection.execute("COMMIT")
        connection.execute("INSERT INTO search (search) VALUES ('optimize')")


def replace_explanation(connection: sqlite3.Connection, latent: int, text: str, record: str) -> None:
    """Replaces a latent's explanation, its record (JSON) and its entry in the full-text index.

    The caller opens the transaction that keeps the three consistent.
    """
    # the index keeps no copy of the text: deleting an entry needs the old words, before they are overwritten
    old = connection.execute("SELECT label, explanation FROM texts WHERE latent = ?", (latent,)).fetchone()
    remove = "INSERT INTO search (search, rowid, label, explanation) VALUES ('delete', ?, ?, ?)"
    connection.execute(remove, (latent, *old))
    connection.execute("UPDATE texts SET explanation = ? WHERE latent = ?", (text, latent))
    connection.execute("INSERT INTO search (rowid, label, explanation) VALUES (?, ?, ?)", (latent, old[0], text))
    connection.execute("INSERT OR REPLACE INTO explanations VALUES (?, ?, ?)", (latent, text, record))


def _carry_over(old: Path, new: Path, info: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """Copies the files that are not part of the format from the old folder to the new one; returns its explanations.

    If the old database was of another SAE (one trained again under the same name), the files go into a folder
    `earlier-…`. Its explanations would be wrong for the new SAE; they are kept there, and none are returned.
    """
    replaced = FeatureFiles(old)
    if not replaced.info.exists():
        return []
    own = [replaced.info, replaced.sqlite, replaced.sqlite_journal, *map(replaced.array, ARRAYS)]
    names = {path.name for path in own}
    sha = _sae_sha256(old)
    same = sha == info.get("sae_sha256")
    earlier = FeatureFiles(new).earlier(sha)
    target = new if same else earlier.folder
    about_others = {files_of.folder for files_of in replaced.all_earlier()}
    for path in sorted(old.iterdir()):
        if path in about_others:
            shutil.copytree(path, new / path.name)
        elif path.name not in names and not path.name.startswith("."):
            target.mkdir(exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, target / path.name)
    explanations = _explanations(replaced.sqlite)
    if explanations and not same:
        target.mkdir(exist_ok=True)
        records = [{"latent": i, "text": text, "record": json.loads(record)} for i, text, record in explanations]
        files.write_json(earlier.replaced_explanations, records)
    return explanations if same else []


def _sae_sha256(folder: Path) -> str:
    """The hash of the SAE that a database was built of; empty where its features.json is damaged."""
    try:
        return str(read_feature_info(folder).get("sae_sha256", ""))
    except UserError:
        return ""


def _explanations(path: Path) -> list[tuple[int, str, str]]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute("SELECT latent, text, record FROM explanations ORDER BY latent").fetchall()
        except sqlite3.Error:  # a damaged file is what a new build is for
            return []
