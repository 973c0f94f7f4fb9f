"""Probes: labelled files, folds that keep groups whole, AUROC counted by hand, planted latents that are found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from monosemy.errors import UserError
from monosemy.monitors.fitting import N_FOLDS, fit_raw, fit_sparse, folds_of, held_out_scores
from monosemy.monitors.held_out import HeldOut
from monosemy.monitors.labelled import Columns, read_labelled, read_texts


def lines(folder: Path, rows: list[object], name: str = "t.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def texts(n: int, **more: object) -> list[object]:
    return [{"text": f"text {i}", "label": i % 2, **more} for i in range(n)]


def test_json_lines_and_tables_give_the_same_texts(tmp_path: Path):
    read = read_labelled(lines(tmp_path, texts(40)), Columns())
    table = tmp_path / "t.csv"
    table.write_text("label,text\n" + "".join(f'{i % 2},"text {i}"\n' for i in range(40)))
    same = read_labelled(table, Columns())
    assert read.texts == same.texts == [f"text {i}" for i in range(40)]
    assert read.is_positive.tolist() == same.is_positive.tolist() == [bool(i % 2) for i in range(40)]
    assert (read.positive, read.negative, read.grouped, read.n_groups) == ("1", "0", False, 40)
    assert [text for _, text in read_texts(table, "text")] == read.texts


def test_equal_texts_and_those_of_a_group_belong_together(tmp_path: Path):
    rows = [{"text": f"text {i}", "label": i % 2, "group": i // 4} for i in range(40)]
    rows.append({"text": "text 0", "label": 1, "group": 9})
    read = read_labelled(lines(tmp_path, rows), Columns())
    assert read.grouped
    assert read.n_groups == 9  # groups 0 and 9 share a text
    assert read.n_contradictions == 1
    assert len(set(read.group[[0, 1, 2, 3, 36, 40]].tolist())) == 1


def test_a_label_of_several_is_told_from_all_others(tmp_path: Path):
    rows = [{"body": f"text {i}", "queue": ("bill", "ship", "talk")[i % 3]} for i in range(60)]
    path = lines(tmp_path, rows)
    columns = Columns("body", "queue")
    with pytest.raises(UserError, match=r"3 labels \('bill', 'ship', 'talk'\); give --positive LABEL"):
        read_labelled(path, columns)
    read = read_labelled(path, columns, "ship")
    assert (int(read.is_positive.sum()), read.negative) == (20, "not ship")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        (texts(10), "has 5 texts labelled '1', a probe needs at least 10 of each"),
        ([{"text": f"t{i}", "label": "a"} for i in range(30)], "all 30 texts .* are labelled 'a'"),
        ([{"txt": "a", "label": 1}], "unknown column of texts in row 1 .* did you mean 'txt'.*--text-column"),
        ([{"text": "a", "lable": 1}], "unknown column of labels .*'lable'.*--label-column"),
        ([*texts(30), {"text": "", "label": 1}], "row 31 .* has no text"),
        ([*texts(30), {"text": 5, "label": 1}], "row 31 .* has no text"),
        ([*texts(30), {"text": "x", "label": None}], "row 31 .* has no label"),
        (
            [*texts(30), {"text": "x" * 60_001, "label": 1}],
            "in row 31 .* has 60,001 characters; at most 60,000 are taken",
        ),
        ([*texts(30), 5], "row 31 .* is no object"),
    ],
)
def test_files_that_cannot_be_learnt_from_are_refused(tmp_path: Path, rows: list[object], message: str):
    with pytest.raises(UserError, match=message) as caught:
        read_labelled(lines(tmp_path, rows), Columns())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b"{", "row 1 .* is not JSON"),
        ("t.jsonl", b"\xff\xfe", "no UTF-8"),
        ("t.txt", b"a", "unknown ending of a file of texts"),
        ("t.csv", b"text,label\na\n", "another number of cells"),
        ("t.csv", b'text,label\n"a,1\n', "no CSV that can be read"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_labelled(tmp_path / name, Columns())
    with pytest.raises(UserError, match="cannot read"):
        read_labelled(tmp_path / "none.csv", Columns())


def test_the_auroc_counts_pairs_of_a_fold_alone_and_ties_half():
    positive = np.array([True, True, False, False, True, False])
    held_out = HeldOut(np.array([0, 0, 0, 0, 1, 1]), positive, np.arange(6))
    scores = np.array([0.9, 0.4, 0.4, 0.1, 0.2, 0.8])
    # fold 0: 0.9 beats both; 0.4 ties with one, beats the other; fold 1: the pair is in the wrong order
    assert held_out.auroc(scores) == (1 + 1 + 0.5 + 1 + 0) / 5
    assert held_out.auroc(1 - scores) == pytest.approx(1 - 3.5 / 5)


def test_the_interval_is_that_of_resampling_groups_by_hand():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 3)
    positive = np.tile([True, False, True, False, True, False], 15)
    scores = positive * 0.4 + random.normal(size=90)
    held_out = HeldOut(np.zeros(90, np.int64), positive, group)
    low, high = held_out.interval(scores)
    estimates = []
    for _ in range(1_000):
        rows = np.concatenate([np.flatnonzero(group == g) for g in random.integers(30, size=30)])
        pairs = np.sign(scores[rows][positive[rows]][:, None] - scores[rows][~positive[rows]][None, :])
        estimates.append((pairs.mean() + 1) / 2)
    assert [low, high] == pytest.approx(np.quantile(estimates, [0.025, 0.975]).tolist(), abs=0.03)
    assert held_out.difference_interval(scores, scores) == (0.0, 0.0)


def test_the_threshold_keeps_to_the_false_alarms_that_are_allowed():
    positive = np.array([True] * 5 + [False] * 10)
    held_out = HeldOut(np.zeros(15, np.int64), positive, np.arange(15))
    apart = np.array([0.9] * 5 + [0.1] * 10)
    assert held_out.threshold(apart, 0.05) == (0.5, 0.0, 1.0)
    mixed = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.85, 0.6, *[0.1] * 8])
    threshold, negatives, positives = held_out.threshold(mixed, 0.1)
    assert (negatives, positives) == (0.1, 0.6)
    assert (mixed[~positive] >= threshold).mean() == 0.1
    assert held_out.threshold(mixed, 0.0)[1] == 0.0


def planted(n: int = 200) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Codes of 50 latents of which 7 fires for the positives, 11 for the others, all others at random."""
    random = np.random.default_rng(0)
    positive = np.arange(n) % 2 == 0
    codes = random.exponential(size=(n, 50)) * (random.random((n, 50)) < 0.2)
    codes[:, 7] = positive * (1 + random.random(n)) + 0.1 * random.random(n)
    codes[:, 11] = ~positive * (1 + random.random(n)) * (random.random(n) < 0.8)
    return scipy.sparse.csr_matrix(codes), positive


