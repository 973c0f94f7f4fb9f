"""The comparison with other libraries: how tries are made and chosen, what is trained again, at which scale."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from monosemy.support.tensors import save_tensors
from research.peers import figure, run
from research.peers.bench import OURS, Bench
from research.peers.training import Dense, SparsifyDictionary


def a_try(rate: float, l0: float, fvu: float, **settings: float) -> dict:
    measures = {"l0": l0, "fvu": fvu, "dead_fraction": 0.0}
    return {"settings": {"learning_rate": rate, **settings}, "tuning": measures}


@pytest.mark.parametrize(("best", "expected"), [(1e-3, 5e-4), (2e-3, 2.828e-3), (4e-3, 8e-3)])
def test_a_fourth_rate_lies_beyond_the_best_at_an_end_and_between_otherwise(best, expected):
    assert run.next_rate((1e-3, 2e-3, 4e-3), a_try(best, 32, 0.2)) == pytest.approx(expected, rel=1e-3)


def test_tries_are_ranked_at_the_asked_l0_and_far_ones_left_out():
    far, denser, sparser = a_try(1e-3, 64, 0.10), a_try(2e-3, 36, 0.200), a_try(4e-3, 30, 0.205)
    assert run.best_of([far, denser, sparser]) is sparser  # 0.200 at L0 36 is more than 0.205 at L0 30
    assert run.best_of([far, a_try(1e-3, 50, 0.3)])["tuning"]["l0"] == 50  # none near: the nearest


def test_coefficients_land_and_both_rates_are_tried_twice():
    tries = []

    def tried(library, architecture, l0, rate, coef):
        l0, fvu = 40.0 * (rate / 1e-3) ** 2 / coef**1.3, 0.3 if rate == 1e-3 else 0.2
        tries.append(a_try(rate, l0, fvu * (32 / l0) ** 0.28, coef=coef))
        return tries[-1]

    landed = run.landed(SimpleNamespace(tried=tried), "a library", "relu", (5e-4, 1e-3, 2e-3), coef=5.0)
    rates = [r["settings"]["learning_rate"] for r in landed]
    assert len(landed) <= 7
    assert rates.count(1e-3) == 2
    assert rates.count(2e-3) >= 2
    best = run.best_of(landed)
    assert best["settings"]["learning_rate"] == 2e-3  # the better rate, though the other landed first
    assert best["tuning"]["l0"] == pytest.approx(32, rel=0.1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Two small draws of rows that differ."""
    for name, seed in (("rows", 0), ("reported", 1)):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(1200, 16, generator=generator) / 4
        documents = torch.arange(400) // 20
        tensors = {"train": rows[:800].bfloat16(), "validation": rows[800:], "documents": documents}
        save_tensors(tmp_path / f"{name}.safetensors", tensors | {"scale": torch.tensor(2.0)})
    return Bench(tmp_path, d_sae=32, batch=64, n_steps=12, seeds=(0, 1))


def test_the_chosen_settings_are_trained_again_on_the_second_draw_with_every_seed(bench):
    record = bench.tried(OURS, "topk", 4, 4e-3)
    assert "errors" not in record  # the first draw only chooses
    first, second = bench.reported(record)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["reported"]["fvu"] != second["reported"]["fvu"]
    assert first["reported"]["n_documents"] == 20
    total = bench.second.validation[0]
    spread = (total - total.mean(0)).square().sum().item()
    assert sum(first["errors"]) / spread == pytest.approx(first["reported"]["fvu"], rel=1e-4)
    pooled = run.pooled([first, second])
    assert pooled["fvu"] == pytest.approx((first["reported"]["fvu"] + second["reported"]["fvu"]) / 2)
    assert pooled["fvu_interval"][0] <= min(pooled["fvu_by_seed"])
    assert pooled["fvu_interval"][1] >= max(pooled["fvu_by_seed"])


def test_finished_runs_are_not_made_again(bench, tmp_path):
    record = bench.tried(OURS, "topk", 4, 4e-3)
    bench.reported(record)
    log_text = bench.log.read_text()
    again = Bench(tmp_path, d_sae=32, batch=64, n_steps=12, seeds=(0, 1))
    assert again.tried(OURS, "topk", 4, 4e-3)["cpu_seconds"] == record["cpu_seconds"]
    again.reported(record)
    assert again.log.read_text() == log_text


def test_dictionaries_of_peers_take_and_give_rows_at_our_scale():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).abs()

    class Identity:
        """Its k entries are the input itself; it knows the model's own scale."""

        num_latents = 3

        def encode(self, rows):
            assert torch.allclose(rows, 7 * x)
            return rows, torch.arange(3).expand(5, 3), None

        def decode(self, values, indices):
            return torch.zeros(5, 3).scatter(1, indices, values)

    dictionary = SparsifyDictionary(Identity(), 7.0)
    assert torch.allclose(dictionary.decode(dictionary.encode(x)), x)
    dense = Dense(lambda rows: 2 * rows, lambda code: code / 2, 3)
    assert torch.allclose(dense.decode(dense.encode(x)), x)


def test_the_figure_takes_one_architecture_alone(tmp_path: Path):
    point = {"l0": 32.0, "fvu": 0.2, "fvu_interval": [0.19, 0.21]}
    tries = [{"l0": 30.0, "fvu": 0.22}]
    ours = {"topk": {**point, "tries": tries}}
    peers = [{**point, "library": "sae-lens", "architecture": "topk", "tries": tries, "ours": point}]
    figure.write(tmp_path / "f.png", {"ours": ours, "peers": peers, "l0": 32})
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
