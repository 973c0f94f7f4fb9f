"""The L0-choice diagnostic: s_n by hand, its invariances, and what it tells about mixed dictionaries."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from monosemy.errors import UserError
from research.planted.l0_choice import TailProjection, choose_l0, tail_projection


def decoder(rows: torch.Tensor, bias: torch.Tensor | None = None) -> SimpleNamespace:
    return SimpleNamespace(W_dec=rows, b_dec=torch.zeros(rows.shape[1]) if bias is None else bias)


def test_the_value_after_the_n_times_rows_largest() -> None:
    x = torch.tensor([[9.0, 1.0, 3.0, -2.0], [8.0, 7.0, 0.5, 2.0]])
    tail = tail_projection(decoder(torch.eye(4)), x, 2, l0=1)
    assert tail.value == 2.0  # 9 8 7 3 | 2 1 0.5 −2
    assert tail.n_rows == 2
    shifted = tail_projection(decoder(torch.eye(4), torch.ones(4)), x + 1, 2, l0=1)
    assert shifted.value == pytest.approx(2.0)


def test_the_same_as_sorting_everything_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(40, 12, generator=generator), dim=1)
    bias = torch.randn(12, generator=generator)
    x = torch.randn(100, 12, generator=generator)
    ranked = ((x - bias).double() @ rows.double().T).flatten().sort(descending=True).values
    for n in (5, 20, 39):
        tail = tail_projection(decoder(rows, bias), x, n, l0=2)
        assert tail.value == pytest.approx(float(ranked[n * 100]), abs=1e-5)
        low, high = tail.interval or (1.0, 0.0)
        assert low <= tail.value <= high


def test_decoder_norms_and_the_order_of_rows_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(30, 8, generator=generator)
    x = torch.randn(64, 8, generator=generator)
    plain = tail_projection(decoder(rows), x, 10, l0=3).value
    scaled = tail_projection(decoder(rows * torch.rand(30, 1, generator=generator).add(0.1)), x, 10, l0=3).value
    turned = tail_projection(decoder(rows), x[torch.randperm(64, generator=generator)], 10, l0=3).value
    assert scaled == pytest.approx(plain, abs=1e-5)
    assert turned == pytest.approx(plain, abs=1e-5)  # a product's rows may round by where they stand


def test_mixing_features_that_fire_together_raises_it() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    pairs = (torch.rand(2000, 16, generator=generator) < 0.15).repeat_interleave(2, dim=1)
    codes = pairs & (torch.rand(2000, 32, generator=generator) < 0.7)
    x = codes.float() @ truth
    partner = torch.arange(32).view(16, 2).flip(1).flatten()
    assert 3 < codes.sum(1).float().mean() < 3.7
    values = [tail_projection(decoder(truth + share * truth[partner]), x, 4, l0=3.7).value for share in (0.0, 0.1, 0.3)]
    assert values[0] == pytest.approx(0.0, abs=1e-5)  # a quarter more than fire: the true directions are silent there
    assert values[0] + 0.05 < values[1] < values[2] - 0.05


def test_too_many_rows_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    import research.planted.l0_choice as module

    monkeypatch.setattr(module, "MAX_ENTRIES", 80)
    x = torch.arange(40.0).view(10, 4)
    tail = tail_projection(decoder(torch.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]]), x, 8, l0=2)
    assert tail.n_rows == 5
    sampled_rows = torch.linspace(0, 9, 5).round().long()
    products = x[sampled_rows].repeat(1, 4).flatten().sort(descending=True).values
    assert tail.value == float(products[8 * 5])


def scored(l0: float, value: float, n: int = 64, width: float = 0.001) -> TailProjection:
    return TailProjection(l0, n, value, (value - width, value + width), n_rows=1000)


def test_the_lowest_value_is_chosen_and_its_rivals_named() -> None:
    choice = choose_l0([scored(8, 0.4), scored(16, 0.2), scored(24, 0.2015), scored(32, 0.3)])
    assert choice.l0 == 16
    assert not choice.at_edge
    assert choice.not_told_apart == (24,)


def test_a_minimum_at_the_end_says_so() -> None:
    assert choose_l0([scored(8, 0.1), scored(16, 0.2), scored(32, 0.3)]).at_edge
    assert choose_l0([scored(8, 0.3), scored(16, 0.2), scored(32, 0.1)]).at_edge


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: choose_l0([scored(8, 0.1), scored(16, 0.2)]), "at least 3"),
        (lambda: choose_l0([scored(8, 0.1), scored(16, 0.2), scored(32, 0.2, n=65)]), "not comparable"),
        (lambda: tail_projection(decoder(torch.eye(4)), torch.randn(5, 3), 2, l0=1), "4 wide"),
        (lambda: tail_projection(decoder(torch.eye(4)), torch.randn(1, 4), 2, l0=1), "two rows"),
        (lambda: tail_projection(decoder(torch.eye(4)), torch.randn(5, 4), 2, l0=2), "above the L0"),
        (lambda: tail_projection(decoder(torch.eye(4)), torch.randn(5, 4), 4, l0=2), "below d_sae"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, words) -> None:
    with pytest.raises(UserError, match=words):
        call()