def test_planted_latents_are_found_and_weigh_by_their_sign():
    codes, positive = planted()
    fit = fit_sparse(codes, positive, 2)
    weights = dict(zip(fit.latents.tolist(), fit.weights.tolist(), strict=True))
    assert set(weights) == {7, 11}
    assert weights[7] > 0 > weights[11]
    expected = fit.intercept + codes.toarray()[:, fit.latents] @ fit.weights
    assert fit.logits(codes) == pytest.approx(expected)
    assert len(fit_sparse(codes, positive, 1).latents) == 1


def test_held_out_scores_tell_planted_labels_and_not_shuffled_ones():
    codes, positive = planted()
    held_out = folds_of(positive, np.arange(len(positive)) // 4)
    for fold in range(N_FOLDS):  # a group stands in one fold, with both labels
        assert len(set(held_out.fold[held_out.group == fold].tolist())) == 1
        assert 0 < positive[held_out.fold == fold].mean() < 1

    def fit(labels):
        def of(rows):
            model = fit_sparse(codes[rows], labels[rows], 3)
            return lambda test: model.logits(codes[test])

        return of

    assert held_out.auroc(held_out_scores(held_out, fit(positive))) > 0.99
    shuffled = np.random.default_rng(1).permutation(positive)
    control = HeldOut(held_out.fold, shuffled, held_out.group)
    assert 0.3 < control.auroc(held_out_scores(control, fit(shuffled))) < 0.7


def test_the_baseline_tells_labels_by_all_columns():
    codes, positive = planted()
    logits = fit_raw(codes.toarray()[:100], positive[:100], np.arange(100))(codes.toarray()[100:])
    assert HeldOut(np.zeros(100, np.int64), positive[100:], np.arange(100)).auroc(logits) > 0.95


def test_groups_that_cannot_be_split_are_refused():
    positive = np.arange(40) % 2 == 0
    with pytest.raises(UserError, match="stand in 2 groups, and 5 are needed"):
        folds_of(positive, np.arange(40) // 20)


def test_silent_latents_are_refused():
    with pytest.raises(UserError, match="no latent fires on 3 of the texts"):
        fit_sparse(scipy.sparse.csr_matrix((20, 5)), np.arange(20) % 2 == 0, 3)
