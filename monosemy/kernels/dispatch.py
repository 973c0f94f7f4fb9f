"""One point that chooses the backend of a kernel: numba on the CPU, Triton on CUDA, the PyTorch definition elsewhere.

Inputs are made contiguous here, so callers may pass views. The CPU kernels take float32 and float64, the Triton ones
float32, bfloat16 and float16; anything else (other devices, other number formats, no Triton) runs the reference.
At their first use on a device the Triton kernels are tested (self_test.py); where one fails, and where one cannot be
compiled or launched later, the reference runs instead of all of them, with one warning. MONOSEMY_KERNELS=reference has
it run anywhere; =triton has Triton take the CPU's tensors too, in its interpreter, which is for tests.

`encode_*` are the encoder's product and the selection in one: (pattern, π on it), without gradient. On CUDA the
pre-activations [N, F] are never held; on the CPU they live until the selection is done.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.errors import UserError
from monosemy.kernels import reference
from monosemy.kernels.reference import AdamStep, Columns, Pattern
from monosemy.shapes import (
    Activations,
    DecoderMatrix,
    EncoderMatrix,
    PerEntry,
    PerInput,
    PerLatent,
    PerToken,
    PreActs,
)

T = TypeVar("T")
KERNELS = ("auto", "triton", "reference")

DENSE_ABOVE = 0.10
"""Density from which a dense product beats the sparse kernels (two AVX-512 cores: research/speed/README.md)."""


@functools.cache
def _compiled() -> ModuleType:
    from monosemy.kernels.cpu import sparse as cpu

    return cpu


@functools.cache
def _triton(device: torch.device) -> ModuleType | None:
    """The Triton kernels, where they are installed and do on this device what they should."""
    try:
        from monosemy.kernels.cuda import sparse as triton
    except ImportError:
        return None
    from monosemy.kernels.self_test import failure

    with torch.no_grad(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        reason = failure(triton, device)
    if reason is None:
        return triton
    _warn_replaced(device, reason)
    return None


_given_up: set[torch.device] = set()
"""Devices where a kernel could not be run after it had passed the test."""


def _usable_triton(device: torch.device) -> ModuleType | None:
    return None if device in _given_up else _triton(device)


def _give_up(device: torch.device, name: str, error: Exception) -> None:
    """Has the reference take the place of the Triton kernels on a device from now on."""
    _given_up.add(device)
    _warn_replaced(device, f"{name}: {(str(error).strip() or type(error).__name__).splitlines()[0]}")


def _warn_replaced(device: torch.device, reason: str) -> None:
    warnings.warn(
        f"the Triton kernels do not work on {device} ({reason}); PyTorch's own operations take their place, with the "
        "same results and more slowly. MONOSEMY_KERNELS=reference chooses them without this test",
        stacklevel=2,
    )


@functools.cache
def _wanted() -> str:
    """Which kernels the environment asks for. Raises UserError for a word that names none."""
    wanted = os.environ.get("MONOSEMY_KERNELS", "auto")
    if wanted not in KERNELS:
        raise UserError(f"MONOSEMY_KERNELS is {wanted!r}; choose {', '.join(KERNELS)}")
    return wanted


def _backend(tensor: Tensor) -> ModuleType:
    if _wanted() != "auto":
        return _named_backend(tensor)
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        return _compiled()
    if tensor.is_cuda and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16):
        return _usable_triton(tensor.device) or reference
    return reference


def _named_backend(tensor: Tensor) -> ModuleType:
    """The backend of a tensor where MONOSEMY_KERNELS names one."""
    if _wanted() == "triton" and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16):
        return _usable_triton(tensor.device) or reference
    return reference


def backend_name(tensor: Tensor) -> str:
    """Which kernels a tensor like this one runs on: `numba`, `triton` or `reference`."""
    backend = _backend(tensor)
    if backend is reference:
        return "reference"
    return "numba" if ".cpu." in backend.__name__ else "triton"


def _on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def _run(name: str, deciding: Tensor, *arguments: object, **options: object) -> object:
    plain = [a.detach().contiguous() if isinstance(a, Tensor) else a for a in arguments]
    with torch.no_grad(), _on_device(deciding):
        return _call(_backend(deciding), deciding.device, name, plain, **options)


def _call(
    backend: ModuleType, device: torch.device, name: str, arguments: Sequence[object], **options: object
) -> object:
    """Runs a kernel of a backend; the reference's where a Triton kernel cannot be compiled or launched."""
    kernel: Callable[..., object] = getattr(backend, name)
    try:
        return kernel(*arguments, **options)
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel
    except getattr(backend, "ERRORS", ()) as error:
        definition: Callable[..., object] = getattr(reference, name)
        # Raises as well where the device is unusable, or the arguments are at fault.
        output = definition(*arguments, **options)
        _give_up(device, name, error)
        return output


def pre_activations(centred: Activations, W_enc: EncoderMatrix, b_enc: PerLatent | None) -> PreActs:
    """π = centred W_enc + b_enc, [N, F], without gradient; `None` leaves the bias out."""
    with torch.no_grad():
        return centred @ W_enc if b_enc is None else torch.addmm(b_enc, centred, W_enc)


def _encode_fused(name: str, centred: Tensor, arguments: Sequence[object]) -> object:
    """What a backend gives that selects while it multiplies; None where there is none, or it cannot be run."""
    backend = _backend(centred)
    kernel: Callable[..., object] | None = getattr(backend, name, None)
    if kernel is None:
        return None
    plain = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
    with torch.no_grad(), _on_device(centred):
        try:
            return kernel(centred.detach(), *plain)
        except torch.OutOfMemoryError:
            raise
        except getattr(backend, "ERRORS", ()) as error:
            _give_up(centred.device, name, error)
    return None


