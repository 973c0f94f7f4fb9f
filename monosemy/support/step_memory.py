"""What one training step holds beside weights and moments, in bytes.

Place on the data's path: beneath `estimates`, whose "training step" this is. Symbols: N rows of a batch, d width of the
site, m latents on this device, P parameters (float32).

    gradients       P
    rows            N (2 Σ_sites d + 6 d): the batch at every site; centred rows, x̂, residual and their gradients
    on a processor  6 N m: pre-activations, and what selecting among them takes. Measured are 1 to 5.7, by architecture
                    and by whether the 8-bit screen decides (research/scale/results/memory.json)
    on a GPU        pre-activations are never held as a whole (kernels/cuda/encode.py): a block of them, lists of
                    candidates, the selected entries with gradients and transpose, BatchTopK's sample of rows; and
                    AuxK's copy of the dead latents' encoder, which is d m where all are dead

Limits: of the GPU's part no figure was measured. It counts on the Triton kernels: where PyTorch's own operations take
their place, a step holds more than on a processor.
"""

from __future__ import annotations

DENSE_ARRAYS = 6
BLOCK_LATENTS, SAMPLE_ROWS, LIST_LEAST, LIST_SHARE = 4096, 128, 256, 64
"""Those of kernels/cuda/encode.py, which cannot be imported where Triton is not installed."""
K_AUX = 256
WINDOW = 4
"""How many times L0 entries are selected at most where an architecture looks at those near its threshold as well."""
WORDS_PER_ENTRY = 16
"""Index, value, both again by latent, and what the loss and its gradients hold of them."""


def step_bytes(
    n_rows: int, d_in: int, n_latents: int, *, n_parameters: int, row_width: int, l0: float, on_gpu: bool
) -> int:
    """The bytes of a step of one SAE; `row_width` is the width of all sites together."""
    words = n_parameters + n_rows * (2 * row_width + 6 * d_in)
    if not on_gpu:
        return 4 * (words + DENSE_ARRAYS * n_rows * n_latents)
    block, lists = min(BLOCK_LATENTS, n_latents), 2 * max(LIST_LEAST, n_latents // LIST_SHARE)
    entries = WORDS_PER_ENTRY * round(WINDOW * l0 + K_AUX)
    return 4 * round(words + n_rows * (block + lists + entries) + (3 * SAMPLE_ROWS + d_in) * n_latents)
