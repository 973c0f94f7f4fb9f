"""Thumbnails of the pictures that rows stand for, small enough to lie in the feature database.

Place on the path: paths or bytes of pictures → [thumbnails] → feature database → pages. Pictures are read when features
are built, never by the server: whoever browses can name no file.

Whatever a table says, only regular files under one folder are opened, symbolic links followed first; their size, their
format and their number of pixels are checked before a pixel is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.support.numbers import count_text

SIDE = 96
"""Longest side of a thumbnail, in pixels."""
MOST_BYTES = 32 << 20
MOST_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_ENLARGE_BELOW = SIDE // 2
"""Smaller pictures, such as digits of 8 × 8 pixels, are enlarged by a whole factor, so that they can be seen."""


class PictureError(Exception):
    """A picture that cannot be read; the message says why."""


def picture_bytes(value: Any, folder: Path) -> bytes:
    """The content of a picture, given as bytes, as a path, or as a mapping with `bytes` or `path`.

    Raises PictureError when there is none, and UserError for a path that leads out of `folder`.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        if len(value) > MOST_BYTES:
            raise PictureError(f"a picture has {count_text(len(value))} bytes, more than {count_text(MOST_BYTES)}")
        return value
    if not isinstance(value, str) or not value.strip():
        raise PictureError("a row has no picture")
    return _file_bytes(value.strip(), folder)


def _file_bytes(name: str, folder: Path) -> bytes:
    """The content of a file under `folder`."""
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):
        raise PictureError(f"{name[:80]!r} is no path") from None
    if not path.is_relative_to(root):
        raise UserError(
            f"picture {name[:80]!r} is not in {folder}; name the folder that holds all pictures: --row-image-folder"
        )
    try:
        if not path.is_file():
            raise PictureError(f"{path} is no file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise PictureError(f"{path} cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise PictureError(f"{path} has more than {count_text(MOST_BYTES)} bytes")
    return data


def thumbnail(data: bytes) -> bytes:
    """A PNG or JPEG of at most `SIDE` pixels a side. Raises PictureError for what is no picture, or too large a one."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise PictureError(
                    f"a picture has {opened.width} × {opened.height} pixels, more than {count_text(MOST_PIXELS)}"
                )
            opened.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG files are decoded at a fraction of their size
            picture: Image.Image = ImageOps.exif_transpose(opened)
            is_photo = opened.format in ("JPEG", "WEBP")
            picture = picture.convert("RGB" if is_photo else "RGBA")
    except PictureError:
        raise
    except Exception as error:  # a damaged picture can raise anything in its decoder
        raise PictureError(f"a picture cannot be decoded ({type(error).__name__})") from None
    longest = max(picture.size)
    if longest < _ENLARGE_BELOW:
        factor = SIDE // longest
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    else:
        picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    if is_photo:
        picture.save(out, "JPEG", quality=82)
    else:
        picture.save(out, "PNG")
    return out.getvalue()
