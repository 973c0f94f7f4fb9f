"""Packing loses no token, works never cross the split, shares hold, the order depends on the seed alone."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_text import byte_tokenizer

from monosemy.data import packing, split
from monosemy.data.copies import TextNumbers
from monosemy.data.documents import Document, TextSource
from monosemy.data.packing import pack, parallel_tokenizer, tokeniser, without_frame
from monosemy.data.split import Shortage, ShuffledDocuments, SourceQueue, mixed

BYTES = tokeniser(byte_tokenizer())

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(lengths, st.integers(2, 17), st.sampled_from([None, -1]), st.sampled_from([None, -2]))
def test_packing_loses_no_token(sizes: list[int], width: int, separator: int | None, bos: int | None) -> None:
    starts = np.cumsum([0, *sizes])
    documents = [(k, np.arange(starts[k], starts[k + 1], dtype=np.int32)) for k in range(len(sizes))]
    blocks = list(pack(documents, width, separator, bos))
    flat = [t for _, ids in documents for t in [*ids, *([] if separator is None else [separator])]]
    numbers = [k for k, ids in documents for _ in range(len(ids) + (separator is not None))]
    tokens = np.concatenate([t for t, _ in blocks]) if blocks else np.empty((0, width))
    of = np.concatenate([d for _, d in blocks]) if blocks else np.empty((0, width))
    assert tokens.shape == of.shape
    first = 0 if bos is None else 1
    if bos is not None:
        assert (tokens[:, 0] == bos).all()
        assert (of[:, 0] == of[:, 1]).all()
    n_packed = tokens[:, first:].size
    assert tokens[:, first:].ravel().tolist() == flat[:n_packed]
    assert of[:, first:].ravel().tolist() == numbers[:n_packed]
    assert len(flat) - n_packed < width - first


def test_packing_in_blocks_is_packing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [(k, np.full(7 + k % 5, k, dtype=np.int32)) for k in range(200)]
    ((whole, numbers),) = pack(documents, 16, 999, None)
    monkeypatch.setattr(packing, "_BLOCK_TOKENS", 50)
    blocks = list(pack(documents, 16, 999, None))
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate([t for t, _ in blocks]), whole)
    assert np.array_equal(np.concatenate([d for _, d in blocks]), numbers)


def queue(
    name: str, sections: list[int], seed: int = 0, share: float = 1.0, size: int = 10, by_section: bool = False
) -> SourceQueue:
    """A source of works with `sections[k]` sections each; every text is unique and `size` bytes long."""
    works = [(f"{name}{k}", j) for k, n in enumerate(sections) for j in range(n)]
    documents = [Document(f"{work}.{j}".ljust(size, "_"), name, i, work) for i, (work, j) in enumerate(works)]
    source = TextSource(name, lambda: iter(documents), {}, share=share)
    return SourceQueue(source, ShuffledDocuments(source.read(), f"{seed}/{name}", by_section), BYTES)


def drain(queues: list[SourceQueue], n: int, validation: bool) -> list[Document]:
    return [document for document, _ in mixed(queues, n, 1, validation)]


def drain_all(q: SourceQueue, n: int, validation: bool) -> tuple[list[Document], int | None]:
    """(documents, None), or (all documents there are, their tokens) when they are fewer than `n` tokens."""
    documents: list[Document] = []
    try:
        documents.extend(document for document, _ in mixed([q], n, 1, validation))
    except Shortage as shortage:
        return documents, shortage.n_tokens
    return documents, None


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=25), st.integers(1, 200), st.integers(0, 3))
def test_works_never_cross_the_split(sections: list[int], n_validation: int, seed: int) -> None:
    assume(not any(n > 1 and 2 * n > sum(sections) for n in sections))  # such a work is split by section, see below
    q = queue("w", sections, seed)
    validation, n_short = drain_all(q, n_validation, True)
    if n_short is not None:
        assert n_short == 11 * len(validation)
        assert len({d.origin for d in validation}) >= len(sections) - 1  # one work at most stays for training
    q.begin_training()
    train, n_short = drain_all(q, 10**9, False)
    assert n_short == 11 * len(train)
    assert not {d.origin for d in validation} & {d.origin for d in train}
    used = Counter(d.index for d in validation + train)
    assert max(used.values()) == 1
    left_out = sum(sections) - len(used)
    touched = {d.origin for d in validation}
    of_validation_works = sum(n for k, n in enumerate(sections) if f"w{k}" in touched)
    assert left_out == of_validation_works - len(validation)  # only the rest of validation's own works is unused


def test_few_long_works_are_not_all_taken_by_validation() -> None:
    q = queue("w", [50] * 10)
    assert len({d.origin for d in drain([q], 300, True)}) == 1
    q.begin_training()
    assert len({d.origin for d in drain([q], 3000, False)}) == 9


def test_a_single_work_is_split_by_section() -> None:
    q = queue("w", [30])
    validation = drain([q], 50, True)
    q.begin_training()
    train = drain([q], 200, False)
    assert q.shuffled.divided_work == "w0"
    assert not {d.index for d in validation} & {d.index for d in train}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 60))
def test_a_work_of_more_than_half_the_text_is_split_by_section(
    others: list[int], extra: int, n_validation: int
) -> None:
    """No token of it is lost, and no section is on both sides; the other works stay whole."""
    sections = [sum(others) + extra, *others]
    assume(sections[0] > 1)
    q = queue("w", sections)
    validation, _ = drain_all(q, n_validation, True)
    q.begin_training()
    train, _ = drain_all(q, 10**9, False)
    assert q.shuffled.divided_work == "w0"
    assert not {d.origin for d in validation} & {d.origin for d in train}
    used = [d.index for d in validation + train]
    assert set(range(sections[0])) <= set(used)
    assert len(set(used)) == len(used)


def test_works_split_by_section_when_asked() -> None:
    whole, divided = queue("w", [8, 8]), queue("w", [8, 8], by_section=True)
    for q in (whole, divided):
        drain([q], 60, True)
        q.begin_training()
    assert len(drain_all(whole, 10**9, False)[0]) == 8
    assert len(drain_all(divided, 10**9, False)[0]) == 16 - divided.validation.n_documents


def copied(texts: list[str]) -> SourceQueue:
    documents = [Document(text, "s", i, str(i)) for i, text in enumerate(texts)]
    source = TextSource("s", lambda: iter(documents), {})
    return SourceQueue(source, ShuffledDocuments(source.read(), "k"), BYTES)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.integers(1, 20), st.integers(1, 9))
def test_no_text_is_on_both_sides_however_often_it_stands_there(
    texts: list[str], n_validation: int, window: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "WINDOW_DOCUMENTS", window)
        q = copied(texts)
        validation, _ = drain_all(q, n_validation, True)
        q.begin_training()
        train, _ = drain_all(q, 10**9, False)
    assert not {d.text for d in validation} & {d.text for d in train}
    assert len({d.text for d in validation}) == len(validation)  # each once
    used = Counter(d.text for d in train)
    assert used == Counter(t for t in texts if t not in {d.text for d in validation})  # training keeps its copies
    assert q.n_copies == len(texts) - len(set(texts))
    assert len(validation) + len(train) + q.n_left_out == len(texts)


def test_validation_takes_texts_without_copies_while_they_last() -> None:
    texts = ["x"] * 50 + [f"{i}" for i in range(10, 30)]
    q = copied(texts)
    assert "x" not in {d.text for d in drain([q], 30, True)}
    q.begin_training()
    assert sum(d.text == "x" for d in drain_all(q, 10**9, False)[0]) == 50
    assert q.n_left_out == 0


def test_copies_share_a_number() -> None:
    """Against a dictionary; far more texts than the table first has places."""
    numbers, expected = TextNumbers(), {}
    drawn = np.random.default_rng(0).integers(0, 2**64, 5000, np.uint64)[
        np.random.default_rng(1).integers(0, 5000, 20_000)
    ]
    for digest in map(int, drawn):
        assert numbers.get(digest) == expected.get(digest)
        assert numbers.add(digest) == expected.setdefault(digest, len(expected))
    assert len(numbers) == len(expected)


@pytest.mark.parametrize(
    ("ids", "left"),
    [
        ([1, 5, 6, 2], [5, 6]),
        ([0, 0, 1, 5, 2, 0, 0], [5]),
        ([5, 1, 2, 6], [5, 1, 2, 6]),
        ([1, 1, 5, 2, 2], [1, 5, 2]),
        ([0, 0], []),
        ([], []),
        ([1], []),
    ],
)
def test_special_tokens_that_documents_bring_themselves(ids: list[int], left: list[int]) -> None:
    assert without_frame(np.array(ids, np.int32), 1, 2, 0).tolist() == left
    assert without_frame(np.array(ids, np.int32), None, None, None).tolist() == ids


def test_a_single_work_longer_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "WINDOW_DOCUMENTS", 7)
    q = queue("w", [30])
    validation = drain([q], 100, True)
    q.begin_training()
    train = drain([q], 200, False)
    assert len(validation) + len(train) == 29
    assert len({d.index for d in validation + train}) == 29


def test_works_across_windows_do_not_cross_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "WINDOW_DOCUMENTS", 3)
    q = queue("w", [5, 4, 1, 7, 2, 6, 4])
    validation, _ = drain_all(q, 60, True)
    q.begin_training()
    train, _ = drain_all(q, 10**9, False)
    assert validation
    assert train
    assert not {d.origin for d in validation} & {d.origin for d in train}


def test_order_depends_on_the_seed_alone() -> None:
    def order(seed: int) -> list[int]:
        return [d.index for d in drain([queue("w", [1] * 50, seed)], 540, True)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) != order(1)
    first_of_many = order(3)[:10]
    assert first_of_many == [d.index for d in drain([queue("w", [1] * 50, 3)], 110, True)]


def test_order_is_the_same_on_every_machine() -> None:
    documents = [Document("x", "s", i, str(i)) for i in range(8)]
    assert [d.index for d in ShuffledDocuments(documents, "0/english")] == [0, 3, 2, 7, 4, 5, 1, 6]


def test_windows_hold_every_document_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "WINDOW_DOCUMENTS", 7)
    documents = [Document("x", "s", i, str(i)) for i in range(40)]
    order = [d.index for d in ShuffledDocuments(documents, "k")]
    assert sorted(order) == list(range(40))
    assert set(order[:7]) == set(range(7))


def test_every_prefix_keeps_the_shares() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    sizes = {"a": 12, "b": 40, "c": 90}
    queues = [queue(n, [1] * 400, share=s, size=sizes[n]) for n, s in shares.items()]
    n_tokens = Counter[str]()
    for document, ids in mixed(queues, 8000, 1, True):
        n_tokens[document.source] += len(ids) + 1
        total = sum(n_tokens.values())
        for name, share in shares.items():
            assert abs(n_tokens[name] - share * total) <= 2 * (max(sizes.values()) + 1)
    assert sum(n_tokens.values()) < 8000 + 91


def test_training_begins_the_same_however_long() -> None:
    def train(n: int) -> list[tuple[str, int]]:
        queues = [queue("a", [1, 3] * 50, share=0.5), queue("b", [2] * 60, share=0.5)]
        drain(queues, 200, True)
        for q in queues:
            q.begin_training()
        return [(d.source, d.index) for d in drain(queues, n, False)]

    assert train(1000)[: len(train(300))] == train(300)


def test_empty_documents_are_counted_and_left_out() -> None:
    documents = [Document(t, "s", i, str(i)) for i, t in enumerate(["", "ab", "", "c"])]
    source = TextSource("s", lambda: iter(documents), {})
    q = SourceQueue(source, ShuffledDocuments(source.read(), "k"), BYTES)
    assert {d.text for d in drain([q], 4, True)} == {"ab", "c"}
    with pytest.raises(Shortage):
        drain([q], 1, True)
    assert q.n_empty == 2


def test_only_needed_documents_are_tokenised() -> None:
    n_seen = 0

    def counting(texts: list[str]) -> list[np.ndarray]:
        nonlocal n_seen
        n_seen += len(texts)
        return BYTES(texts)

    q = queue("w", [1] * 5000)
    q.tokenise = counting  # type: ignore[assignment]
    drain([q], 100, True)
    assert n_seen == 256


def test_threads_of_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "TOKENIZERS_PARALLELISM"
    monkeypatch.delenv(name, raising=False)
    with parallel_tokenizer():
        assert os.environ[name] == "true"
    assert name not in os.environ
    monkeypatch.setenv(name, "false")
    with parallel_tokenizer():
        assert os.environ[name] == "false"
    assert os.environ[name] == "false"
