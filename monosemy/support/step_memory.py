"""What the start and each step of training hold beside weights and moments, in bytes.

Place on the data's path: beneath `estimates`, whose "training step" is the larger of the two. Symbols: N rows of a
batch, d width of the site, m latents on this device, P parameters (float32).

    start           the larger of 6 · 4,096 m (margins of as many rows, sorted) and 9 d m (the encoder is solved in
                    float64); in slices blocks of a fixed size, 1.5 GiB
    gradients       P, and d m more while AuxK adds its own
    rows            N (2 Σ_sites d + 6 d): the batch at every site; centred rows, x̂, residual and their gradients
    on a processor  2 N m: pre-activations, and what selecting among them takes; measured were at most 1.6, beside
                    gradients that come later (research/scale/results/memory.json). 6 N m where more than a twentieth of
                    the latents fire on a row, since codes are then made dense
    on a GPU        pre-activations are never held as a whole (kernels/cuda/encode.py): a block of them, lists of
                    candidates, the selected entries with gradients and transpose, BatchTopK's sample of rows; before
                    there are gradients, AuxK's copy of the dead latents' encoder takes the d m

Limits: of the GPU's part no figure was measured. It counts on the Triton kernels: where PyTorch's own operations take
their place, a step holds more than on a processor. Options are the defaults' (k_aux; no start with a larger L0).
"""

from __future__ import annotations

SELECTING_ARRAYS, DENSE_ARRAYS, DENSE_FROM = 2, 6, 0.05
START_ROWS, START_ARRAYS, SOLVED_ARRAYS = 4096, 6, 9
"""The first is `pipeline.trainees.INITIAL_TOKENS`; the others were measured: at most 5.5 and 8.6."""
START_IN_SLICES = 3 << 29
BLOCK_LATENTS, SAMPLE_ROWS, LIST_LEAST, LIST_SHARE = 4096, 128, 256, 64
"""Those of kernels/cuda/encode.py, which cannot be imported where Triton is not installed."""
K_AUX = 256
WINDOW = 4
"""How many times L0 entries are selected at most where an architecture looks at those near its threshold as well."""
WORDS_PER_ENTRY = 16
"""Index, value, both again by latent, and what the loss and its gradients hold of them."""


def start_bytes(d_in: int, n_latents: int, *, in_slices: bool) -> int:
    """The bytes of the start of one SAE."""
    if in_slices:
        return START_IN_SLICES
    return 4 * n_latents * max(START_ARRAYS * START_ROWS, SOLVED_ARRAYS * d_in)


def step_bytes(
    n_rows: int, d_in: int, n_latents: int, *, n_parameters: int, row_width: int, l0: float, on_gpu: bool
) -> int:
    """The bytes of a step of one SAE; `row_width` is the width of all sites together."""
    words = n_parameters + d_in * n_latents + n_rows * (2 * row_width + 6 * d_in)
    if not on_gpu:
        n_arrays = SELECTING_ARRAYS if l0 <= DENSE_FROM * n_latents else DENSE_ARRAYS
        return 4 * (words + n_arrays * n_rows * n_latents)
    block, lists = min(BLOCK_LATENTS, n_latents), 2 * max(LIST_LEAST, n_latents // LIST_SHARE)
    entries = WORDS_PER_ENTRY * round(WINDOW * l0 + K_AUX)
    return 4 * round(words + n_rows * (block + lists + entries) + 3 * SAMPLE_ROWS * n_latents)
