"""A dictionary whose latents, and a batch whose rows, are spread over processes, against the same on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_steps import ALL_CASES, MESHES, ROWS, alone, assembled, mask_of, spread, tied_scores

from monosemy.kernels import reference

CLOSE = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 2e-4, "atol": 2e-5}}
PLACES = [(n, shards) for n, meshes in MESHES.items() for shards in meshes]


@pytest.fixture(scope="module")
def unsharded():
    return {case: alone(*case) for case in ALL_CASES}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int, Path]:
    return {n: folder / "trained" for n, folder in spread(tmp_path_factory.getbasetemp()).items()}


@pytest.mark.parametrize(("n_ranks", "n_latent_shards"), PLACES)
def test_steps_equal_those_of_one_process(n_ranks, n_latent_shards, unsharded, folders):
    for case, dtype in ALL_CASES:
        trainee, metrics = unsharded[case, dtype]
        expected = trainee.tensors()
        for name in {name for step in metrics for name in step}:
            steps = [step.get(name, 0.0) for step in metrics]
            expected[f"metrics.{name}"] = torch.tensor(steps, dtype=torch.float64)
        for token_shard in range(n_ranks // n_latent_shards):
            whole = assembled(folders[n_ranks], case, dtype, token_shard, n_latent_shards)
            assert whole.keys() == expected.keys()
            for name, tensor in expected.items():
                where = f"{case} {name}"
                torch.testing.assert_close({where: whole[name]}, {where: tensor}, **CLOSE[dtype])


@pytest.mark.parametrize(("n_ranks", "n_latent_shards"), PLACES)
def test_ties_are_decided_as_on_one_process(n_ranks, n_latent_shards, folders):
    scores = tied_scores()
    by_row = mask_of(reference.select_topk(scores, 5), scores)
    of_batch, cut = reference.select_batch_topk(scores, 700)
    halfway = scores.sort(0, descending=True).values[8:10].mean(0)
    row, n_token_shards = 0, n_ranks // n_latent_shards
    for token_shard in range(n_token_shards):
        place = f"selected-{n_latent_shards}-{token_shard}"
        parts = [load_file(folders[n_ranks] / f"{place}-{f}.safetensors") for f in range(n_latent_shards)]
        rows = slice(row, row + len(parts[0]["topk"]))
        assert torch.equal(torch.cat([part["topk"] for part in parts], 1), by_row[rows])
        assert torch.equal(torch.cat([part["batch_topk"] for part in parts], 1), mask_of(of_batch, scores)[rows])
        assert torch.equal(torch.cat([part["halfway"] for part in parts]), halfway)
        assert all(float(part["cut"]) == cut for part in parts)
        row = rows.stop
    assert row == ROWS


def test_the_planted_rows_bring_everything_a_step_can_meet(unsharded):
    for (case, _), (trainee, metrics) in unsharded.items():
        assert sum(step["restarted"] for step in metrics) > 0, case
        # TopK's k and JumpReLU's window bound what one row can wreck here.
        assert metrics[-1]["rows_left_out"] > 0 or not case.startswith("batch_topk"), case
        assert int(trainee.optimizer.anisotropy.n_paired) > 0, case
        assert any("loss_aux" in step for step in metrics) == case.endswith("aux"), case
