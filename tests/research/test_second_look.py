"""The study of the second look: costs against exhaustive patching, labels from a record, means over seeds."""

from __future__ import annotations

import numpy as np
import pytest
from known_circuits import bench, circuit, indices

from monosemy.circuits.heads.agreement import labels_of
from research.heads.second_look import over_seeds, recorded_labels, rows_of
from research.heads.tables import second_look_table


def test_exhaustive_patching_costs_all_of_itself_and_methods_their_passes():
    planted = circuit("ioi")
    labels = labels_of(planted.heads, planted.model.n_layers, planted.model.n_heads)
    rows = rows_of(bench("ioi"), labels, ["patching", "eap-step"])
    assert rows["methods"]["patching"]["cost"] == 1
    assert rows["methods"]["patching"]["auc"] == 1
    n = planted.model.n_layers * planted.model.n_heads
    assert rows["methods"]["eap-step"]["cost"] == pytest.approx((2 + 3) / (2 + n))
    assert (rows["n_members"], rows["n_prompts"]) == (len(planted.heads), 8)


def test_the_members_of_a_record_are_the_labels():
    members = {"members": [f"{layer}.{head}" for layer, head in circuit("ioi").heads]}
    labels = recorded_labels(members, bench("ioi"))
    assert np.flatnonzero(labels).tolist() == sorted(indices("ioi", circuit("ioi").heads))


def test_compiled_models_are_averaged_and_real_ones_stand_alone():
    def piece(auc, cost):
        return {"n_members": 3, "methods": {"eap": {"auc": auc, "n_passes": 3, "cost": cost, "interval": [0.5, 1.0]}}}

    models = over_seeds(
        {"compiled-ioi-0": piece(1.0, 0.2), "compiled-ioi-1": piece(0.5, 0.4), "real-ioi": piece(0.9, 0.05)}
    )
    assert models["compiled-ioi"]["methods"]["eap"] == {"auc": 0.75, "n_passes": 3, "cost": pytest.approx(0.3)}
    assert (models["compiled-ioi"]["n"], models["real-ioi"]["n"]) == (2, 1)
    assert second_look_table(models).splitlines()[2:] == [
        "| compiled-ioi | .750 30.0% |",
        "| real-ioi | .900 [.500, 1.00] 5.0% |",
    ]
