"""Writing safetensors files so that a full disk is an OSError like any other, and the file's mode is the user's own.

Place on the path: below everything that keeps tensors. safetensors reports failed writes in an exception of its own and
makes files that only their owner may read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes the tensors to `path`, which should be a temporary name (`files.atomic_path`). Raises OSError.

    The same tensors give the same bytes as long as `metadata` has at most one entry (more come in any order).
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(
            {n: t.detach().cpu().contiguous() for n, t in tensors.items()},
            path,
            metadata=dict(metadata) if metadata else None,
        )
    except SafetensorError as error:
        match = re.search(r"os error (\d+)", str(error))
        number = int(match[1]) if match else 0
        raise OSError(number, os.strerror(number) if number else str(error)) from error
    path.chmod(mode)
