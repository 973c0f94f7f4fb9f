"""Windows of activations: the order by its definition whatever the bound on disk, kills or threads; and the bound."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from activation_cases import CONFIG, A, B, TableModel, topical_text
from torch import Tensor

from monosemy.activations import windows
from monosemy.activations.harvest import measure_sites
from monosemy.activations.harvested_stream import RowSource
from monosemy.activations.store import build_store
from monosemy.activations.windows import WindowStream
from monosemy.errors import UserError
from monosemy.support.estimates import Windows

BATCH, SEED, N_PASSES = 48, 3, 2
TEXT = topical_text()
SIZE = 4
"""Sequences of a window: two passes of the model."""
SETTINGS = dataclasses.replace(CONFIG, storage="windows", window_tokens=SIZE * TEXT.context_length)
WINDOW = Windows.of(SETTINGS, TEXT.context_length, TEXT.n_sequences, [16, 12])
TIGHT = dataclasses.replace(SETTINGS, disk_budget=2 * WINDOW.n_bytes)


def stream(folder: Path, settings=SETTINGS, model: TableModel | None = None, **options: Any) -> WindowStream:
    statistics = measure_sites(TableModel(), TEXT, (A, B), settings)
    source = RowSource(model or TableModel(), TEXT, (A, B), settings, statistics=statistics)
    return WindowStream(source, folder, **({"batch_tokens": BATCH, "n_passes": N_PASSES, "seed": SEED} | options))


def batches(rows: WindowStream, n: int | None = None) -> list[dict[str, Tensor]]:
    return [next(rows) for _ in range(rows.n_steps - rows.step if n is None else n)]


def same(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one[site], other[site]) for one, other in zip(first, second) for site in one
    )


def size_of(folder: Path) -> int:
    """The bytes of the files in a folder, from which a thread may delete some meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


@pytest.fixture(scope="module")
def unbounded(tmp_path_factory) -> list[dict[str, Tensor]]:
    return batches(stream(tmp_path_factory.mktemp("all")))


