"""Published SAEs, in the files of the libraries that made them, with the codes and reconstructions that they compute.

`published_saes/<case>/` is what the library wrote, `<case>.safetensors` has x, codes and recon in its units. Made with
sae-lens 6.54.12, dictionary-learning 0.1.0, eai-sparsify 1.3.3, and for Gemma Scope in the layout of its repositories;
random weights of 24 × 96, decoder rows of unequal length except where the name says unit. Layouts without a library at
hand are written from `random_weights`, D × F, and held to their equations on N rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosemy.saes.base import SparseAutoencoder

FOLDER = Path(__file__).parent / "published_saes"
CASES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def outputs(case: str) -> dict[str, Tensor]:
    """x [40, 24], codes [40, 96] and recon [40, 24], as the source library gives them."""
    return load_file(FOLDER / f"{case}.safetensors")


D, F, N = 12, 40, 60
TOLERANCE = 1e-5


def random_weights() -> dict[str, Tensor]:
    """Rows x [N, D] and the tensors of an SAE or transcoder of any kind."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        "x": draw(N, D) + 0.3,
        "W_enc": draw(D, F),
        "W_dec": draw(F, D),
        "b_enc": draw(F),
        "b_dec": draw(D),
        "threshold": draw(F).abs(),
        "W_skip": draw(D, D),
    }


def topk(pre: Tensor, k: int) -> Tensor:
    """ReLU(TopK_k(π))."""
    cut = pre.topk(k, dim=1).values[:, -1:]
    return pre.relu() * (pre >= cut)


def assert_same(sae: SparseAutoencoder, x: Tensor, codes: Tensor, recon: Tensor) -> None:
    """Codes and reconstructions within 1e-5 of their largest value, and the very same latents active."""
    code = sae.encode(x)
    dense = code.to_dense()
    assert torch.equal(dense > 0, codes > 0)
    assert float((dense - codes).abs().max()) <= TOLERANCE * float(codes.abs().max())
    for reconstruction in (sae(x), sae.decode(code)):
        assert float((reconstruction - recon).abs().max()) <= TOLERANCE * float(recon.abs().max())


def lens_folder(folder: Path, stored: dict[str, Tensor], **settings: object) -> Path:
    """Writes an SAE in SAELens' layout, by default as version 6 does."""
    folder.mkdir(exist_ok=True)
    version = {"sae_lens_version": "6.1.0", "hook_name": "blocks.2.hook_resid_post", "model_name": "pythia-70m"}
    metadata = {**version, **settings.pop("metadata", {})}  # type: ignore[dict-item]
    cfg = {"architecture": "standard", "d_in": D, "d_sae": F, "metadata": metadata, **settings}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "sae_weights.safetensors")
    return folder
