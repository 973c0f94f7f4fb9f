"""The embedded corpus itself: what it holds, that its shares hold, that it decodes to what was read.

Tokenised with a byte tokenizer, so that only the text packages are needed.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_text import byte_tokenizer

from monosemy.config import TextConfig
from monosemy.data.corpora import open_documents
from monosemy.data.embedded import PARTS
from monosemy.data.tokens import prepare_tokens

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("part", "n_works", "n_chars", "words"),
    [
        ("english", 10_033, 4_875_024, {" the ", " was "}),
        ("french", 9_951, 3_522_412, {" les ", " est "}),
        ("spanish", 6_226, 2_654_301, {" los ", " una "}),
        ("speeches", 249, 12_181_093, {"Congress", "the Union"}),
        ("code", 902, 9_342_438, {"def ", "self."}),
    ],
)
def test_parts(part: str, n_works: int, n_chars: int, words: set[str]) -> None:
    documents = list(open_documents(TextConfig(source=f"embedded:{part}")))
    assert len({d.origin for d in documents}) == n_works
    assert sum(len(d.text) for d in documents) == n_chars
    assert {d.source for d in documents} == {part}
    assert max(len(d.text) for d in documents) < 20_000
    text = "".join(d.text for d in documents[::50])
    assert all(word in text for word in words)


def test_default_mix(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    text = TextConfig(n_tokens=1_000_000, n_validation_tokens=200_000)
    tokens = prepare_tokens(text, tokenizer, "bytes", folder=tmp_path)
    record = tokens.record["sources"]
    for name, part in PARTS.items():
        if part.default:
            assert record[name]["train_tokens"] / 1e6 == pytest.approx(part.share, abs=0.015)
            assert record[name]["validation_tokens"] / 2e5 == pytest.approx(part.share, abs=0.06)
            assert record[name]["licence"] == part.licence
    documents = list(tokens.documents())
    works = {
        side: {(d["source"], d["origin"]) for d in documents if d["side"] == side} for side in ("train", "validation")
    }
    assert not works["train"] & works["validation"]
    # Every quarter of the training tokens has the shares of the whole.
    numbers = tokens.train.documents(0, tokens.train.n_sequences)
    for quarter in np.array_split(numbers.ravel(), 4):
        ids, counts = np.unique(quarter, return_counts=True)
        by_source = Counter[str]()
        for number, count in zip(ids, counts, strict=True):
            by_source[documents[number]["source"]] += int(count)
        for name, count in by_source.items():
            assert count / quarter.size == pytest.approx(PARTS[name].share, abs=0.05)
    # A document that lies whole in the shards is the text that was read.
    read = {(d.source, d.origin): d.text for d in open_documents(TextConfig(source="embedded:french"))}
    flat, of = tokens.train.sequences(0, tokens.train.n_sequences).ravel(), numbers.ravel()
    french = [i for i, d in enumerate(documents) if d["source"] == "french" and d["side"] == "train"][:20]
    for number in french:
        ids = flat[of == number]
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == read["french", documents[number]["origin"]]


def test_german() -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("German text comes from Debian's archive, and this machine has no apt-get and dpkg")
    from monosemy.errors import UserError

    try:
        documents = list(open_documents(TextConfig(source="embedded:german")))
    except UserError as error:
        if "apt-get update" not in str(error):
            raise
        pytest.skip(f"Debian's archive can't be reached: {error}")
    text = " ".join(d.text for d in documents)
    assert len(text) > 1_000_000
    assert " und " in text
    assert "docnav" not in text
    assert "<" not in documents[0].text
