"""Reading text: local files of every kind, hub datasets, the names of sources, and bad input of each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import write_jsonl, write_parquet

from monosemy.config import TextConfig
from monosemy.data.chats import ChatTemplate
from monosemy.data.corpora import open_documents, open_sources, stream_documents
from monosemy.data.documents import cut_sections
from monosemy.data.embedded import PARTS, html_text
from monosemy.errors import UserError


def texts(source: Path | str, **settings: object) -> list[str]:
    return [d.text for d in open_documents(TextConfig(source=str(source), **settings))]  # type: ignore[arg-type]


def failure(source: Path | str, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        texts(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_kinds_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffdeux mots é\r\nline\n".encode())
    write_jsonl(tmp_path / "b.jsonl", ["one", "zwei ü", None])
    (tmp_path / "deep").mkdir()
    write_parquet(tmp_path / "deep" / "c.parquet", ["three", None, "four"])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\x00")
    (tmp_path / "empty.txt").write_text("")
    assert texts(tmp_path / "a.txt") == ["deux mots é\nline\n"]
    assert texts(tmp_path / "b.jsonl") == ["one", "zwei ü", ""]
    assert texts(tmp_path / "deep" / "c.parquet") == ["three", "", "four"]
    assert sorted(texts(tmp_path)) == ["", "", "deux mots é\nline\n", "four", "one", "three", "zwei ü"]
    (source,) = open_sources(TextConfig(source=str(tmp_path)))
    assert (source.facts["n_files"], source.facts["n_empty_files"], source.facts["n_ignored_files"]) == (3, 1, 1)


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = open_sources(TextConfig(source=str(path)))[0].identity
    os.utime(path, (0, 0))
    assert open_sources(TextConfig(source=str(path)))[0].identity == before
    path.write_text("two")
    assert open_sources(TextConfig(source=str(path)))[0].identity != before


def test_long_text_files_are_cut_at_blank_lines_and_keep_their_origin(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {i} " + "x" * 900 + "\n\n" for i in range(40)]
    (tmp_path / "book.txt").write_text("".join(paragraphs))
    documents = list(open_documents(TextConfig(source=str(tmp_path / "book.txt"))))
    assert len(documents) == 5  # 9 paragraphs each pass 8,192 characters
    assert {d.origin for d in documents} == {"book.txt"}
    assert all(d.text.startswith("paragraph") and d.text.endswith("\n\n") for d in documents)
    assert "".join(d.text for d in documents) == "".join(paragraphs)


@given(st.text(alphabet="ab é", max_size=300), st.integers(1, 40))
def test_long_lines_are_cut_too(text: str, limit: int) -> None:
    sections = list(cut_sections([text], limit))
    assert "".join(sections) == text
    assert all(len(s) <= 3 * limit for s in sections)


def test_separator_lines_end_documents(tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_text("one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n")
    documents = list(open_documents(TextConfig(source=str(tmp_path / "stories.txt"))))
    assert [d.text for d in documents] == ["one\ntwo\n", "three\n"]
    assert len({d.origin for d in documents}) == 2


@given(st.text(alphabet="ab \n\r\u2028é", max_size=300), st.integers(1, 40))
def test_sections_joined_are_the_text(text: str, limit: int) -> None:
    sections = list(cut_sections(text.splitlines(keepends=True), limit))
    assert "".join(sections) == text
    assert all(len(s) >= limit for s in sections[:-1])


def test_files_that_are_missing_empty_or_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("")
    (tmp_path / "x.docx").write_text("x")
    (tmp_path / "folder").mkdir()
    assert f"did you mean {tmp_path}/corpus.txt" in failure(tmp_path / "corpu.txt")
    assert "is empty" in failure(tmp_path / "corpus.txt")
    assert "so is every text file in it" in failure(tmp_path)
    assert ".txt, .jsonl, .ndjson, .json, .csv, .tsv, .parquet (" in failure(tmp_path / "x.docx")
    assert "holds no .txt" in failure(tmp_path / "folder")
    assert "does not exist" in failure("./nowhere/else.jsonl")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"good\nbad \xe9t\xe9\n", "not UTF-8: byte 0xe9 at offset 9"),
        (b"good\nbinary \x00\x01", "binary: zero byte at offset 12"),
        ("text".encode("utf-16"), "says UTF-16"),
        (b"\xef\xbb\xbfab\xff", "byte 0xff at offset 5"),
        (b"cut short \xc3", "byte 0xc3 at offset 10"),
    ],
)
def test_bytes_that_are_not_text(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert expected in failure(tmp_path / "a.txt")


def test_bytes_that_are_not_text_in_json_lines(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xe9"}\n')
    assert "byte 0xe9 at offset 25" in failure(tmp_path / "b.jsonl")


def test_missing_columns_and_malformed_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"], column="texts")
    message = failure(tmp_path / "a.jsonl")
    assert "no column 'text'; did you mean 'texts'? columns: id, texts" in message
    assert texts(tmp_path / "a.jsonl", column="texts") == ["one"]
    assert "holds int, not text" in failure(tmp_path / "a.jsonl", column="id")
    write_parquet(tmp_path / "b.parquet", ["one"], column="body")
    assert "columns: id, body" in failure(tmp_path / "b.parquet")
    assert "holds int64, not text" in failure(tmp_path / "b.parquet", column="id")
    (tmp_path / "c.jsonl").write_text('{"text": "ok"}\n\n{"text": "cut\n')
    assert "line 3 is not JSON" in failure(tmp_path / "c.jsonl")
    (tmp_path / "d.jsonl").write_text('["text"]\n')
    assert "line 1 is not a JSON object but a list" in failure(tmp_path / "d.jsonl")
    (tmp_path / "e.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-20])
    assert "e.parquet is not a readable Parquet file" in failure(tmp_path / "e.parquet")


def test_parquet_strings_of_other_layouts(tmp_path: Path) -> None:
    kinds = {"large": pa.large_string(), "coded": pa.dictionary(pa.int32(), pa.string())}
    for name, kind in kinds.items():
        pq.write_table(pa.table({"text": pa.array(["one", "two", "one"]).cast(kind)}), tmp_path / f"{name}.parquet")
        assert texts(tmp_path / f"{name}.parquet") == ["one", "two", "one"]


def test_names_of_sources() -> None:
    assert "did you mean 'embedded'" in failure("embeded")
    assert "did you mean 'english'" in failure("embedded:englsh")
    assert "named twice" in failure("embedded:code,code")
    assert "unknown text source" in failure("a b c")
    assert "valid choices: english, speeches" in failure("embedded:")
    default = open_sources(TextConfig())
    assert [s.name for s in default] == ["code", "english", "french", "spanish", "speeches"]
    assert sum(s.share for s in default) == pytest.approx(1)
    some = open_sources(TextConfig(source="embedded:english,code"))
    assert [s.name for s in some] == ["code", "english"]
    assert some[1].share / some[0].share == pytest.approx(PARTS["english"].share / PARTS["code"].share)


def test_streamed_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real streaming loader, on a dataset in a local folder."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)  # 5 s in some versions
    write_parquet(tmp_path / "train-00000.parquet", [f"text {i}" for i in range(5)])
    text = TextConfig(source="owner/name")
    documents = list(stream_documents(str(tmp_path), text, ChatTemplate(None)))
    assert [d.text for d in documents] == [f"text {i}" for i in range(5)]
    assert len({d.origin for d in documents}) == 5
    with pytest.raises(UserError, match="no column 'body'; columns: id, text"):
        list(stream_documents(str(tmp_path), TextConfig(column="body"), ChatTemplate(None)))
    with pytest.raises(UserError, match="test"):
        list(stream_documents(str(tmp_path), TextConfig(split="test"), ChatTemplate(None)))


class Refusing(BaseHTTPRequestHandler):
    """Answers as the hub does where there is no such dataset, or none that may be read."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing: the test's output stays clean."""


