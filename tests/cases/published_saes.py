"""Published SAEs, in the files of the libraries that made them, with the codes and reconstructions that they compute.

`published_saes/<case>/` is what the library wrote, `<case>.safetensors` has x, codes and recon in its units. Made with
sae-lens 6.54.12, dictionary-learning 0.1.0, eai-sparsify 1.3.3, and for Gemma Scope in the layout of its repositories;
random weights of 24 × 96, decoder rows of unequal length except where the name says unit.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "published_saes"
CASES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def outputs(case: str) -> dict[str, Tensor]:
    """x [40, 24], codes [40, 96] and recon [40, 24], as the source library gives them."""
    return load_file(FOLDER / f"{case}.safetensors")
