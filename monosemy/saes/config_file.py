"""Reads and writes config.json, which describes the weights beside it in the folder of a saved SAE.

Place on the data's path: storage.py writes and checks it, listing.py lists a run's SAEs by it. No torch is imported
here, because the browser's server reads the file too.

Version 1: {"format": "monosemy-sae", "format_version": 1, "weights_sha256", "sae": SaeConfig as JSON}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.layout import SaeFiles
from monosemy.support import files

FORMAT, FORMAT_VERSION = "monosemy-sae", 1


def write_config_file(folder: Path, sae: Mapping[str, Any], weights_sha256: str) -> None:
    """Describes the SAE in `folder`: its SaeConfig as JSON, and the SHA-256 of its weights."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "weights_sha256": weights_sha256, "sae": dict(sae)}
    files.write_json(SaeFiles(folder).config, document)


def read_config_file(folder: Path) -> Any:
    """Reads the file without a check of its content, so that lists can show what `load_sae` would refuse.

    Raises UserError when it is missing or not valid JSON.
    """
    return files.read_json(SaeFiles(folder).config)


def checked_config_file(folder: Path) -> dict[str, Any]:
    """Reads the file. Raises UserError when the folder is not a saved SAE or has another format version."""
    path = SaeFiles(Path(folder).expanduser()).config
    if not os.path.exists(path):  # unlike Path.exists, without an error for a name that is too long
        missing = f"it has no {path.name}" if os.path.isdir(path.parent) else "no such folder or file"
        raise UserError(
            f"{folder} is not a saved SAE ({missing}); give a folder such as RUN/saes/SITE/NAME, or a name on the "
            "hub, OWNER/REPOSITORY/PATH, which monosemy catalogue lists"
        )
    document = read_config_file(path.parent)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} does not describe a monosemy SAE; give a folder such as RUN/saes/SITE/NAME")
    if document.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {document.get('format_version')!r}, this version of monosemy reads "
            f"{FORMAT_VERSION}; upgrade monosemy"
        )
    return document


def read_weights_sha256(folder: Path) -> str:
    """The SHA-256 that the SAE's weights have, as its config.json says."""
    return str(read_config_file(folder)["weights_sha256"])


def describes_another(feature_info: Mapping[str, Any], folder: Path) -> bool:
    """Whether features (features.json) were built from other weights than those now in the SAE's folder.

    False where one of the two does not say of which weights it is. Raises UserError as `read_config_file` does.
    """
    document = read_config_file(folder)
    weights = document.get("weights_sha256") if isinstance(document, dict) else None
    return bool(weights) and feature_info.get("sae_sha256", weights) != weights
