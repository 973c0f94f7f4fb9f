"""Chats become text through the model's own template; templates that refuse or fail do so in one line."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_text import byte_tokenizer

from monosemy.config import TextConfig
from monosemy.data.chats import ChatTemplate
from monosemy.data.corpora import open_sources, stream_documents
from monosemy.data.documents import Document
from monosemy.data.tokens import TokenSet, prepare_tokens
from monosemy.errors import UserError

PLAIN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
USER, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}


def tokenizer_with(template: str | None):
    tokenizer = byte_tokenizer(bos="<s>")
    tokenizer.chat_template = template
    return tokenizer


def written(template: str | None, rows: list, path: Path) -> list[str]:
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    text = TextConfig(source=str(path), column="messages")
    return [d.text for source in open_sources(text, tokenizer_with(template)) for d in source.read()]


def test_every_shape_of_messages(tmp_path: Path) -> None:
    rows = [
        [SYSTEM, USER, {"role": "assistant", "content": "Hello"}],
        [{"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]}],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        [{"role": "assistant", "content": None}],
        [],
    ]
    assert written(PLAIN, rows, tmp_path / "a.jsonl") == [
        "[system] Be kind.\n[user] Hi\n[assistant] Hello\n",
        "[user] two parts\n",
        "[user] Hi\n[assistant] Hello\n",
        "[assistant] \n",
        "",
    ]


def test_a_template_without_system_gets_its_text_before_the_first_question(tmp_path: Path) -> None:
    assert written(NO_SYSTEM, [[SYSTEM, USER], [USER]], tmp_path / "a.jsonl") == [
        "[user] Be kind.\n\nHi\n",
        "[user] Hi\n",
    ]
    assert ChatTemplate(tokenizer_with(NO_SYSTEM)).write([SYSTEM, USER], "row")[1] == ("chat", "system")


@pytest.mark.parametrize(
    ("template", "row", "expected"),
    [
        (None, [USER], "a.jsonl#1 holds a chat, and the model has no chat template"),
        ("{{ messages[0]['role'].nothing() }}", [USER], "a.jsonl#1: the model's chat template cannot write this chat"),
        ("{% for %}", [SYSTEM, USER], "cannot write this chat (TemplateSyntaxError"),
        (PLAIN, [{"role": "user", "content": [{"type": "image", "url": "x"}]}], "parts that are no text (image)"),
        (PLAIN, [{"role": "user", "content": 5}], "a message whose content is int"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, template: str | None, row: list, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        written(template, [row], tmp_path / "a.jsonl")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def prepared(template: str, folder: Path) -> TokenSet:
    rows = [[SYSTEM, {"role": "user", "content": f"Question {i}"}] for i in range(40)]
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    text = TextConfig(source=str(path), column="messages", context_length=16, n_tokens=320, n_validation_tokens=80)
    return prepare_tokens(text, tokenizer_with(template), "t", folder=folder / "tokens")


def test_tokens_of_chats(tmp_path: Path) -> None:
    """The template's own BOS is not doubled, the record counts what was done, and another template is another text."""
    tokens = prepared("<s>" + NO_SYSTEM, tmp_path)
    tokenizer = tokenizer_with(None)
    sequences = tokens.train.sequences(0, tokens.train.n_sequences)
    assert (sequences[:, 0] == tokenizer.bos_token_id).all()
    assert not (sequences[:, 1:] == tokenizer.bos_token_id).any()
    assert "[user] Be kind.\n\nQuestion" in tokenizer.decode(sequences[:, 1:].ravel())
    assert tokens.record["sources"]["local"]["reader"] == {"chat": 40, "system": 40}
    assert tokens.record["special_tokens_in_text"] == 0
    assert prepared("<s>" + NO_SYSTEM, tmp_path).folder == tokens.folder
    other = prepared(PLAIN, tmp_path)
    assert other.fingerprint != tokens.fingerprint


def test_a_hub_dataset_holds_chats_and_token_ids_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real streaming loader, on a dataset in a local folder."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    rows = [{"messages": [SYSTEM, USER], "input_ids": [5, 6, 7], "meta": {"body": "x" * 20_000}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000.parquet")

    def read(column: str) -> list[Document]:
        return list(stream_documents(str(tmp_path), TextConfig(column=column), ChatTemplate(tokenizer_with(NO_SYSTEM))))

    assert [d.text for d in read("messages")] == ["[user] Be kind.\n\nHi\n"]
    assert [d.ids.tolist() for d in read("input_ids") if d.ids is not None] == [[5, 6, 7]]
    sections = read("meta.body")
    assert "".join(d.text for d in sections) == "x" * 20_000
    assert [(d.index, d.origin) for d in sections] == [(i, "0") for i in range(len(sections))]
    assert len(sections) > 1
