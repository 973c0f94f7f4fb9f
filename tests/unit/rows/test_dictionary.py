"""Dictionary and fit: units, resume, sources, metrics and scikit-learn's manners, on planted sparse data."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import monosemy
from monosemy import Dictionary
from monosemy.errors import UserError
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.saes.storage import load_sae
from monosemy.training.trainer import Trainer

SMALL = {"d_sae": 24, "l0": 3, "training": {"n_passes": 3}}


@functools.cache
def planted(n=600, d=12, n_parts=16, seed=0):
    """Rows that are sums of three of 16 directions, with weights above zero, and a little noise."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(n_parts, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((n, n_parts))
    for row in codes:
        row[random.choice(n_parts, 3, replace=False)] = random.uniform(1, 2, 3)
    return (codes @ directions + 0.01 * random.normal(size=(n, d))).astype(np.float32)


@functools.cache
def fitted(architecture="topk"):
    return Dictionary(architecture, **SMALL).fit(planted())


@parametrize_with_checks([Dictionary(d_sae=8, l0=2, training={"n_passes": 1})])
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


def test_the_code_is_the_definition_in_the_rows_own_units():
    x, sae = torch.from_numpy(planted()), fitted().sae_
    codes = fitted().transform(planted())
    assert isinstance(codes, scipy.sparse.csr_matrix)
    assert codes.shape == (600, 24)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    kept = pre.topk(3, dim=1)
    expected = torch.zeros_like(pre).scatter(1, kept.indices, kept.values.relu())
    np.testing.assert_allclose(codes.toarray(), expected.detach(), atol=1e-5)
    reconstruction = expected @ sae.W_dec + sae.b_dec
    for form in (codes, codes.toarray(), codes.tocsc()):
        np.testing.assert_allclose(fitted().inverse_transform(form), reconstruction.detach(), atol=1e-5)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "relu", "gated", "batch_topk"])
def test_other_units_give_the_same_code_in_those_units(architecture):
    """Scale and centre are undone: rows times 64 plus an offset have codes times 64, where this rounds no row."""
    rows = np.round(planted() * 256) / 256
    moved = rows * 64 + 128
    first = Dictionary(architecture, **SMALL).fit(rows)
    codes = first.transform(rows)
    other = Dictionary(architecture, **SMALL).fit(moved)
    there = other.transform(moved)
    agreement = (there > 0).multiply(codes > 0).sum() / max((there > 0).sum(), (codes > 0).sum())
    assert agreement > 0.99, "the folded weights round, and may move a latent across its threshold, not more"
    assert other.evaluation_["fvu"] == pytest.approx(first.evaluation_["fvu"], rel=1e-3)
    assert there.sum() == pytest.approx(64 * codes.sum(), rel=0.01)
    assert np.abs(other.inverse_transform(there) - moved).mean() < 64


def test_metrics_are_those_of_the_held_out_rows():
    evaluation = fitted().evaluation_
    assert evaluation["n_tokens"] == 60
    assert evaluation["l0"] == pytest.approx(3, abs=0.2)
    assert evaluation["fvu_interval"][0] < evaluation["fvu"] < evaluation["fvu_interval"][1]
    assert evaluation["delta_loss"] is None
    assert fitted().firing_rates_.sum() == pytest.approx(evaluation["l0"])
    assert (fitted().firing_rates_ == 0).mean() == pytest.approx(evaluation["dead_fraction"])


def test_it_learns_what_was_planted():
    x = planted(1500)
    dictionary = monosemy.fit(x, "topk", d_sae=32, l0=3, training={"n_passes": 60})
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    pca = variances[3:].sum() / variances.sum()
    assert dictionary.evaluation_["fvu"] < pca / 2
    assert dictionary.score(x) > 1 - pca / 2


def test_the_l0_lands_where_it_was_asked_for():
    dictionary = monosemy.fit(planted(1500), "jumprelu", d_sae=32, l0=4, training={"n_passes": 30})
    assert dictionary.evaluation_["l0"] == pytest.approx(4, rel=0.1)
    assert dictionary.sae_.config.record["calibration"]["l0_after"] == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, _: torch.from_numpy(x),
        lambda x, _: np.asfortranarray(x),
        lambda x, _: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x, _: x.astype(np.float64),
        lambda x, folder: np.save(folder / "x.npy", x) or str(folder / "x.npy"),
        lambda x, folder: np.save(folder / "x.npy", x) or np.load(folder / "x.npy", mmap_mode="r"),
        lambda x, _: iter(np.array_split(x, 5)),
        lambda x, _: list(torch.from_numpy(x).split(70)),
    ],
)
def test_every_form_of_the_same_rows_gives_the_same_dictionary(tmp_path, change):
    dictionary = Dictionary("topk", **SMALL).fit(change(planted(), tmp_path))
    for name, tensor in fitted().sae_.state_dict().items():
        assert torch.equal(tensor, dictionary.sae_.state_dict()[name]), name


def test_float16_and_integers_are_learnt_from():
    assert Dictionary("topk", **SMALL).fit(planted().astype(np.float16)).evaluation_["fvu"] < 1
    integers = np.random.default_rng(0).integers(0, 255, (200, 6), dtype=np.uint8)
    assert Dictionary("topk", **SMALL).fit(integers).transform(integers).shape == (200, 24)


