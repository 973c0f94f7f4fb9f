"""Transcoders in evaluation: they read one site and are measured at another, beside the best linear map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.controls import fit_linear_map
from monosemy.evals.model_loss import evaluate_model_loss
from monosemy.evals.reconstruction import ReconstructionMeter
from monosemy.evals.splice import IdentityDictionary
from monosemy.latents import SparseLatents

IN, OUT = "layers.2.mlp_in", "layers.2.mlp_out"


def rows(n: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 7, generator=generator) + 1
    return x, x[:, :5] * 2 - 3 + torch.randn(n, 5, generator=generator)


class Doubled:
    """A transcoder by hand: ŷ = 2 ReLU(x)[:5]."""

    d_in, d_sae, source_site = 7, 7, "in"

    def encode(self, x: Tensor) -> SparseLatents:
        return SparseLatents.from_dense(x.relu())

    def decode(self, latents: SparseLatents) -> Tensor:
        return 2 * latents.to_dense()[:, :5]


def test_a_transcoder_is_measured_against_the_rows_of_its_output() -> None:
    x, y = rows()
    meter = ReconstructionMeter({"doubled": Doubled(), "identity": _Copy(5)}, "out", chunk_tokens=64)
    for part in torch.arange(len(x)).split(110):
        meter.add(y[part], part // 10, {"in": x[part]})
    results = meter.finish(n_bootstrap=20)
    record = results["doubled"].record
    fvu = float((y - 2 * x.relu()[:, :5]).square().sum() / (y - y.mean(0)).square().sum())
    assert record.fvu == pytest.approx(fvu, rel=1e-5)
    assert record.l0 == pytest.approx(float((x > 0).sum(1).float().mean()))
    assert results["identity"].record.fvu == 0
    with pytest.raises(UserError, match="reads activations 7 wide, but in is 6 wide"):
        ReconstructionMeter({"doubled": Doubled()}, "out").add(y, torch.arange(len(y)), {"in": x[:, :6]})


class _Copy:
    """An SAE that loses nothing."""

    def __init__(self, d: int) -> None:
        self.d_in = self.d_sae = d

    def encode(self, x: Tensor) -> SparseLatents:
        return SparseLatents.from_dense(x)

    def decode(self, latents: SparseLatents) -> Tensor:
        return latents.to_dense()


def test_the_linear_map_is_the_least_squares_one() -> None:
    x, y = rows()
    control = fit_linear_map(x, y, "in")
    with_ones = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    solution = torch.linalg.lstsq(with_ones, y.double()).solution
    assert torch.allclose(control.decode(control.encode(x)).double(), with_ones @ solution, atol=1e-4)
    assert torch.allclose(control.A.double(), solution[:-1], atol=1e-5)
    # Columns that repeat leave the prediction as it is.
    repeated = fit_linear_map(torch.cat([x, x], dim=1), y, "in")
    assert torch.allclose(
        repeated.decode(repeated.encode(torch.cat([x, x], dim=1))).double(), with_ones @ solution, atol=1e-3
    )
    meter = ReconstructionMeter({"linear": control}, "out")
    meter.add(y, torch.arange(len(y)), {"in": x})
    record = meter.finish(n_bootstrap=20)["linear"].record
    residual = y.double() - with_ones @ solution
    assert record.fvu == pytest.approx(
        float(residual.square().sum() / (y - y.mean(0)).double().square().sum()), rel=1e-5
    )
    assert (record.l0, record.dead_fraction, record.over_1pct_fraction) == (0, None, None)


class ExactMlp(IdentityDictionary):
    """A transcoder that is the MLP itself."""

    source_site = IN

    def __init__(self, model) -> None:
        super().__init__(model.d_model)
        self.mlp = model.place(OUT)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.mlp.forward(latents[None])[0]  # not a call, which would run the edits' hooks again


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_mlp_as_its_own_transcoder_costs_nothing(family: str, tiny_model) -> None:
    """And an identity, which reads `mlp_in` and gives it as the output, costs something."""
    model = tiny_model(family)
    tokens = torch.randint(5, 100, (4, 12), generator=torch.Generator().manual_seed(0))
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, 0] = False
    wrong = IdentityDictionary(model.d_model)
    wrong.source_site = IN
    dictionaries = {"exact": ExactMlp(model), "wrong": wrong, "sae": IdentityDictionary(model.d_model)}
    losses = evaluate_model_loss(model, OUT, dictionaries, tokens, keep=keep, n_bootstrap=10)
    assert losses.records["exact"].kl == pytest.approx(0, abs=1e-9)
    assert losses.records["exact"].delta_loss == pytest.approx(0, abs=1e-6)
    assert losses.records["sae"].delta_loss == 0
    assert losses.records["wrong"].kl > 1e-5
