"""Bookmarks and notes: kept apart from the database, one entry a latent, never half-written or overwritten."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from monosemy.errors import UserError
from monosemy.features.store.notes import MAX_CHARACTERS, ChangedError, put_note, read_notes
from monosemy.layout import RunFiles

SITE, NAME = "layers.2.resid_post", "topk-l0_8-s0"


def test_a_note_survives_and_is_replaced_and_removed(tmp_path: Path):
    assert read_notes(tmp_path) == []
    put_note(tmp_path, SITE, NAME, 7, bookmark=True, text="")
    put_note(tmp_path, SITE, NAME, 3, bookmark=False, text="months, <b>not</b> days")
    put_note(tmp_path, SITE, NAME, 7, bookmark=True, text="July")
    assert [(note.latent, note.bookmark, note.text) for note in read_notes(tmp_path)] == [
        (3, False, "months, <b>not</b> days"),
        (7, True, "July"),
    ]
    left = put_note(tmp_path, SITE, NAME, 7, bookmark=False, text="  ")
    assert [note.latent for note in left] == [3] == [note.latent for note in read_notes(tmp_path)]


def test_a_bookmark_leaves_the_text_alone_and_a_text_the_bookmark(tmp_path: Path):
    put_note(tmp_path, SITE, NAME, 7, text="July")
    put_note(tmp_path, SITE, NAME, 7, bookmark=True)
    assert [(note.bookmark, note.text) for note in read_notes(tmp_path)] == [(True, "July")]
    put_note(tmp_path, SITE, NAME, 7, text="months")
    assert [(note.bookmark, note.text) for note in read_notes(tmp_path)] == [(True, "months")]
    put_note(tmp_path, SITE, NAME, 7, bookmark=False)
    assert [(note.bookmark, note.text) for note in read_notes(tmp_path)] == [(False, "months")]
    assert put_note(tmp_path, SITE, NAME, 7, text="") == []


def test_a_text_that_its_writer_did_not_see_is_not_overwritten(tmp_path: Path):
    put_note(tmp_path, SITE, NAME, 7, text="an hour's work", before="")
    with pytest.raises(ChangedError, match="latent 7 was changed elsewhere"):
        put_note(tmp_path, SITE, NAME, 7, text="from an old page", before="")
    assert read_notes(tmp_path)[0].text == "an hour's work"
    put_note(tmp_path, SITE, NAME, 7, text="more", before="an hour's work")
    put_note(tmp_path, SITE, NAME, 7, text="more", before="")  # the same text, sent twice
    assert read_notes(tmp_path)[0].text == "more"


def test_notes_of_two_saes_stay_apart(tmp_path: Path):
    put_note(tmp_path, SITE, NAME, 1, bookmark=True, text="a")
    put_note(tmp_path, SITE, "relu-l0_8-s0", 1, bookmark=True, text="b")
    assert {(note.name, note.text) for note in read_notes(tmp_path)} == {(NAME, "a"), ("relu-l0_8-s0", "b")}


def test_a_damaged_or_newer_file_is_refused_and_left_as_it_is(tmp_path: Path):
    for content in (
        "{",
        json.dumps({"format": 2, "notes": []}),
        json.dumps({"format": 1, "notes": [{"site": 1}]}),
        "[]",
    ):
        RunFiles(tmp_path).notes.write_text(content)
        with pytest.raises(UserError, match=r"notes\.json"):
            put_note(tmp_path, SITE, NAME, 0, bookmark=True, text="new")
        assert RunFiles(tmp_path).notes.read_text() == content


def test_a_long_note_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="at most 20,000 characters, got 20,001"):
        put_note(tmp_path, SITE, NAME, 0, bookmark=True, text="x" * (MAX_CHARACTERS + 1))
    assert not RunFiles(tmp_path).notes.exists()


def _write_ten(run: Path, first: int) -> None:
    for latent in range(first, first + 10):
        put_note(run, SITE, NAME, latent, bookmark=True, text=str(latent))


def test_two_processes_writing_at_once_lose_nothing(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_ten, args=(tmp_path, first)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [note.latent for note in read_notes(tmp_path)] == [*range(10), *range(100, 110)]