def test_a_run_that_is_interrupted_continues_bit_for_bit(tmp_path, monkeypatch):
    settings = {**SMALL, "training": {"n_passes": 3, "batch_tokens": 32, "checkpoint_tokens": 160}}
    whole = monosemy.fit(planted(), "jumprelu", run=tmp_path / "whole", **settings)
    step, n_steps = Trainer._step, []

    def killed(self, batch, workers):
        n_steps.append(self.index)
        if len(n_steps) == 23:
            raise MemoryError("killed")
        return step(self, batch, workers)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(MemoryError):
        monosemy.fit(planted(), "jumprelu", run=tmp_path / "again", **settings)
    continued = monosemy.fit(planted(), "jumprelu", run=tmp_path / "again", **settings)
    assert n_steps[23] == 20, "it went on from the last checkpoint, not from the start"
    for name, tensor in whole.sae_.state_dict().items():
        assert torch.equal(tensor, continued.sae_.state_dict()[name]), name
    assert whole.evaluation_ == continued.evaluation_


@pytest.mark.parametrize("source", [lambda: planted(), lambda: iter(np.array_split(planted(), 3))])
def test_a_kept_run_is_a_run_like_any_other(tmp_path, source):
    dictionary = monosemy.fit(source(), "topk", run=tmp_path / "run", **SMALL)
    assert (tmp_path / "run/report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    sae = load_sae(tmp_path / "run/saes/rows/topk-l0_3-s0")
    assert torch.equal(sae.W_dec, dictionary.sae_.W_dec)
    before = read_evaluation(tmp_path / "run")["records"]
    monosemy.pipeline.evaluate_folder(tmp_path / "run")  # from the rows that the run kept
    assert read_evaluation(tmp_path / "run")["records"] == before


def test_other_rows_in_the_same_folder_are_refused(tmp_path):
    monosemy.fit(planted(), "topk", run=tmp_path / "run", **SMALL)
    with pytest.raises(UserError, match="X has changed since run"):
        monosemy.fit(planted(seed=1), "topk", run=tmp_path / "run", **SMALL)
    (tmp_path / "run/rows.npy").unlink()
    with pytest.raises(UserError, match=r"rows\.npy, the copy of the rows of .* is missing"):
        monosemy.pipeline.evaluate_folder(tmp_path / "run")


def test_groups_bound_the_split_and_the_intervals():
    groups = np.array([f"patient {i}" for i in np.arange(600) // 20])
    evaluation = Dictionary("topk", **SMALL).fit(planted(), groups=groups).evaluation_
    assert evaluation["n_documents"] == 3
    assert evaluation["n_tokens"] == 60


def test_it_clones_pickles_and_stands_in_a_pipeline():
    dictionary = fitted()
    assert clone(dictionary).get_params() == dictionary.get_params()
    assert clone(dictionary).set_params(l0=2).l0 == 2
    again = pickle.loads(pickle.dumps(dictionary))
    assert (again.transform(planted()) != dictionary.transform(planted())).nnz == 0
    labels = planted()[:, 0] > 0
    pipeline = make_pipeline(Dictionary("topk", **SMALL), LogisticRegression(max_iter=500)).fit(planted(), labels)
    assert pipeline.score(planted(), labels) > 0.8
    assert list(dictionary.get_feature_names_out()[:2]) == ["latent0", "latent1"]


def test_defaults_fit_any_size():
    toy = np.random.default_rng(0).normal(size=(50, 3))
    dictionary = monosemy.fit(toy, training={"n_passes": 2})
    assert (dictionary.sae_.d_sae, dictionary.sae_.config.l0) == (11, 1)
    assert monosemy.fit(toy, l0=8, training={"n_passes": 2}).sae_.d_sae == 32


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (np.full((50, 4), np.nan), {}, "NaN"),
        (np.zeros((1, 4)), {}, "1 sample"),
        (np.zeros((0, 4)), {}, "0 sample"),
        (np.zeros(9), {}, "must be [rows, columns]"),
        (np.array([["a"] * 4] * 9, dtype=object), {}, "objects that are not numbers"),
        ("nothing.npy", {}, "nothing.npy does not exist"),
        (None, {"d_sae": 0}, "d_sae 0 must be a whole number of latents, at least 1"),
        (None, {"d_sae": -3}, "d_sae -3"),
        (None, {"d_sae": 2.5}, "d_sae 2.5"),
        (None, {"l0": 0}, "l0 0 must be a number above 0"),
        (None, {"l0": float("nan")}, "l0 nan"),
        (None, {"d_sae": 8, "l0": 9}, "l0 9 must be at most d_sae 8"),
        (None, {"architecture": "jumprule"}, "did you mean 'jumprelu'"),
        (None, {"validation_fraction": 1.0}, "must be above 0 and below 1"),
        (None, {"training": {"passes": 3}}, "unknown setting 'training[\"passes\"]'"),
        (None, {"training": {"batch_tokens": 0}}, "must be at least 1"),
        (None, {"options": {"width": 3}}, "width"),
        (None, {"seed": -1}, "must be at least 0"),
        (None, {"n_latents": 3}, "fit has no setting 'n_latents'"),
        (None, {"tensor": "x"}, "give X as the path"),
        (None, {"groups": [1, 2]}, "groups has shape (2,)"),
        (None, {"device": "tpu"}, "device"),
    ],
)
def test_wrong_input_ends_in_one_line(rows, settings, words):
    with pytest.raises(UserError) as caught:
        monosemy.fit(planted() if rows is None else rows, **settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [(np.zeros((2, 5)), "12 features"), (np.zeros((0, 12)), "0 sample"), (np.full((2, 12), np.inf), "infinity")],
)
def test_rows_that_do_not_fit_are_not_transformed(rows, words):
    with pytest.raises(ValueError, match=words):
        fitted().transform(rows)
    with pytest.raises(UserError, match="5 latents but this SAE has 24"):
        fitted().inverse_transform(np.zeros((2, 5)))
