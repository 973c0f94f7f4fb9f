"""Do SAEs give the same codes and reconstructions in monosemy and in the library whose layout they are in?

    python -m research.formats.run

needs sae-lens, dictionary-learning and eai-sparsify, which resolve together with this package in an environment of
their own (`pip install 'monosemy[bench]'`). "Read": the files in tests/cases/published_saes, made by the libraries,
opened here and compared with the outputs that the libraries gave. "Written": SAEs of the five architectures, and the
read ones, exported in each layout and opened by that layout's own library. Differences are shares of the largest value.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig, SparseAutoencoder, calibrate
from monosemy.saes.formats import WRITERS, export
from monosemy.saes.formats.exported import write_exported
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.saes.storage import load_sae
from research.records import record_path, write_record

CASES = Path(__file__).parents[2] / "tests" / "cases" / "published_saes"
LIBRARIES = ("sae-lens", "dictionary-learning", "eai-sparsify")
D_IN, D_SAE, N_ROWS = 64, 512, 400
WIDE = (2304, 16384)
"""The width and the number of latents of the SAE that is timed: Gemma 2 2B's residual stream, 16k latents."""

Outputs = tuple[Tensor, Tensor]
"""Codes and reconstructions."""


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record = {
        "versions": {name: version(name) for name in LIBRARIES},
        "read": {case: read_difference(case) for case in cases()},
        "written": {layout: written_differences(layout) for layout in WRITERS},
        "opening": opening(),
    }
    write_record(record_path("formats"), record)


def cases() -> list[str]:
    return sorted(path.name for path in CASES.iterdir() if path.is_dir())


def read_difference(case: str) -> dict[str, Any]:
    outputs = load_file(CASES / f"{case}.safetensors")
    return difference(ours(load_sae(CASES / case), outputs["x"]), (outputs["codes"], outputs["recon"]))


def ours(sae: SparseAutoencoder, x: Tensor) -> Outputs:
    return sae.encode(x).to_dense(), sae(x)


def difference(a: Outputs, b: Outputs) -> dict[str, Any]:
    shares = [float((left - right).abs().max() / right.abs().max()) for left, right in zip(a, b, strict=True)]
    return {"codes": shares[0], "reconstruction": shares[1], "same_support": bool(torch.equal(a[0] > 0, b[0] > 0))}


def subjects() -> Iterator[tuple[str, SparseAutoencoder, Tensor]]:
    """(name, SAE, rows) of the five architectures as they are saved after training, and of the published ones."""
    x = torch.randn(N_ROWS, D_IN, generator=torch.Generator().manual_seed(0)) + 0.5
    for name in ARCHITECTURES:
        config = SaeConfig(name, D_IN, D_SAE, 16.0, site="layers.3.resid_post", model="openai-community/gpt2", seed=1)
        sae = build_sae(config)
        sae.initialise(x, 16)
        calibrate(sae, [x])
        sae.fold_scale(5.0)
        yield name, sae.eval().requires_grad_(False), x * 5
    for case in cases():
        yield case, load_sae(CASES / case), load_file(CASES / f"{case}.safetensors")["x"]


def written_differences(layout: str) -> dict[str, Any]:
    """The differences of every SAE that the layout holds and whose library is here, by the SAE's name."""
    opened: dict[str, Callable[[Path, SparseAutoencoder, Tensor], Outputs]] = {
        "sae-lens": by_sae_lens,
        "sparsify": by_sparsify,
        "dictionary-learning": by_dictionary_learning,
        "gemma-scope-2": by_gemma_loader,
        "circuit-tracer": by_equation,
    }
    differences = {}
    for name, sae, x in subjects():
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
            try:
                folder = write_exported(export(sae, layout), Path(temporary))
            except UserError:
                continue
            with torch.no_grad():
                differences[name] = difference(ours(sae, x), opened[layout](folder, sae, x))
    return differences


def by_sae_lens(folder: Path, sae: SparseAutoencoder, x: Tensor) -> Outputs:
    from sae_lens import SAE

    theirs = SAE.load_from_disk(folder)
    rows = x.view(len(x), 4, -1) if sae.config.transforms.merge_heads else x
    return theirs.encode(rows), theirs(rows).flatten(1)


