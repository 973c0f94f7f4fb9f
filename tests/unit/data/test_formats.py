"""The same documents in every format give the same documents; what a column may hold; what is refused, and where."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_text import byte_tokenizer, write_jsonl

from monosemy.config import TextConfig
from monosemy.data.corpora import open_documents
from monosemy.data.tokens import TokenSet, prepare_tokens
from monosemy.errors import UserError
from monosemy.support.files import read_json

TOKENIZER = byte_tokenizer(bos="<s>")

WRITERS = {
    ".jsonl": lambda texts: "".join(json.dumps({"text": t}) + "\n" for t in texts),
    ".JSONL": lambda texts: "\n\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts),
    ".ndjson": lambda texts: "\ufeff" + "".join(json.dumps({"id": 1, "text": t}) + "\r\n" for t in texts),
    ".json": lambda texts: json.dumps([{"text": t} for t in texts], indent=1),
    "columns.json": lambda texts: json.dumps({"id": list(range(len(texts))), "text": texts}),
    "lines.json": lambda texts: "".join(json.dumps({"text": t}) + "\n" for t in texts),
    ".csv": lambda texts: quoted(texts, ","),
    "semicolons.csv": lambda texts: quoted(texts, ";"),
    ".tsv": lambda texts: quoted(texts, "\t"),
}
COMPRESSORS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),  # several members are one file
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    ".bz2": bz2.compress,
    ".XZ": lzma.compress,
}


def quoted(texts: list[str], delimiter: str) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["id", "text"], *(["1", t] for t in texts)])
    return file.getvalue()


def texts_of(source: Path, column: str = "text") -> list[str]:
    return [d.text for d in open_documents(TextConfig(source=str(source), column=column))]


def failure(source: Path, column: str = "text") -> str:
    with pytest.raises(UserError) as caught:
        texts_of(source, column)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tokens_of(source: Path, folder: Path, tokenizer: object = TOKENIZER, **settings: object) -> TokenSet:
    text = TextConfig(source=str(source), context_length=8, n_tokens=160, n_validation_tokens=40, **settings)  # type: ignore[arg-type]
    return prepare_tokens(text, tokenizer, "t", folder=folder, vocab_size=300)


# no "\r": text files and quoted fields hold "\r\n" as "\n"; no NUL: it makes a text file a binary one
characters = st.characters(exclude_characters="\r\0", exclude_categories=["Cs"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(characters, min_size=1, max_size=40), min_size=1, max_size=12))
def test_formats_and_compressions_hold_the_same_documents(tmp_path: Path, texts: list[str]) -> None:
    for name, write in WRITERS.items():
        for ending, compress in COMPRESSORS.items():
            path = tmp_path / f"x{name}{ending}"
            path.write_bytes(compress(write(texts).encode("utf-8")))
            assert texts_of(path) == texts, path.name


def test_the_same_documents_give_the_same_tokens(tmp_path: Path) -> None:
    texts = [f'number {i}, "quoted"; \t and\nén 日本 \u2028 😀' for i in range(30)]
    shards = set()
    for name, write in WRITERS.items():
        path = tmp_path / f"x{name}.gz"
        path.write_bytes(gzip.compress(write(texts).encode("utf-8")))
        tokens = tokens_of(path, tmp_path / "tokens")
        shards.add((tokens.train.fingerprint, tokens.validation.fingerprint))
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())):
        column = pa.array([t.encode() for t in texts]) if kind == pa.binary() else pa.array(texts).cast(kind)
        path = tmp_path / f"{kind}.parquet".replace("<", "").replace(">", "")
        pq.write_table(pa.table({"id": range(30), "text": column}), path)
        tokens = tokens_of(path, tmp_path / "tokens")
        shards.add((tokens.train.fingerprint, tokens.validation.fingerprint))
    assert len(shards) == 1


def test_folders_of_all_of_it(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        (tmp_path / f"x{name}").write_text(write([name]), newline="")
    (tmp_path / "y.txt.zst").write_bytes(pa.Codec("zstd").compress(b"plain", asbytes=True))
    (tmp_path / "y.parquet.gz").write_bytes(b"not looked at")
    assert sorted(texts_of(tmp_path)) == sorted([*WRITERS, "plain"])


@pytest.mark.parametrize(
    ("column", "row", "expected"),
    [
        ("meta.body", {"meta": {"body": "in"}}, "in"),
        ("meta.body", {"meta.body": "itself", "meta": {"body": "in"}}, "itself"),
        ("meta.body", {"meta": None}, ""),
        ("messages[].content", {"messages": [{"content": "a"}, {"content": None}, {"content": "b"}]}, "a\n\nb"),
        ("a.b[].c.d", {"a": {"b": [{"c": {"d": "x"}}, {"c": {"d": "y"}}]}}, "x\n\ny"),
        ("turns[]", {"turns": ["a", "b"]}, "a\n\nb"),
    ],
)
def test_nested_columns(tmp_path: Path, column: str, row: dict, expected: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert texts_of(tmp_path / "a.jsonl", column) == [expected]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet", column) == [expected]


@pytest.mark.parametrize(
    ("name", "content", "column", "expected"),
    [
        ("a.jsonl", b'{"meta": {"body": "x"}}\n', "meta.bdy", "has no column 'meta.bdy'; did you mean 'meta.body'"),
        ("a.jsonl", b'{"text": 5}\n', "text", "a.jsonl line 1: column 'text' holds int, not text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ["b"]}\n', "text", "line 2: column 'text' holds a list of str"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "cut', "text", "line 2 is not JSON"),
        ("a.json", b'[{"text": "a"}', "text", "a.json is not JSON"),
        ("a.json", b'[{"text": "a"}, 3]', "text", "row 1 is not a JSON object but a int"),
        ("a.json", b'"text"', "text", "a.json holds str; give a list of objects"),
        ("a.csv", b"text,id\na,1\nb,2,3\n", "text", "a.csv line 3 has 3 fields, and the first line names 2"),
        ("a.csv", b'text,id\na,1\n"b,2\n', "text", "a.csv line 3 is not .csv"),
        ("a.csv", b"body,id\na,1\n", "text", "no column 'text'; columns: body, id; choose one with --text.column"),
        ("a.txt.gz", gzip.compress(b"words " * 999, mtime=0)[:-12], "text", "a.txt.gz is no whole .gz file"),
        ("a.txt.gz", b"words", "text", "a.txt.gz is no whole .gz file"),
        ("a.txt.zst", b"words", "text", "a.txt.zst is no whole .zst file"),
        ("a.txt.bz2", bz2.compress(b"words " * 999)[:-12], "text", "a.txt.bz2 is no whole .bz2 file"),
        ("a.txt.xz", b"words", "text", "a.txt.xz is no whole .xz file"),
        ("a.parquet.gz", b"words", "text", "text files must end in one of"),
        ("a.jsonl", b'{"text": [1, -2]}\n', "text", "line 1: column 'text' holds token id -2"),
        ("a.jsonl", b'{"text": [{"content": "a"}]}\n', "text", "line 1: column 'text' holds a message without a role"),
    ],
)
def test_refused_in_a_line_that_names_file_and_row(
    tmp_path: Path, name: str, content: bytes, column: str, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in failure(tmp_path / name, column)


def test_a_number_of_thousands_of_digits_is_refused_in_a_line(tmp_path: Path) -> None:
    row = '{"text": "a", "n": ' + "9" * 5000 + "}"
    for name, content in (("long.jsonl", row), ("long.json", f"[{row}]")):
        (tmp_path / name).write_text(content)
        assert "is not JSON" in failure(tmp_path / name)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "twice.parquet")
    assert failure(tmp_path / "twice.parquet").endswith("has 2 columns named 'text'; rename all but one")


def test_a_truncated_zst_file_is_refused(tmp_path: Path) -> None:
    data = pa.Codec("zstd").compress(os.urandom(300_000).hex().encode(), asbytes=True)
    (tmp_path / "a.txt.zst").write_bytes(data[:-9])
    assert "a.txt.zst is no whole .zst file" in failure(tmp_path / "a.txt.zst")


def test_half_surrogate_pairs_become_the_replacement_character_and_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i} " + ("\ud83d lone" if i == 3 else "\ud83d\ude00")}) for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert texts_of(tmp_path / "a.jsonl")[3] == "text 3 \ufffd lone"
    tokens = tokens_of(tmp_path / "a.jsonl", tmp_path / "tokens")
    assert tokens.record["sources"]["local"]["reader"] == {"replaced": 1}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    for name, text in ((b"\xe9t\xe9.txt", b"summer " * 40), (b"hiver.jsonl", b'{"text": "%s"}\n' % (b"winter " * 40))):
        Path(os.fsdecode(os.path.join(folder, name))).write_bytes(text)
    pq.write_table(pa.table({"text": ["x" * 99]}), (tmp_path / "x.parquet"))
    os.rename(tmp_path / "x.parquet", os.path.join(folder, b"\xff.parquet"))
    tokens = tokens_of(Path(os.fsdecode(folder)), tmp_path / "tokens")
    assert {d["origin"] for d in tokens.documents()} <= {"\\xe9t\\xe9.txt", "hiver.jsonl#1", "\\xff.parquet#0"}
    assert "caf\\xe9" in read_json(tokens.folder / "manifest.json")["record"]["sources"]["local"]["path"]


def test_token_ids_need_no_tokenizer(tmp_path: Path) -> None:
    rows = [[7 + i, 100 + i, 3] * 5 for i in range(30)]
    pq.write_table(pa.table({"input_ids": rows}), tmp_path / "ids.parquet")
    tokens = tokens_of(tmp_path / "ids.parquet", tmp_path / "tokens", None, column="input_ids")
    flat = tokens.train.sequences(0, tokens.train.n_sequences).ravel()
    of = tokens.train.documents(0, tokens.train.n_sequences).ravel()
    origins = [int(d["origin"].partition("#")[2]) for d in tokens.documents()]
    for number in np_unique(of)[:-1]:
        assert flat[of == number].tolist() == rows[origins[number]]
    assert (tokens.record["separator_token"], tokens.record["bos_token"]) == (None, None)
    config = TextConfig(
        str(tmp_path / "ids.parquet"), "input_ids", context_length=8, n_tokens=160, n_validation_tokens=40
    )
    for folder in ("tokens", "elsewhere"):  # tokens that are there already, and such that are not
        with pytest.raises(UserError, match=r"holds token id \d+, and the model's vocabulary ends at 99"):
            prepare_tokens(config, None, "t", folder=tmp_path / folder, vocab_size=100)
    with pytest.raises(UserError, match="the model has no tokenizer and the text holds words"):
        tokens_of(write_jsonl(tmp_path / "words.jsonl", ["words"] * 30), tmp_path / "tokens", None)


def np_unique(values: object) -> list[int]:
    return sorted(set(values.tolist()))  # type: ignore[attr-defined]


def test_token_ids_that_bring_bos_and_eos_get_no_second_ones(tmp_path: Path) -> None:
    texts = [f"document number {i}" for i in range(30)]
    rows = [
        [TOKENIZER.bos_token_id, *TOKENIZER(t, add_special_tokens=False).input_ids, TOKENIZER.eos_token_id]
        for t in texts
    ]
    pq.write_table(pa.table({"input_ids": rows}), tmp_path / "ids.parquet")
    given_ids = tokens_of(tmp_path / "ids.parquet", tmp_path / "tokens", column="input_ids")
    from_text = tokens_of(write_jsonl(tmp_path / "words.jsonl", texts), tmp_path / "tokens")
    assert given_ids.train.fingerprint == from_text.train.fingerprint
    assert given_ids.validation.fingerprint == from_text.validation.fingerprint


def test_special_tokens_in_the_text_are_said(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [f"<s>text {i}</s>" for i in range(40)])
    tokens = tokens_of(path, tmp_path / "tokens")
    n_documents = tokens.record["train_documents"] + tokens.record["validation_documents"]
    assert tokens.record["special_tokens_in_text"] == 2 * n_documents
    assert "special tokens" in tokens.record["remarks"][-1]
