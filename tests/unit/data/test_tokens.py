"""Token shards: built once, opened with their hashes checked, the same text in as out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_text import byte_tokenizer, write_jsonl, write_parquet

from monosemy.config import ActivationsConfig, RunConfig, TextConfig
from monosemy.data import build
from monosemy.data import tokens as tokens_module
from monosemy.data.tokens import TokenSet, prepare_tokens, separator_and_bos
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_context
from monosemy.support.files import read_json, write_json

TOKENIZER = byte_tokenizer()
EOS = TOKENIZER.eos_token_id


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextConfig:
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    path = write_jsonl(tmp_path / "text.jsonl", [f"document {i} é {'.' * (i % 7)}" for i in range(100)])
    return TextConfig(source=str(path), context_length=16, n_tokens=600, n_validation_tokens=200)


def whole_documents(shards: tokens_module.TokenShards) -> dict[int, str]:
    """{document number: text} of the documents that lie whole in the shards."""
    tokens, numbers = shards.sequences(0, shards.n_sequences).ravel(), shards.documents(0, shards.n_sequences).ravel()
    documents = {}
    for number in np.unique(numbers):
        ids = tokens[numbers == number]
        if ids[-1] == EOS:
            documents[int(number)] = TOKENIZER.decode(ids[:-1])
    return documents


def test_shards_hold_the_documents(text: TextConfig) -> None:
    tokens = prepare_tokens(text, TOKENIZER, "t")
    assert tokens.train.n_tokens == 608  # rounded up to whole sequences
    assert tokens.validation.n_tokens == 208
    assert tokens.train.sequences(3, 5).shape == (2, 16)
    assert tokens.train.sequences(3, 5).dtype == np.int32
    assert isinstance(tokens.train.sequences(3, 5), np.memmap)
    document_records = list(tokens.documents())
    for shards, side in ((tokens.train, "train"), (tokens.validation, "validation")):
        documents = whole_documents(shards)
        assert len(documents) > 5
        for number, document in documents.items():
            line = int(document_records[number]["origin"].partition("#")[2]) - 1
            assert document == f"document {line} é {'.' * (line % 7)}"
            assert document_records[number]["side"] == side
            assert document_records[number]["n_tokens"] == len(document.encode())
    sides = {side: {d["origin"] for d in document_records if d["side"] == side} for side in ("train", "validation")}
    assert not sides["train"] & sides["validation"]
    assert tokens.record["train_documents"] == len(sides["train"])
    assert tokens.record["sources"]["local"]["train_tokens"] >= 600
    assert tokens.record["separator_token"] == EOS


def test_built_once_and_named_by_what_it_is(text: TextConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_tokens(text, TOKENIZER, "t")
    longer = prepare_tokens(replace(text, n_tokens=900), TOKENIZER, "t")
    assert longer.validation.fingerprint == first.validation.fingerprint
    assert longer.train.fingerprint != first.train.fingerprint
    assert np.array_equal(longer.train.sequences(0, 30), first.train.sequences(0, 30))
    other = [
        prepare_tokens(replace(text, seed=1), TOKENIZER, "t"),
        prepare_tokens(replace(text, context_length=32), TOKENIZER, "t"),
        prepare_tokens(text, TOKENIZER, "other"),
    ]
    assert len({s.fingerprint for s in [first, longer, *other]}) == 5
    monkeypatch.setattr(tokens_module, "build_tokens", lambda *_: pytest.fail("built again"))
    assert prepare_tokens(text, TOKENIZER, "t").train.fingerprint == first.train.fingerprint
    with pytest.raises(pytest.fail.Exception):
        prepare_tokens(replace(text, seed=2), TOKENIZER, "t")


def test_same_seed_same_bytes(text: TextConfig, tmp_path: Path) -> None:
    first = prepare_tokens(text, TOKENIZER, "t", folder=tmp_path / "one")
    second = prepare_tokens(text, TOKENIZER, "t", folder=tmp_path / "two")
    assert first.folder != second.folder
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes()


def test_many_shards_read_as_one(text: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare_tokens(text, TOKENIZER, "t")
    monkeypatch.setattr(build, "_SHARD_TOKENS", 16 * 5)
    parts = prepare_tokens(text, TOKENIZER, "t", folder=tmp_path / "parts")
    assert parts.train.shard_sequences == (5,) * 7 + (3,)
    for start, stop in [(0, 38), (0, 0), (4, 6), (5, 10), (3, 17), (37, 38), (38, 38)]:
        assert np.array_equal(parts.train.sequences(start, stop), whole.train.sequences(start, stop))
        assert np.array_equal(parts.train.documents(start, stop), whole.train.documents(start, stop))
    for start, stop in [(-1, 3), (30, 39), (5, 4)]:
        with pytest.raises(IndexError, match="of 38"):
            parts.train.sequences(start, stop)
    first = parts.first(12)
    assert first.train.shard_sequences == (5, 5, 2)
    assert np.array_equal(first.train.sequences(3, 12), whole.train.sequences(3, 12))
    assert len({first.fingerprint, parts.fingerprint, parts.first(13).fingerprint}) == 3
    assert first.validation == parts.validation
    for n in (0, 39):
        with pytest.raises(IndexError, match="of 38"):
            parts.first(n)


def test_damage_is_named(text: TextConfig) -> None:
    tokens = prepare_tokens(text, TOKENIZER, "t")
    shard = tokens.folder / "validation-00000.npy"
    good = shard.read_bytes()
    shard.write_bytes(good[:-7])
    with pytest.raises(UserError, match=r"validation-00000\.npy is corrupted or truncated.*delete the folder"):
        prepare_tokens(text, TOKENIZER, "t")
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match="corrupted"):
        TokenSet.open(tokens.folder)
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        TokenSet.open(tokens.folder)
    shard.write_bytes(good)
    assert TokenSet.open(tokens.folder).validation.n_sequences == 13
    manifest = tokens.folder / "manifest.json"
    good_manifest = manifest.read_text()
    manifest.write_text(good_manifest[:50])
    with pytest.raises(UserError, match="not valid JSON"):
        TokenSet.open(tokens.folder)
    manifest.write_text(good_manifest.replace('"format": 1', '"format": 9'))
    with pytest.raises(UserError, match="format 9, not 1"):
        TokenSet.open(tokens.folder)


def test_corpus_smaller_than_asked(text: TextConfig) -> None:
    with pytest.raises(UserError) as caught:
        prepare_tokens(replace(text, n_tokens=5000), TOKENIZER, "t")
    tokens = prepare_tokens(text, TOKENIZER, "t")
    n_validation = tokens.record["sources"]["local"]["validation_tokens"]
    n_all = sum(len(f"document {i} é {'.' * (i % 7)}".encode()) + 1 for i in range(100))
    assert f"holds only {n_all - n_validation:,} training tokens beside {n_validation} for validation" in str(
        caught.value
    )
    assert "5,000 training and 200 validation tokens were asked" in str(caught.value)
    with pytest.raises(UserError, match=f"holds only {n_all:,} tokens in all"):
        prepare_tokens(replace(text, n_validation_tokens=9999), TOKENIZER, "t")
    assert [p.name for p in tokens.folder.parent.iterdir() if not p.name.startswith(".")] == [tokens.folder.name]


def sides_of(tokens: TokenSet) -> dict[str, list[str]]:
    documents = list(tokens.documents())
    return {side: [d["origin"] for d in documents if d["side"] == side] for side in ("train", "validation")}


def test_two_books(tmp_path: Path, text: TextConfig) -> None:
    (tmp_path / "books").mkdir()
    for name in ("ab", "cd"):  # two sections of 10,001 characters each
        (tmp_path / "books" / f"{name}.txt").write_text("".join((letter * 99 + "\n") * 100 + "\n" for letter in name))
    books = replace(text, source=str(tmp_path / "books"), n_validation_tokens=15_000)
    tokens = prepare_tokens(books, TOKENIZER, "t")  # a whole book suffices
    assert tokens.record["sources"]["local"]["split_unit"] == "document"
    assert set(sides_of(tokens)["train"]) < {"ab.txt", "cd.txt"}
    tokens = prepare_tokens(replace(books, n_validation_tokens=25_000), TOKENIZER, "t")  # more than one, less than two
    assert tokens.record["sources"]["local"]["split_unit"] == "section"
    assert {len(sides_of(tokens)[side]) for side in ("train", "validation")} == {1, 3}
    assert "split by section" in tokens.record["remarks"][0]
    with pytest.raises(UserError, match=r"holds only 40,00. tokens in all"):
        prepare_tokens(replace(books, n_validation_tokens=50_000), TOKENIZER, "t")


def words(n: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    return " ".join(f"w{number}" for number in random.integers(0, 10_000, n))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("sizes", [[20_000], [20_000, 10], [10, 20_000, 10], [9_000, 9_000], [20_000, *[20] * 1000]])
def test_long_rows_are_cut_and_serve_both_sides(tmp_path: Path, text: TextConfig, sizes: list[int], kind: str) -> None:
    texts = [words(n, seed) for seed, n in enumerate(sizes)]
    path = (write_jsonl if kind == "jsonl" else write_parquet)(tmp_path / f"long.{kind}", texts)
    config = replace(text, source=str(path), n_tokens=30_000, n_validation_tokens=10_000)
    tokens = prepare_tokens(config, TOKENIZER, "t")
    sides = sides_of(tokens)
    assert not set(sides["train"]) & set(sides["validation"])
    longest = max(d["n_tokens"] for d in tokens.documents())
    assert longest <= 3 * 8192
    whole = {
        number: document
        for shards in (tokens.train, tokens.validation)
        for number, document in whole_documents(shards).items()
    }
    assert all(any(document in text for text in texts) for document in list(whole.values())[:50])
    if len(sizes) > 5:
        assert any("section" not in origin for origin in sides["validation"])  # not the long one alone


def test_copies_are_one_document(tmp_path: Path, text: TextConfig) -> None:
    texts = [f"text {i} " * 5 for i in range(60)]
    repeated = texts[:20] * 10 + texts[20:]
    path = write_jsonl(tmp_path / "copies.jsonl", repeated)
    tokens = prepare_tokens(replace(text, source=str(path), n_tokens=5_000, n_validation_tokens=500), TOKENIZER, "t")
    train, validation = (set(whole_documents(shards).values()) for shards in (tokens.train, tokens.validation))
    assert train
    assert validation
    assert not train & validation
    document_records = list(tokens.documents())
    documents = tokens.train.documents(0, tokens.train.n_sequences)
    assert documents.max() < len(document_records) < len(repeated)
    assert len(set(documents.ravel().tolist())) <= 60  # of more than a hundred copies
    facts = tokens.record["sources"]["local"]
    assert facts["copies"] > 50
    n_used = facts["train_documents"] + facts["validation_documents"] + facts["copies_left_out"]
    assert f"{facts['copies']:,} of {n_used:,} documents are copies of another" in tokens.record["remarks"][0]


def test_nothing_but_copies(tmp_path: Path, text: TextConfig) -> None:
    path = write_jsonl(tmp_path / "copies.jsonl", ["the same text again"] * 200)
    with pytest.raises(UserError, match="199 copies of validation's documents left out"):
        prepare_tokens(replace(text, source=str(path)), TOKENIZER, "t")


def test_tokens_of_the_first_version_serve_the_runs_that_began_with_them(text: TextConfig) -> None:
    """Its manifests name no rules: a new run makes the tokens again, an older one keeps them."""
    tokens = prepare_tokens(text, TOKENIZER, "t")
    manifest = read_json(tokens.folder / "manifest.json")
    manifest.pop("rules")
    write_json(tokens.folder / "manifest.json", manifest)
    before = (tokens.folder / "manifest.json").stat().st_mtime_ns
    opened = prepare_tokens(text, TOKENIZER, "t", began_with=tokens.fingerprint)
    assert opened.fingerprint == tokens.fingerprint
    assert (tokens.folder / "manifest.json").stat().st_mtime_ns == before
    again = prepare_tokens(text, TOKENIZER, "t")
    assert read_json(tokens.folder / "manifest.json")["rules"] == tokens_module.RULES
    assert (again.fingerprint, again.train.fingerprint) == (tokens.fingerprint, tokens.train.fingerprint)


def test_rules_that_change_the_tokens_change_their_name(tmp_path: Path, text: TextConfig) -> None:
    path = write_jsonl(tmp_path / "copies.jsonl", [f"text {i % 50} and more" for i in range(100)])
    tokens = prepare_tokens(replace(text, source=str(path)), TOKENIZER, "t")
    assert read_json(tokens.folder / "manifest.json")["identity"]["rules"] == tokens_module.RULES
    plain = prepare_tokens(text, TOKENIZER, "t")
    assert "rules" not in read_json(plain.folder / "manifest.json")["identity"]


def test_one_book(tmp_path: Path, text: TextConfig) -> None:
    book = tmp_path / "book.txt"
    book.write_text("".join(f"paragraph {i} " + "x" * 1000 + "\n\n" for i in range(50)))
    config = replace(text, source=str(book), n_tokens=30_000, n_validation_tokens=9_000)
    tokens = prepare_tokens(config, TOKENIZER, "t")
    assert tokens.record["sources"]["local"]["split_unit"] == "section"
    sides = {side: {d["origin"] for d in tokens.documents() if d["side"] == side} for side in ("train", "validation")}
    assert sides["train"]
    assert sides["validation"]
    assert not sides["train"] & sides["validation"]


def test_bad_settings(text: TextConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, value in (("n_tokens", 0), ("n_validation_tokens", -1), ("context_length", 1)):
        with pytest.raises(UserError, match=rf"{setting} must be .* got {value}"):
            prepare_tokens(replace(text, **{setting: value}), TOKENIZER, "t")
    with pytest.raises(UserError, match=r"tokens need .* GB .* are free"):
        prepare_tokens(replace(text, n_tokens=10**15), TOKENIZER, "t")


def test_full_disk_leaves_nothing(text: TextConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        prepare_tokens(text, TOKENIZER, "t", folder=tmp_path / "file")


def test_separator_and_bos(text: TextConfig) -> None:
    gemma_like = byte_tokenizer(eos="</s>", bos="<s>")
    eos, bos = gemma_like.eos_token_id, gemma_like.bos_token_id
    assert separator_and_bos(gemma_like) == (eos, bos)
    tokens = prepare_tokens(text, gemma_like, "g")
    sequences = tokens.train.sequences(0, tokens.train.n_sequences)
    assert (sequences[:, 0] == bos).all()
    assert not (sequences[:, 1:] == bos).any()
    assert (sequences[:, 1:] == eos).any()
    chat = byte_tokenizer(eos="<|im_end|>")
    chat.add_special_tokens({"unk_token": "<|endoftext|>"})
    assert separator_and_bos(chat) == (chat.unk_token_id, None)
    assert separator_and_bos(byte_tokenizer(eos=None)) == (None, None)


@pytest.mark.parametrize(
    ("length", "first", "bos", "specials", "refused"),
    [
        (2, 1, False, True, True),
        (3, 1, False, True, False),
        (2, 0, False, True, False),
        (2, 0, True, True, True),
        (2, 0, True, False, False),
        (3, 1, True, True, False),
        (5, 4, False, True, True),
        (6, 4, True, True, False),
    ],
)
def test_sequences_of_which_nothing_would_count(
    length: int, first: int, bos: bool, specials: bool, refused: bool
) -> None:
    """Against the rule itself: position i < T − 1 predicts, and counts unless it is among the first or is BOS."""
    counting = [i for i in range(length - 1) if i >= first and not (bos and specials and i == 0)]
    assert (not counting) == refused
    settings = ActivationsConfig(drop_first_positions=first, drop_special_tokens=specials)
    config = RunConfig(text=TextConfig(context_length=length), activations=settings)
    if not refused:
        check_context(config, starts_with_bos=bos)
        return
    with pytest.raises(UserError, match=f"set --text.context-length to {length + 1} or more"):
        check_context(config, starts_with_bos=bos)