def by_sparsify(folder: Path, sae: SparseAutoencoder, x: Tensor) -> Outputs:
    from sparsify import SparseCoder

    theirs = SparseCoder.load_from_disk(folder)
    code = theirs.encode(x)
    dense = torch.zeros(len(x), sae.d_sae).scatter_(1, code.top_indices, code.top_acts)
    return dense, theirs(x).sae_out


def by_dictionary_learning(folder: Path, sae: SparseAutoencoder, x: Tensor) -> Outputs:
    from dictionary_learning.utils import load_dictionary

    theirs, config = load_dictionary(str(folder), "cpu")
    codes = theirs.encode(x)
    if config["trainer"]["dict_class"] == "AutoEncoder":
        codes = codes / sae.W_dec.norm(dim=1)  # its loader gives decoder rows unit length
    return codes, theirs(x)


def by_gemma_loader(folder: Path, sae: SparseAutoencoder, x: Tensor) -> Outputs:
    """sae-lens's own loader of Gemma Scope 2, which reads the files that it would otherwise fetch."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    name = "layer_3_transcoder" if sae.config.transforms.transcoder else "layer_3_resid_post"
    shapes = {key: list(tensor.shape) for key, tensor in load_file(folder / "params.safetensors").items()}
    loaders.hf_hub_download = lambda *words, **named: str(folder / Path(named.get("filename") or words[1]).name)
    setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)  # noqa: B010
    settings, tensors, _ = loaders.gemma_3_sae_huggingface_loader("google/gemma-scope-2-270m-pt", name)
    theirs = SAE.from_dict(loaders.handle_config_defaulting({**settings, "device": "cpu"}))
    theirs.load_state_dict(tensors)
    return theirs.encode(x), theirs(x)


def by_equation(folder: Path, sae: SparseAutoencoder, x: Tensor) -> Outputs:
    """circuit-tracer does not resolve with this package: its layout's equation, written out."""
    stored = load_file(next(folder.glob("layer_*.safetensors")))
    pre = x @ stored["W_enc"].T + stored["b_enc"]
    codes = pre.relu() * (pre > stored.get("activation_function.threshold", torch.zeros(())))
    skip = x @ stored["W_skip"].T if "W_skip" in stored else 0
    return codes, codes @ stored["W_dec"] + stored["b_dec"] + skip


def opening() -> dict[str, Any]:
    """Seconds to open a 16k SAE from each kind of file, seconds to read the file alone, and memory at the peak."""
    d_in, d_sae = WIDE
    generator = torch.Generator().manual_seed(0)
    arrays = {
        "W_enc": torch.randn(d_in, d_sae, generator=generator),
        "W_dec": torch.randn(d_sae, d_in, generator=generator),
        "b_enc": torch.zeros(d_sae),
        "b_dec": torch.zeros(d_in),
        "threshold": torch.ones(d_sae),
    }
    measured = {}
    with tempfile.TemporaryDirectory() as temporary:
        npz, lens = Path(temporary) / "npz", Path(temporary) / "lens"
        npz.mkdir()
        np.savez(npz / "params.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
        write_exported(export(load_sae(npz), "sae-lens"), lens)
        del arrays
        for name, folder in (("npz", npz), ("safetensors", lens)):
            script = [sys.executable, "-m", "research.formats.run", str(folder)]
            runs = [
                json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout) for _ in range(3)
            ]
            measured[name] = min(runs, key=lambda run: run["seconds"])
    return measured


def timed(folder: Path) -> dict[str, float]:
    """Opens an SAE once in this process: seconds, seconds to read its bytes, and peak memory as a share of weights."""
    small = CASES / "gemma_scope_1"
    load_sae(small).encode(torch.zeros(4, 24))  # imports and compiled kernels are not what is timed
    started = time.perf_counter()
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass
    reading = time.perf_counter() - started
    before = _memory("VmRSS")
    started, started_cpu = time.perf_counter(), time.process_time()
    sae = load_sae(folder)
    seconds, processor = time.perf_counter() - started, time.process_time() - started_cpu
    weights = sum(tensor.numel() * tensor.element_size() for tensor in sae.tensors().values())
    memory = (_memory("VmHWM") - before) / weights
    return {"seconds": seconds, "processor": processor, "reading": reading, "memory": memory}


def _memory(name: str) -> int:
    """This process's memory in bytes, now (VmRSS) or at its peak (VmHWM), as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(timed(Path(sys.argv[1]))))
    else:
        main()