@pytest.mark.parametrize("reach", ["refused", "no such host", "offline", "no such dataset"])
def test_a_hub_dataset_that_cannot_be_had_is_one_line(tmp_path: Path, reach: str) -> None:
    script = (
        "from monosemy.config import TextConfig\n"
        "from monosemy.data.corpora import open_sources\n"
        "from monosemy.errors import UserError\n"
        "try: open_sources(TextConfig(source='owner/name'))\n"
        "except UserError as error: print(error)\n"
    )
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = {
        "refused": "http://127.0.0.1:9",
        "no such host": "http://nowhere.invalid",
        "offline": "http://127.0.0.1:9",
        "no such dataset": f"http://127.0.0.1:{server.server_port}",
    }[reach]
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "MONOSEMY_CACHE": str(tmp_path),
        "HF_HUB_OFFLINE": "1" if reach == "offline" else "0",
    }
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    server.shutdown()
    server.server_close()
    message = "no dataset 'owner/name' on" if reach == "no such dataset" else "dataset 'owner/name': no connection to"
    assert f"{message} the hub" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


def test_pinned_dataset_needs_no_network_to_be_identified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "owner--name@main.json").write_text('{"commit": "abc"}')
    (source,) = open_sources(TextConfig(source="owner/name", subset="s"))
    assert source.identity == {
        "dataset": "owner/name",
        "commit": "abc",
        "subset": "s",
        "split": "train",
        "column": "text",
    }


def test_german_without_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get and dpkg is not on this machine" in failure("embedded:german")
    for tool in ("apt-get", "dpkg"):
        (tmp_path / tool).write_text("#!/bin/sh\necho 'E: Unable to locate package debian-handbook' >&2\nexit 100\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    message = failure("embedded:german")
    assert "Unable to locate package" in message
    assert "apt-get update" in message


def test_text_of_a_page() -> None:
    page = (
        "<html><head><title>no</title></head><body><div id='banner'><a><img src='x'/>no</a></div>"
        "<ul class='docnav top'><li>no<br></li></ul><div><h2 class='title'>Titel &amp; mehr</h2><div class='para'>Ein\n"
        "  <em>Satz</em>.</div><pre>$ ls\n  -l</pre></div></body></html>"
    )
    assert html_text(page) == "Titel & mehr\n\nEin Satz.\n\n$ ls\n  -l"
