"""Reconstructions of all prefixes: error and gradients against dense autograd, a closed form and the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monosemy.kernels import dispatch, prefixes, reference
from monosemy.kernels.reference import Pattern

N, D, F = 9, 5, 20
WIDTHS = (1, 4, 11, F)


def case(share: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, a dense code with row 3 empty and row 4 without latents below 11, W_dec and b_dec, float64 with gradient."""
    generator = torch.Generator().manual_seed(seed)
    x, code, W_dec, b_dec = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((N, D), (N, F), (F, D), (D,))
    )
    code[torch.rand(N, F, generator=generator) > share] = 0
    code[3] = 0
    code[4, :11] = 0
    code[4, 15] = 1.0
    return tuple(tensor.requires_grad_() for tensor in (x, code, W_dec, b_dec))


def dense_error(x: Tensor, code: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    errors = [(x - b_dec - code[:, :width] @ W_dec[:width]).square().sum(1).mean() for width in WIDTHS]
    return torch.stack(errors).mean()


def pattern_of(code: Tensor) -> Pattern:
    return reference._pattern_of_mask(code.detach() != 0)


@pytest.mark.parametrize("dense_above", [2.0, -1.0], ids=["sparse kernels", "dense products"])
@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_error_and_gradients_equal_dense_autograd(monkeypatch, dense_above, backend, share):
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", dense_above)
    if backend == "reference":
        monkeypatch.setattr(dispatch, "_backend", lambda tensor: reference)
    x, code, W_dec, b_dec = case(share)
    pattern = pattern_of(code)
    levels = prefixes.levels_of(pattern, dispatch.transpose(pattern, F), WIDTHS)
    error, reconstruction = prefixes.nested_error(x, values_on(code, pattern), W_dec, b_dec, levels=levels)
    expected = dense_error(x, code, W_dec, b_dec)
    torch.testing.assert_close(error, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(reconstruction, (b_dec + code @ W_dec).detach(), rtol=1e-13, atol=1e-13)
    assert not reconstruction.requires_grad
    ours, dense = (torch.autograd.grad(3 * loss, (x, code, W_dec, b_dec)) for loss in (error, expected))
    mask = code.detach() != 0  # off the pattern the sparse code has no entries, and thus no gradient
    for name, gradient, dense_gradient in zip(("x", "code", "W_dec", "b_dec"), ours, dense, strict=True):
        expected_gradient = dense_gradient * mask if name == "code" else dense_gradient
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13, msg=name)


def values_on(code: Tensor, pattern: Pattern) -> Tensor:
    return code[reference.rows_of(pattern), pattern.indices.long()]


def test_an_entry_is_pulled_by_the_residuals_of_every_prefix_that_has_it():
    """∂error/∂v = 2/(N P) Σ_{j: f < w_j} (x̂_j − x)·W[f], written out for one entry of each level."""
    x, code, W_dec, b_dec = case(1.0)
    pattern = pattern_of(code)
    levels = prefixes.levels_of(pattern, dispatch.transpose(pattern, F), WIDTHS)
    error, _ = prefixes.nested_error(x, values_on(code, pattern), W_dec, b_dec, levels=levels)
    (gradient,) = torch.autograd.grad(error, code)
    row = 6
    for latent, with_it in ((0, WIDTHS), (2, WIDTHS[1:]), (7, WIDTHS[2:]), (15, WIDTHS[3:])):
        residuals = [b_dec + code[row, :width] @ W_dec[:width] - x[row] for width in with_it]
        closed = 2 / (N * len(WIDTHS)) * sum(float((residual @ W_dec[latent]).detach()) for residual in residuals)
        assert gradient[row, latent].item() == pytest.approx(closed, rel=1e-12)


def test_rows_are_cut_without_copying_an_entry():
    """Rows {0, 3, 12}, {} and {1, 19} at widths 1, 4, 11, 20, by hand."""
    pattern = Pattern(torch.tensor([0, 3, 3, 5]), torch.tensor([0, 3, 12, 1, 19], dtype=torch.int32))
    cut, columns, n_levels = prefixes.levels_of(pattern, dispatch.transpose(pattern, F), WIDTHS)
    assert n_levels == 4
    assert cut.offsets.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 5]
    assert cut.indices is pattern.indices
    by_hand = dispatch.transpose(cut, F)
    for name in ("offsets", "rows", "order"):
        assert torch.equal(getattr(columns, name), getattr(by_hand, name)), name


def test_one_decoding_serves_all_prefixes(monkeypatch):
    """The kernels see each entry once forward and once for the code's gradient, however many prefixes there are."""
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", 2.0)
    n_entries: dict[str, list[int]] = {"decode": [], "gather_dot": []}

    def counting(name, kernel):
        def run(pattern, *rest):
            n_entries[name].append(len(pattern.indices))
            return kernel(pattern, *rest)

        return run

    for name in n_entries:
        monkeypatch.setattr(dispatch, name, counting(name, getattr(dispatch, name)))
    x, code, W_dec, b_dec = case(0.5)
    pattern = pattern_of(code)
    levels = prefixes.levels_of(pattern, dispatch.transpose(pattern, F), WIDTHS)
    prefixes.nested_error(x, values_on(code, pattern), W_dec, b_dec, levels=levels)[0].backward()
    assert n_entries == {"decode": [len(pattern.indices)], "gather_dot": [len(pattern.indices)]}
