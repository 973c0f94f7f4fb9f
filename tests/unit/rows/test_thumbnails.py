"""Pictures of rows: only files under one folder, only of known formats, and never large."""

from __future__ import annotations

import contextlib
import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from monosemy.errors import UserError
from monosemy.rows import thumbnails
from monosemy.rows.thumbnails import PictureError, picture_bytes, thumbnail


def encoded(size, kind="PNG", mode="RGB"):
    data = io.BytesIO()
    Image.new(mode, size, 128).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize(
    ("size", "shown"), [((8, 8), (96, 96)), ((20, 10), (80, 40)), ((400, 200), (96, 48)), ((60, 96), (60, 96))]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_thumbnail_has_the_picture_s_proportions(size, shown, kind):
    assert Image.open(io.BytesIO(thumbnail(encoded(size, kind)))).size == shown


def test_files_are_read_from_the_folder_alone(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"outside")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "inner.png").symlink_to(folder / "deep" / "a.png")
    os.mkfifo(folder / "pipe.png")
    for name in ("deep/a.png", "./deep/../deep/a.png", str(folder / "deep" / "a.png"), "inner.png"):
        assert picture_bytes(name, folder) == b"inside"
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "/etc/passwd", "deep/../../secret.png"):
        with pytest.raises(UserError, match="is not in"):
            picture_bytes(name, folder)
    for name in ("gone.png", "deep", "pipe.png", "", None, 3, "a\0b"):
        with pytest.raises(PictureError):
            picture_bytes(name, folder)


def test_large_files_and_pictures_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 100)
    (tmp_path / "a.png").write_bytes(bytes(101))
    with pytest.raises(PictureError, match="more than 100 bytes"):
        picture_bytes("a.png", tmp_path)
    with pytest.raises(PictureError, match="101 bytes"):
        picture_bytes({"bytes": bytes(101), "path": None}, tmp_path)
    monkeypatch.setattr(thumbnails, "MOST_PIXELS", 99)
    with pytest.raises(PictureError, match="10 × 10 pixels"):
        thumbnail(encoded((10, 10)))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]), st.integers(0, 200))
def test_damaged_pictures_are_refused_or_read(noise, kind, cut):
    data = encoded((9, 9), kind)
    for content in (noise, data[:cut], data[:cut] + noise):
        with contextlib.suppress(PictureError):
            Image.open(io.BytesIO(thumbnail(content))).load()