def _screen(centred: Tensor, W_enc: Tensor) -> ModuleType | None:
    """The 8-bit screen, where the processor has it and the product is large enough."""
    if _wanted() != "auto" or _backend(centred) is not _compiled():
        return None
    from monosemy.kernels.cpu import screen

    return screen if screen.worth_trying(centred, W_enc.shape[1]) else None


def encode_topk(
    centred: Activations, W_enc: EncoderMatrix, b_enc: PerLatent | None, k: int
) -> tuple[Pattern, PerEntry]:
    """`select_topk` of π and its values there, [Z]."""
    k = min(k, W_enc.shape[1])
    if fused := _encode_fused("encode_topk", centred, (W_enc, b_enc, k)):
        return fused  # type: ignore[return-value]
    # The screen declines (None) where too much is selected for it to pay; the dense product gives the same selection.
    if (screen := _screen(centred, W_enc)) and (selected := screen.encode_topk(centred, W_enc, b_enc, k)):
        return selected
    pre = pre_activations(centred, W_enc, b_enc)
    pattern = select_topk(pre, k)
    return pattern, take(pre, pattern)


def encode_above(
    centred: Activations, W_enc: EncoderMatrix, b_enc: PerLatent | None, threshold: PerLatent
) -> tuple[Pattern, PerEntry]:
    """`select_above` of π with thresholds [F] and its values there, [Z]."""
    if fused := _encode_fused("encode_above", centred, (W_enc, b_enc, threshold)):
        return fused  # type: ignore[return-value]
    if (screen := _screen(centred, W_enc)) and (selected := screen.encode_above(centred, W_enc, b_enc, threshold)):
        return selected
    pre = pre_activations(centred, W_enc, b_enc)
    pattern = select_above(pre, threshold)
    return pattern, take(pre, pattern)


def encode_batch_topk(
    centred: Activations, W_enc: EncoderMatrix, b_enc: PerLatent | None, n_keep: int
) -> tuple[Pattern, PerEntry, float]:
    """`select_batch_topk` of π, its values there [Z], and the smallest kept."""
    n_keep = min(n_keep, len(centred) * W_enc.shape[1])
    if fused := _encode_fused("encode_batch_topk", centred, (W_enc, b_enc, n_keep)):
        return fused  # type: ignore[return-value]
    if (screen := _screen(centred, W_enc)) and (selected := screen.encode_batch_topk(centred, W_enc, b_enc, n_keep)):
        return selected
    pre = pre_activations(centred, W_enc, b_enc)
    pattern, cut = select_batch_topk(pre, n_keep)
    return pattern, take(pre, pattern), cut


def select_topk(scores: PreActs, k: int) -> Pattern:
    return _run("select_topk", scores, scores, min(k, scores.shape[1]))  # type: ignore[return-value]


def select_batch_topk(scores: PreActs, n_keep: int) -> tuple[Pattern, float]:
    return _run("select_batch_topk", scores, scores, min(n_keep, scores.numel()))  # type: ignore[return-value]


def select_above(scores: PreActs, threshold: PerLatent) -> Pattern:
    return _run("select_above", scores, scores, threshold)  # type: ignore[return-value]


def take(scores: PreActs, pattern: Pattern) -> PerEntry:
    return _run("take", scores, scores, pattern)  # type: ignore[return-value]


def decode(pattern: Pattern, values: PerEntry, W_dec: DecoderMatrix, b_dec: PerInput) -> Activations:
    return _run("decode", values, pattern, values, W_dec, b_dec)  # type: ignore[return-value]


def gather_dot(pattern: Pattern, left: Activations, right: DecoderMatrix) -> PerEntry:
    return _run("gather_dot", left, pattern, left, right)  # type: ignore[return-value]


def transpose(pattern: Pattern, n_latents: int) -> Columns:
    backend = reference
    if _wanted() == "auto" and pattern.indices.device.type == "cpu":
        backend = _compiled()
    elif _wanted() == "triton" or (pattern.indices.is_cuda and _wanted() == "auto"):
        backend = _usable_triton(pattern.indices.device) or reference
    with _on_device(pattern.indices):
        return _call(backend, pattern.indices.device, "transpose", (pattern, n_latents))  # type: ignore[return-value]


def accumulate(columns: Columns, values: PerEntry, inputs: Activations) -> DecoderMatrix:
    return _run("accumulate", inputs, columns, values, inputs)  # type: ignore[return-value]


def sum_by_latent(columns: Columns, values: PerEntry) -> PerLatent:
    return _run("sum_by_latent", values, columns, values)  # type: ignore[return-value]


def squared_error(x: Activations, reconstruction: Activations) -> tuple[PerToken, Activations]:
    return _run("squared_error", x, x, reconstruction)  # type: ignore[return-value]


def adam(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    *,
    options: AdamStep,
) -> None:
    """In place; a [D, F] tensor stored column by column is stepped through its [F, D] transpose."""
    tensors = [parameter, gradient, first, second]
    if parameter.ndim == 2 and not parameter.is_contiguous():
        tensors = [t.T for t in tensors]  # W_enc: rows of the transpose are contiguous
    if not tensors[1].is_contiguous():
        tensors[1] = tensors[1].contiguous()
    with torch.no_grad(), _on_device(parameter):
        _call(_backend(parameter), parameter.device, "adam", [t.detach() for t in tensors], options=options)
