"""Activations read by another engine, through interp-engine: vLLM on GPUs, or its own passes on any machine.

Place on the path: tokens → [activations at sites, by the engine] → store or stream → SAE. `EngineReader` is what
harvesting asks of a model (`activations.harvest.ActivationModel`); everything else (losses with reconstructions spliced
in, steering, text, circuits) runs on the transformers model, which `LanguageModel` is.

    eager         transformers' modules, hooked by interp-engine: the same calls as vLLM's, without vLLM, to check them
    vllm          vLLM with hooks in its workers; every site
    vllm-static   vLLM with CUDA graphs, into which the run's sites are baked when it starts

What vLLM does otherwise than transformers, and what follows here:

    one prompt a request      the rows of a batch go as requests side by side, each without its padding
    prefix cache              every capture has its own salt (interp-engine), so that no position is left out
    long prompts in chunks    the worker joins the chunks (interp-engine); a missing row is an error
    one token is generated    a text may have one token less than the model has positions
    max_model_len             that of the run, since families with scaled positions choose their scale by it
    fused kernels             bits differ from transformers', so stores and runs have a fingerprint of their own
    scaled contributions      a site is read where interp-engine scales it (Granite), as `contribution_scale` does
    code of a repository      never run: trust_remote_code is off

At its first pass the engine is compared with the transformers model at every site, on a few random tokens: a site whose
median row is off by more than `AGREEMENT` is refused. The engine starts at the first pass and ends with `close`.

Source: interp-engine 1.14 (`load_model`, `InterpModel.capture`). Limits: one process; no GGUF, no redrawn or 8-bit
weights; a model without a tokenizer is refused, since interp-engine loads one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monosemy.config import ModelConfig
from monosemy.config import fingerprint as hash_json
from monosemy.errors import UserError
from monosemy.models.architecture import find_engine, first_sentence
from monosemy.models.checks import sample_tokens
from monosemy.models.padding import check_unpadded, read_mask, read_tokens
from monosemy.models.sites import KINDS, POST_NORM_KINDS, parse_site
from monosemy.models.sources import local_folder, quiet_transformers
from monosemy.shapes import SiteActivations, TextMask, TokenIds
from monosemy.support.numbers import percent_text

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel

TRANSFORMERS = "transformers"
VLLM_BACKENDS = ("vllm", "vllm-static")
INSTALL = "pip install 'monosemy[vllm]'"
AGREEMENT = {torch.float32: 0.01, torch.bfloat16: 0.1, torch.float16: 0.1}
"""The largest median relative error ‖a − b‖ / ‖a‖ of a row between the two engines, by dtype: above the rounding of
kernels that add in another order, below what a neighbouring layer's or an unscaled activation differs by."""
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "2"}
"""vLLM's, where the user has set nothing: it reports nothing to its makers, says only what is wrong, and on a processor
takes 2 GiB for keys and values."""


def require_backend(settings: ModelConfig, n_processes: int = 1) -> None:
    """Raises UserError for a backend that does not go with other settings; looks at neither machine nor model."""
    backend = settings.backend
    flag = f"--model.backend {backend}"
    if backend not in VLLM_BACKENDS and settings.tensor_parallel > 1:
        raise UserError(
            f"--model.tensor-parallel {settings.tensor_parallel} spreads vLLM over GPUs, and {flag} does not use it; "
            "leave it out, or choose --model.backend vllm"
        )
    if backend == TRANSFORMERS:
        return
    reads = f"{flag} reads the weights as they are saved"
    if settings.source.lower().endswith(".gguf"):
        raise UserError(f"{reads}, which does not go with a .gguf file; give the model as a folder or a hub id")
    if settings.randomise != "none":
        raise UserError(f"{reads}, which does not go with --model.randomise {settings.randomise}; leave one out")
    if settings.weights != "full":
        raise UserError(f"{reads}, which does not go with --model.weights {settings.weights}; leave one out")
    if backend in VLLM_BACKENDS and n_processes > 1:
        raise UserError(
            f"{flag} runs in one process, and {n_processes} would each start it; use one process, and "
            "--model.tensor-parallel for several GPUs"
        )