def test_every_visit_gives_the_rows_of_its_window_in_the_order_of_its_permutation(unbounded, tmp_path):
    """Rows are found in an ordinary store of the whole text, by their sequence."""
    store = build_store(TableModel(), TEXT, (A, B), CONFIG, folder=tmp_path / "store")
    n_windows = -(-TEXT.n_sequences // SIZE)
    scale = measure_sites(TableModel(), TEXT, (A, B), CONFIG)[A].scale
    expected = []
    for visit in range(N_PASSES * n_windows):
        of_window = np.flatnonzero(store.sequences // SIZE == visit % n_windows)
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, visit])))
        expected.append(store.rows(A, of_window[random.permutation(len(of_window))]) / scale)
    rows = torch.cat([batch[A] for batch in unbounded])
    assert torch.equal(rows, torch.cat(expected)[: len(rows)])
    # All but the rows that outliers' interval and the last batch leave over.
    assert len(rows) > 0.95 * N_PASSES * store.n_rows


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("settings", [TIGHT, dataclasses.replace(SETTINGS, disk_budget=5 * WINDOW.n_bytes)])
def test_a_bound_on_disk_changes_no_bit_and_is_kept(unbounded, settings, prefetch, tmp_path, monkeypatch):
    sizes, counts = [], []
    harvest = windows.harvest_shard

    def measured(*arguments: Any, **options: Any) -> dict[str, Any]:
        entry = harvest(*arguments, **options)
        sizes.append(size_of(tmp_path))
        counts.append(len(list(tmp_path.glob("*/window-*"))))
        return entry

    monkeypatch.setattr(windows, "harvest_shard", measured)
    model = TableModel()
    rows = stream(tmp_path, settings, model, prefetch=prefetch)
    batches = []
    for _ in range(rows.n_steps):
        batches.append(next(rows))
        sizes.append(size_of(tmp_path))
    rows.close()
    assert same(batches, unbounded)
    assert 0 < max(sizes) <= settings.disk_budget
    assert max(counts) <= (rows.windows.n_kept if prefetch else 1)
    # The model reads every sequence once a pass.
    n_passes = -(-TEXT.n_sequences // SETTINGS.batch_sequences)
    assert model.n_passes == pytest.approx(N_PASSES * n_passes, abs=2)


def test_where_all_windows_are_kept_the_model_reads_the_text_once(tmp_path):
    model = TableModel()
    rows = stream(tmp_path, dataclasses.replace(SETTINGS, disk_budget=10**9), model)
    batches(rows)
    assert model.n_passes == -(-TEXT.n_sequences // SETTINGS.batch_sequences)
    assert rows.windows.all_kept


@pytest.mark.parametrize("prefetch", [False, True])
def test_stopped_and_resumed_anywhere_it_goes_on_as_if_never_stopped(unbounded, prefetch, tmp_path):
    """With and without the files, with another budget, and with a window that was left unfinished."""
    first = stream(tmp_path / "first", TIGHT, prefetch=prefetch)
    for stop in (1, len(unbounded) // 2, len(unbounded) - 1):
        batches(first, stop - first.step)
        first.close()
        state = first.state()
        plain = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        state |= json.loads(json.dumps(plain))
        unfinished = next((tmp_path / "first").glob("*/window-*"))
        (unfinished / "manifest.json").unlink(missing_ok=True)
        for folder, settings in ((tmp_path / "first", SETTINGS), (tmp_path / f"other-{stop}", TIGHT)):
            again = stream(folder, settings, prefetch=prefetch)
            again.restore(state)
            assert same(batches(again), unbounded[stop:])
            again.close()
            assert again.record()["n_dropped"] == stream_record(tmp_path / "whole")["n_dropped"]
        shutil.rmtree(tmp_path / "first")
        first = stream(tmp_path / "first", TIGHT, prefetch=prefetch)
        first.restore(state)


def stream_record(folder: Path) -> dict[str, Any]:
    rows = stream(folder)
    batches(rows)
    return rows.record()


def test_what_a_killed_process_left_is_cleared(unbounded, tmp_path):
    left = stream(tmp_path, dataclasses.replace(SETTINGS, disk_budget=5 * WINDOW.n_bytes), prefetch=True)
    batches(left, 1)
    for harvest in left._ahead.values():
        harvest.result()
    # One that is trained on and four ahead; the thread waits until one of them is done with.
    assert len(list(tmp_path.glob("*/window-*/manifest.json"))) == 5
    left.close()
    (tmp_path / "of-another-text" / "window-00000").mkdir(parents=True)
    rows = stream(tmp_path, TIGHT)
    assert same(batches(rows, 1), unbounded[:1])
    assert size_of(tmp_path) <= TIGHT.disk_budget
    assert not (tmp_path / "of-another-text").exists()


def test_a_state_of_another_order_is_refused(tmp_path):
    state = stream(tmp_path).state()
    other = stream(tmp_path, dataclasses.replace(SETTINGS, window_tokens=2 * SETTINGS.window_tokens))
    with pytest.raises(UserError, match="window_sequences 4 there, 8 here"):
        other.restore(state)


def test_an_error_of_the_thread_that_makes_windows_comes_where_its_window_is_needed(tmp_path):
    rows = stream(tmp_path, TIGHT, prefetch=True)
    next(rows)
    rows.model.poison = None
    rows.model.tables[A][:, 0] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite in sequence"):
        batches(rows)
    rows.close()


def test_a_budget_below_two_windows_is_refused_and_both_ways_out_work(tmp_path):
    budget = WINDOW.n_bytes + WINDOW.n_bytes // 2
    with pytest.raises(UserError, match="holds 1 window of") as refused:
        stream(tmp_path, dataclasses.replace(SETTINGS, disk_budget=budget))
    raised, lowered = re.search(r"raise it to (\d+)(?: or lower \S+ to (\d+))?", str(refused.value)).groups()
    stream(tmp_path, dataclasses.replace(SETTINGS, disk_budget=int(raised)))
    large = dataclasses.replace(SETTINGS, window_tokens=10**6, disk_budget=4 * WINDOW.n_bytes)
    wide = Windows.of(dataclasses.replace(large, disk_budget=0), 64, 10**6, [16, 12])
    with pytest.raises(UserError, match=r"lower --activations\.window-tokens to") as refused:
        Windows.of(dataclasses.replace(large, disk_budget=wide.n_bytes), 64, 10**6, [16, 12])
    lowered = int(re.search(r"window-tokens to (\d+)", str(refused.value))[1])
    fitting = Windows.of(
        dataclasses.replace(large, disk_budget=wide.n_bytes, window_tokens=lowered), 64, 10**6, [16, 12]
    )
    assert fitting.n_kept >= 2
    halved = Windows.of(TIGHT, TEXT.context_length, TEXT.n_sequences, [16, 12], n_sharing=1)
    assert halved.n_kept == 2
    with pytest.raises(UserError, match="for each of 2 processes"):
        Windows.of(TIGHT, TEXT.context_length, TEXT.n_sequences, [16, 12], n_sharing=2)
