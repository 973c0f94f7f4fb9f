"""Writes safetensors files with ordinary errors and permissions.

Place on the path: below everything that keeps tensors. safetensors reports a full disk in an exception of its own,
which becomes an OSError here, and creates files that only their owner may read, which get the user's usual mode here.
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
    """Writes tensors to `path`, which should be a temporary name (`files.atomic_path`). Raises OSError.

    The same tensors give the same bytes if `metadata` has at most one entry; several come in no fixed order.
    """
    # An ordinary file shows which mode the user's umask gives.
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(
            {n: t.detach().cpu().contiguous() for n, t in tensors.items()},
            path,
            metadata=dict(metadata) if metadata else None,
        )
    except SafetensorError as error:
        # The message is the only place where safetensors keeps the number of the operating system's error.
        match = re.search(r"os error (\d+)", str(error))
        number = int(match[1]) if match else 0
        raise OSError(number, os.strerror(number) if number else str(error)) from error
    path.chmod(mode)