def require_here(settings: ModelConfig) -> None:
    """Raises UserError when this machine cannot run the backend: vLLM is missing, or GPUs are."""
    backend = settings.backend
    if backend not in VLLM_BACKENDS:
        return
    elsewhere = "; --model.backend eager takes the same way without it"
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"--model.backend {backend} needs vLLM, which is not installed: {INSTALL}{elsewhere}")
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if backend == "vllm" and settings.tensor_parallel == 1 and vllm_for_cpus():
        return
    if n_devices < settings.tensor_parallel:
        needed = "a GPU" if settings.tensor_parallel == 1 else f"{settings.tensor_parallel} GPUs"
        raise UserError(f"--model.backend {backend} needs {needed}, and there are {n_devices}{elsewhere}")


def vllm_for_cpus() -> bool:
    """Whether the installed vLLM is a build for processors, as vLLM itself tells: by its name or version."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return importlib.util.find_spec("vllm") is not None


class EngineReader:
    """Reads the activations of a language model at sites, by another engine than transformers.

    `sites` are those that a run reads, by any of their names, and `context_length` its longest text.
    """

    def __init__(
        self, model: LanguageModel, source: str, settings: ModelConfig, *, sites: Sequence[str], context_length: int
    ) -> None:
        """Raises UserError for what the backend cannot do, before anything is started."""
        require_backend(settings)
        self.backend, self.name, self.dtype = settings.backend, model.name, model.dtype
        self.special_token_ids = model.special_token_ids
        self.fingerprint = hash_json({"model": model.fingerprint, "backend": self.backend})
        self._model, self._settings, self._context_length = model, settings, context_length
        model.tokenizer_for(f"--model.backend {self.backend}")
        if self.backend in VLLM_BACKENDS and context_length >= model.max_positions:
            raise UserError(
                f"--text.context-length {context_length} leaves vLLM none of the {model.max_positions} positions of "
                f"{model.name} for the token that it generates; lower it to {model.max_positions - 1} or less"
            )
        self._folder = local_folder(source, model.commit)
        self._engine: Any = None
        self._sites = tuple(dict.fromkeys(model.resolve(site) for site in sites))
        self._sites = tuple(self.resolve(site) for site in self._sites)
        self._ends: weakref.finalize | None = None

    def resolve(self, site: str) -> str:
        """The canonical name of a site. Raises UserError as `LanguageModel.resolve`, and for a site that the engine, or
        one with CUDA graphs that did not declare it, cannot give."""
        name = self._model.resolve(site)
        if self.backend == "vllm-static" and name not in self._sites:
            raise UserError(f"{self._title} was started for {', '.join(self._sites)} only, and not for {name}")
        engine = self._engine
        if engine is None and self.backend not in VLLM_BACKENDS:
            # What it says of a site it says of the same modules; vLLM's are known when it runs.
            engine = find_engine(self._model.module, self.name)
        if engine is not None and (reason := engine.refuses(self._address(name))):
            layer = name.rsplit(".", 1)[0]
            served = [
                other
                for other in self._model.site_names()
                if other.startswith(f"{layer}.") and engine.serves(self._address(other))
            ]
            raise UserError(
                f"{self._title} gives no {name}: {first_sentence(ValueError(reason))}; it gives at this layer: "
                f"{', '.join(served) or 'no site'}"
            )
        return name

    def site_width(self, site: str) -> int:
        """The width d of the activations at a site."""
        return self._model.site_width(site)

    @torch.no_grad()
    def activations(
        self, tokens: TokenIds, sites: Sequence[str], *, attention_mask: TextMask | None = None
    ) -> Mapping[str, SiteActivations]:
        """Reads the activations [B, T, d] at each site, by canonical name, in the model's dtype in main memory.

        Arguments, zeros at padding and errors are as in `LanguageModel.activations`. The first call starts the engine.
        """
        tokens = read_tokens(tokens)
        if attention_mask is None:
            check_unpadded(tokens, self._model.padding_names)
            attention_mask = torch.ones_like(tokens)
        mask_BT = read_mask(attention_mask, tokens).cpu()
        if (longest := int(mask_BT.sum(1).max())) > self._context_length:
            raise UserError(
                f"{longest} tokens per sequence exceed the {self._context_length} that {self._title} is for"
            )
        self._start()
        names = [self.resolve(site) for site in sites]
        return self._read(tokens.cpu(), mask_BT, names)

    def close(self) -> None:
        """Ends the engine and frees its memory; the next pass starts another."""
        if self._ends is not None:
            self._ends()
        self._engine, self._ends = None, None

    @property
    def _title(self) -> str:
        return f"--model.backend {self.backend}"

    def _address(self, name: str) -> Any:
        """interp-engine's address of a site."""
        from interp_engine.address import Address

        site = parse_site(name, self._model.n_layers, post_norms=self._model.post_norms)
        point = KINDS[site.kind].point
        # What the layer adds to the stream, scaled where it scales it; without a post-norm one name stands for both.
        if not self._model.post_norms and point in POST_NORM_KINDS.values():
            point += "_post"
        return Address(point, site.layer)

    def _read(self, tokens: Tensor, mask_BT: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        addresses = {name: self._address(name) for name in dict.fromkeys(names)}
        prompts = [row[mask].tolist() for row, mask in zip(tokens, mask_BT, strict=True)]
        engine, read = self._engine, {}
        with self._explained("stopped"):
            # Not `run`, which refuses to be called where a notebook's own loop runs.
            captured = engine.runner.submit(_captured(engine.model, prompts, [*addresses.values()])).result()
        for name, address in addresses.items():
            rows_BTD = torch.zeros(*tokens.shape, self.site_width(name), dtype=self.dtype)
            rows_BTD[mask_BT] = torch.cat([rows[address] for rows in captured]).to(self.dtype)
            read[name] = rows_BTD
        return read

    def _start(self) -> None:
        """Starts the engine, unless it runs, and compares it with the transformers model."""
        if self._engine is not None:
            return
        require_here(self._settings)
        try:
            with self._explained("could not be started"), quiet_transformers():
                self._engine = self._loaded()
                self._ends = weakref.finalize(self, self._engine.shutdown)
                self._engine.warmup()
            for site in self._sites:
                self.resolve(site)
            self._compare()
        except BaseException:
            self.close()
            raise

    def _loaded(self) -> Any:
        """interp-engine's model, driven from synchronous code."""
        from interp_engine import load_model, sync_model

        settings, module = self._settings, self._model.module
        options: dict[str, Any] = {"backend": self.backend, "dtype": settings.dtype, "trust_remote_code": False}
        if self.backend not in VLLM_BACKENDS:
            attention = getattr(module.config, "_attn_implementation", None)
            options |= {"device": str(self._model.device), "attn_implementation": attention}
        else:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            # interp-engine may have imported vLLM before; its workers read the environment.
            logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
            options |= {"num_gpus": settings.tensor_parallel, "gpu_memory_utilization": settings.gpu_memory}
            options["max_model_len"] = self._context_length + 1
        if self.backend == "vllm-static":
            options |= {"static_points": [self._address(site) for site in self._sites], "static_writes": []}
        return sync_model(load_model(str(self._folder), **options))

    def _compare(self) -> None:
        """Raises UserError for the first site whose activations differ from those of the transformers model."""
        tokens = sample_tokens(self._model)[:, : self._context_length].cpu()
        expected = self._model.activations(tokens, self._sites, attention_mask=torch.ones_like(tokens))
        read = self._read(tokens, torch.ones_like(tokens, dtype=torch.bool), self._sites)
        for site, value_BTD in expected.items():
            error = median_row_error(value_BTD.cpu(), read[site])
            if not error <= AGREEMENT[self.dtype]:
                raise UserError(
                    f"{self._title} gives other activations at {site} than transformers: half of the rows are off by "
                    f"{percent_text(error)} of their norm or more (at most {percent_text(AGREEMENT[self.dtype])}); use "
                    "--model.backend transformers"
                )

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns errors of the engine within the block into a UserError of one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of vLLM, its workers and interp-engine: all sorts
            of_vllm = self.backend in VLLM_BACKENDS
            advice = "; vLLM's own messages above say why (memory: --model.gpu-memory)" if of_vllm else ""
            raise UserError(f"{self._title} {what}: {first_sentence(error)[:300]}{advice}") from error


async def _captured(model: Any, prompts: Sequence[list[int]], addresses: Sequence[Any]) -> list[dict[Any, Tensor]]:
    """The activations of every prompt by address; the requests run side by side, so that the engine can batch them."""
    return await asyncio.gather(*(model.capture(prompt, addresses) for prompt in prompts))


def median_row_error(expected: Tensor, read: Tensor) -> float:
    """The median over rows of ‖a − b‖ / ‖a‖, from activations [..., d]."""
    gap = torch.linalg.vector_norm(expected.double() - read.double(), dim=-1)
    size = torch.linalg.vector_norm(expected.double(), dim=-1)
    return float((gap / size.clamp_min(1e-30)).median())
