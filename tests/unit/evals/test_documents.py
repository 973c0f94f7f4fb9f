"""Sums over documents: against direct computation on the tokens, stored, joined and refused."""

import numpy as np
import pytest
from document_sums import measured

from monosemy.errors import UserError
from monosemy.evals.documents import (
    load_documents,
    save_documents,
)
from monosemy.evals.intervals import MAX_BLOCKS


def test_sums_are_those_of_the_tokens():
    document_sums, rows, ids = measured(half=0.5)
    assert sorted(document_sums.documents) == sorted(set(ids.tolist()))
    for block, document in enumerate(document_sums.documents):
        document_rows = rows[ids == document].double()
        assert document_sums.n_tokens[block] == len(document_rows)
        assert document_sums.sums["half"][block] == pytest.approx(0.25 * float(document_rows.square().sum()), rel=1e-6)


def test_documents_beyond_the_limit_share_blocks():
    document_sums, rows, ids = measured(n_documents=600, half=0.5)
    assert len(document_sums.documents) == len(set(ids.tolist())) > MAX_BLOCKS == len(document_sums.n_tokens)
    assert document_sums.sums["half"].sum() == pytest.approx(0.25 * float(rows.double().square().sum()), rel=1e-6)


def test_round_trip_and_joining(tmp_path):
    document_sums, _, _ = measured(a=0.5, b=0.4)
    other, _, _ = measured(c=0.3)
    path = tmp_path / "documents.safetensors"
    save_documents(path, {"layers.0.mlp_out": {"error": document_sums, "delta_loss": other}})
    read = load_documents(path)["layers.0.mlp_out"]
    assert list(read["error"].sums) == ["a", "b"]
    whole = read["error"].joined(read["delta_loss"])
    assert list(whole.sums) == ["a", "b", "c"]
    np.testing.assert_array_equal(whole.sums["c"], other.sums["c"])


def test_what_cannot_be_joined_or_read_is_refused(tmp_path):
    document_sums, _, _ = measured(a=0.5)
    fewer, _, _ = measured(n_documents=29, b=0.5)
    with pytest.raises(UserError, match="cannot pair evaluations over other tokens"):
        document_sums.joined(fewer)
    path = tmp_path / "documents.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"documents\.safetensors is not a readable file of document sums .*; run `monosemy evaluate"
    ):
        load_documents(path)
