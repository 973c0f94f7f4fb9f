"""Shapes of curves, sweeps and ablation, on maps whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jacobian_slices import Linear, autograd_slices, one_hot_map

from monosemy.circuits.jacobian.ablation import ablation_effects, measure_ablation, ranks
from monosemy.circuits.jacobian.latent_map import padded
from monosemy.circuits.jacobian.linearity import measure_linearity, shape_of, sweep
from monosemy.circuits.jacobian.mlp_rows import Rows
from monosemy.errors import UserError
from monosemy.latents import SparseLatents

T = np.linspace(0, 5, 100)


@pytest.mark.parametrize(
    ("curve", "shape"),
    [
        (np.full(100, 2.0), "flat"),
        (2 + 0.001 * T, "flat"),
        (np.zeros(100), "flat"),
        (1 + 0.5 * T, "linear"),
        (3 - 0.5 * T, "linear"),
        (3 + T + 0.2 * np.sin(9 * T) / 9, "linear"),
        (np.maximum(T - 2, 0), "jumprelu"),  # no jump
        (np.where(T > 2, 1 + T, 0), "jumprelu"),  # a jump
        (np.where(T > 2, 1.0, 0), "jumprelu"),  # a jump alone
        (np.where(T < 2, 3 - T, 0), "jumprelu"),  # falls out of the top k
        (1 + T**2, "other"),
        (np.where(T > 2, T**2 - 4, 0), "other"),
        (np.where((T > 1) & (T < 3), 1 + T, 0), "other"),  # on in the middle only
        (np.where(T > 4.9, 1 + T, 0), "other"),  # too few points to say
    ],
)
def test_shapes_of_known_curves(curve, shape):
    assert shape_of(curve) == shape
    assert shape_of(curve * 1e-4) == shape, "the scale does not matter"


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def as_rows(x: torch.Tensor) -> Rows:
    """Every row a document of its own."""
    return Rows(x, x, torch.arange(len(x)), torch.arange(len(x)))


def test_a_sweep_is_the_map_itself():
    W = torch.eye(6) + 0.1
    latent_map = one_hot_map(Linear(W), 6, 6, scale_in=3.0, scale_out=0.5)
    x = 3 * rows(1, 6)
    value = float(x[0, 2]) / 3  # the latent, at unit scale
    curves = sweep(latent_map, x, 2, value, unit=1.0)
    assert curves.shape == (6, 100)
    points = torch.linspace(0, 5, 100)
    for i in range(6):
        moved = x.repeat(100, 1)
        moved[:, 2] = 3 * points
        torch.testing.assert_close(curves[i], (moved @ W)[:, i] / 0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("value", "unit", "end"), [(2.0, 1.0, 5.0), (4.5, 1.0, 5.5), (6.0, 1.5, 7.5), (0.1, 0.2, 1.0)])
def test_a_sweep_ends_at_five_units_or_one_beyond_the_latents_own_value(value, unit, end):
    x = torch.tensor([[0.5, value, 0.25]])
    curves = sweep(one_hot_map(Linear(torch.eye(3)), 3, 3), x, 1, value, unit=unit)
    torch.testing.assert_close(curves[1], torch.linspace(0, end, 100))
    torch.testing.assert_close(curves[0], torch.full((100,), 0.5))


def test_the_unit_is_a_quarter_of_the_root_mean_square_of_active_latents():
    """3, 4, 12 and 1 are active, so u = √(170 / 4) / 4; the zeros and the negative value do not count."""
    x = torch.tensor([[3.0, 4.0, 0.0], [-7.0, 12.0, 0.0], [0.0, 0.0, 2.0]]) * torch.tensor([1.0, 1.0, 0.5])
    latent_map = one_hot_map(Linear(torch.eye(3)), 3, 3, scale_in=2.0)
    record = measure_linearity(latent_map, [(2 * x[:2], torch.arange(2)), (2 * x[2:], torch.arange(2, 3))])
    assert record.unit == pytest.approx((170 / 4) ** 0.5 / 4, rel=1e-6)


def test_what_is_seen_depends_on_how_far_the_sweep_reaches():
    """y = max(r, 1.2 c) at r = c: flat up to 1.2 c, then rising. Sweeps of [0, 5u] with u = c/4 just reach the bend."""
    c = 2.0
    x = torch.full((20, 1), c)
    bent = measure_linearity(one_hot_map(lambda r: r.clamp(min=1.2 * c), 1, 1), [(x, torch.arange(20))])
    assert bent.unit == pytest.approx(c / 4)
    assert bent.shares["other"].value == 1  # with a unit half as large, the curve would be flat
    beyond = measure_linearity(one_hot_map(lambda r: r.clamp(min=1.26 * c), 1, 1), [(x, torch.arange(20))])
    assert beyond.shares["flat"].value == 1  # with one twice as large, it would not


def test_linear_maps_give_linear_curves_and_thresholds_jumps():
    x, documents = rows(40, 6), torch.arange(40)
    linear = measure_linearity(one_hot_map(Linear(torch.eye(6) + 0.1), 6, 6), [(x, documents)], n_sweeps=30)
    assert linear.n_sweeps == 30
    assert linear.n_curves == 180
    assert linear.shares["linear"].value == 1
    assert linear.shares["linear_or_flat"].interval == (1, 1)
    diagonal = measure_linearity(one_hot_map(Linear(torch.eye(6)), 6, 6), [(x, documents)], n_sweeps=30)
    assert diagonal.shares["flat"].value == pytest.approx(5 / 6), "only the latent itself moves"
    squared = measure_linearity(one_hot_map(lambda r: r**2, 6, 6), [(x, documents)], n_sweeps=30)
    assert squared.shares["other"].value == pytest.approx(1 / 6)
    # with one output latent of two kept, the swept one jumps in when it overtakes the other
    jumping = measure_linearity(one_hot_map(Linear(torch.eye(2)), 2, 1), [(rows(40, 2) + 0.5, documents)], n_sweeps=30)
    assert jumping.shares["jumprelu"].value == 1


def test_ablation_agrees_exactly_where_the_map_is_linear():
    W = torch.randn(6, 6, generator=torch.Generator().manual_seed(4)).abs()
    latent_map = one_hot_map(Linear(W), 6, 6, scale_in=2.0, scale_out=5.0)
    x = rows(30, 6)
    slices = autograd_slices(latent_map, x)
    torch.testing.assert_close(
        ablation_effects(latent_map, x, slices), slices.values * slices.in_values[:, None], rtol=1e-4, atol=1e-5
    )
    record = measure_ablation(
        latent_map,
        lambda part: autograd_slices(latent_map, part.x),
        [as_rows(x[:20]), as_rows(x[20:])],
    )
    assert record.n_pairs == 30 * 36
    assert record.n_tokens == 30
    assert record.n_documents == 20
    for estimate in (record.rank_correlation, record.r_squared, record.correlation):
        assert estimate.value == pytest.approx(1, abs=1e-4)


def test_ablation_disagrees_where_the_map_bends():
    latent_map = one_hot_map(lambda r: r**2 + 1, 6, 6)
    x = rows(30, 6)
    record = measure_ablation(latent_map, lambda part: autograd_slices(latent_map, part.x), [as_rows(x)])
    # Δ = s² on the diagonal, J s = 2 s²: twice too much, in the right order
    assert record.correlation.value == pytest.approx(1, abs=1e-5)
    assert record.rank_correlation.value == pytest.approx(1, abs=1e-3)
    s2 = x.double().numpy().ravel() ** 2
    effects = np.concatenate([s2, np.zeros(5 * len(s2))])
    expected = 1 - (effects**2).sum() / ((effects - effects.mean()) ** 2).sum()
    assert record.r_squared.value == pytest.approx(expected, rel=1e-4)


def test_ranks_share_ties():
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, -2.0])), [3.5, 2, 3.5, 1])


def test_padded_rows():
    latents = SparseLatents.from_dense(torch.tensor([[0.0, 2, 0, 1], [0, 0, 0, 0], [5, 0, 0, 0]]))
    indices, values = padded(latents)
    assert indices.tolist() == [[1, 3], [-1, -1], [0, -1]]
    assert values.tolist() == [[2, 1], [0, 0], [5, 0]]


def test_nothing_active_is_said():
    silent = one_hot_map(Linear(torch.eye(3)), 3, 3)
    with pytest.raises(UserError, match="no input latent"):
        measure_linearity(silent, [(-torch.ones(4, 3), torch.arange(4))])
    mute = one_hot_map(lambda r: -r, 3, 3)
    with pytest.raises(UserError, match="no output latent"):
        measure_linearity(mute, [(torch.ones(4, 3), torch.arange(4))])
    with pytest.raises(UserError, match="no pair"):
        measure_ablation(mute, lambda part: autograd_slices(mute, part.x), [as_rows(torch.ones(4, 3))])
