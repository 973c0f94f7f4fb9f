"""Builds a folder of token shards: numbers the documents, packs and writes them, and records where they come from.

Place on the data's path: the split's documents -> **files** -> `tokens`, which opens them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.config import TextConfig
from monosemy.data.documents import READER_NOTES, Document, TextSource, TokenIds
from monosemy.data.packing import Sequences, pack, tokeniser, without_frame
from monosemy.data.split import Numbers, Shortage, ShuffledDocuments, SourceQueue, mixed
from monosemy.errors import UserError
from monosemy.support import json_text, progress
from monosemy.support.files import sha256
from monosemy.support.numbers import count_text

_SHARD_TOKENS = 1 << 24


@dataclass(frozen=True)
class Tokenizer:
    """The model's tokenizer, as far as building needs it."""

    transformers: Any
    """The transformers tokenizer; None when the model has none."""
    separator: int | None
    bos: int | None
    vocab_size: int | None
    """The number of rows of the model's embedding; None where it is not known."""

    def unframe(self, ids: TokenIds) -> TokenIds:
        """Removes the special tokens at the ends that packing adds again (`without_frame`)."""
        return without_frame(ids, self.bos, self.separator, getattr(self.transformers, "pad_token_id", None))

    @property
    def special_ids(self) -> list[int]:
        return list(getattr(self.transformers, "all_special_ids", []))


def build_tokens(text: TextConfig, tokenizer: Tokenizer, sources: list[TextSource], folder: Path) -> dict[str, Any]:
    """Writes the shards of both sides and documents.jsonl, and returns their part of the manifest.

    Its `later_rules` is true when the package's first version would have made other tokens of the same text.
    Raises UserError for unreadable text, and for a corpus that is smaller than asked for.
    """
    for source in sources:
        source.prepare()
    by_section: set[str] = set()
    while True:
        attempt = _Attempt(text, tokenizer, sources, folder, by_section=by_section)
        try:
            return attempt.run()
        except Shortage as shortage:
            name = shortage.queue.source.name
            if name in by_section or not shortage.queue.shuffled.cut_works:
                raise _too_small(text, attempt.queues, shortage) from None
            # Whole works cannot fill both sides: start anew, with the works of this source split by section.
            by_section = by_section | {name}
            for path in folder.iterdir():
                path.unlink()


class _Attempt:
    """One attempt to build the shards in a pass over the text, with the works of the sources `by_section` split."""

    def __init__(
        self, text: TextConfig, tokenizer: Tokenizer, sources: list[TextSource], folder: Path, *, by_section: set[str]
    ) -> None:
        self.text, self.tokenizer, self.folder = text, tokenizer, folder
        self.numbers = Numbers()
        tokenise = tokeniser(tokenizer.transformers)
        self.queues = [
            SourceQueue(
                source,
                ShuffledDocuments(source.read(), f"{text.seed}/{source.name}", source.name in by_section),
                tokenise,
                tokenizer.unframe,
                numbers=self.numbers,
            )
            for source in sources
        ]
        self.special_ids = np.array(tokenizer.special_ids, np.int32)
        self.n_special_tokens = 0
        self.largest_given_id: int | None = None
        self.n_listed = 0

    def run(self) -> dict[str, Any]:
        """Writes all files, and returns their part of the manifest. Raises Shortage when the text ends too early."""
        text, (separator, bos) = self.text, (self.tokenizer.separator, self.tokenizer.bos)
        # Documents fill all positions but BOS; sequences are counted up to whole ones.
        width = text.context_length - (bos is not None)
        n_tokens = {"validation": text.n_validation_tokens, "train": text.n_tokens}
        n_sequences = {side: -(-n // text.context_length) for side, n in n_tokens.items()}
        shards: dict[str, list[int]] = {}
        with (
            (self.folder / "documents.jsonl").open("w", encoding="utf-8") as listing,
            progress.stage("tokenise", total=sum(n_sequences.values()) * width, unit="tokens") as bar,
        ):
            # Validation first: it then does not depend on how many training tokens are asked for.
            for side in ("validation", "train"):
                if side == "train":
                    for queue in self.queues:
                        queue.begin_training()
                numbered = self._numbered(side, n_sequences[side] * width, listing, bar)
                writer = _ShardWriter(self.folder, side, text.context_length, n_sequences[side])
                for tokens, documents in pack(numbered, text.context_length, separator, bos):
                    writer.add(tokens, documents)
                writer.flush()
                shards[side] = writer.written
        return {
            "shards": shards,
            "record": self._record(),
            "context_length": text.context_length,
            "files": {path.name: sha256(path) for path in sorted(self.folder.iterdir())},
            "later_rules": self._later_rules(),
        }

    def _numbered(self, side: str, n_tokens: int, listing: Any, bar: progress.Bar) -> Iterator[tuple[int, TokenIds]]:
        """Yields (number, token ids) of the documents of one side, and lists them in documents.jsonl.

        A copy has the number of the first document with its text.
        """
        left, n_separators = n_tokens, int(self.tokenizer.separator is not None)
        for document, ids in mixed(self.queues, n_tokens, n_separators, side == "validation"):
            self._check_ids(document, ids)
            number = self.numbers.texts.add(document.digest)
            # Numbers are given in order, so the next one means a new text; a copy's was listed before.
            if number == self.n_listed:
                entry = {"source": document.source, "origin": document.origin, "side": side, "n_tokens": len(ids)}
                listing.write(json_text.dumps(entry) + "\n")
                self.n_listed += 1
            n_new = min(len(ids) + n_separators, left)
            bar.advance(n_new)
            left -= n_new
            yield number, ids

    def _check_ids(self, document: Document, ids: TokenIds) -> None:
        """Counts special tokens in plain text, and checks ids that were given against the vocabulary."""
        if not document.brings_frame:
            self.n_special_tokens += int(np.isin(ids, self.special_ids).sum())
        if document.ids is not None:
            largest = int(ids.max())
            self.largest_given_id = max(largest, self.largest_given_id or 0)
            check_largest_id(largest, self.tokenizer.vocab_size, document.origin)

    def _later_rules(self) -> bool:
        return any(queue.n_copies or queue.n_repeated_deferred or queue.shuffled.later_rules for queue in self.queues)

    def _record(self) -> dict[str, Any]:
        queues = self.queues
        record = {
            "source": self.text.source,
            "context_length": self.text.context_length,
            "seed": self.text.seed,
            "separator_token": self.tokenizer.separator,
            "bos_token": self.tokenizer.bos,
            "train_documents": sum(q.train.n_documents for q in queues),
            "validation_documents": sum(q.validation.n_documents for q in queues),
            "special_tokens_in_text": self.n_special_tokens,
            "sources": {queue.source.name: _facts(queue) for queue in queues},
            "identity": {queue.source.name: queue.source.identity for queue in queues},
        }
        if self.largest_given_id is not None:
            record["largest_given_id"] = self.largest_given_id
        return {**record, "remarks": remarks(record)}


def _facts(queue: SourceQueue) -> dict[str, Any]:
    """The entry of one source in the record."""
    source, shuffled = queue.source, queue.shuffled
    by_section = shuffled.by_section or shuffled.divided_work is not None
    facts = {
        "licence": source.licence,
        "share": source.share,
        **source.facts,
        "train_documents": queue.train.n_documents,
        "train_tokens": queue.train.n_tokens,
        "validation_documents": queue.validation.n_documents,
        "validation_tokens": queue.validation.n_tokens,
        "empty_documents": queue.n_empty,
        "copies": queue.n_copies,
        "copies_left_out": queue.n_left_out,
        "split_unit": "section" if by_section else "document",
        "reader": dict(sorted(shuffled.notes.items())),
    }
    return facts | ({"divided_work": shuffled.divided_work} if shuffled.divided_work else {})


def remarks(record: dict[str, Any]) -> list[str]:
    """Remarks on the text for the user, one sentence each: copies, splits by section, special tokens and the like."""
    lines: list[str] = []
    for name, facts in record["sources"].items():
        n_documents = facts["train_documents"] + facts["validation_documents"] + facts["copies_left_out"]
        if facts["copies"]:
            lines.append(
                f"{name}: {count_text(facts['copies'])} of {count_text(n_documents)} documents are copies of another; "
                f"each text counts as one document, and {count_text(facts['copies_left_out'])} were left out because "
                "validation holds their text"
            )
        if "divided_work" in facts:
            lines.append(
                f"{name}: {facts['divided_work']} is more than half of the text and was split into training and "
                "validation by section"
            )
        elif facts["split_unit"] == "section":
            lines.append(
                f"{name}: whole documents cannot fill both training and validation; long ones were split by section"
            )
        lines += [
            f"{name}: {READER_NOTES[note]}: {count_text(n)}" for note, n in facts["reader"].items() if note != "cut"
        ]
    if record["special_tokens_in_text"]:
        lines.append(
            f"the text itself holds {count_text(record['special_tokens_in_text'])} special tokens (such as EOS or "
            "padding); they are dropped like any other unless activations.drop_special_tokens is off"
        )
    return lines


def check_largest_id(largest: int, vocab_size: int | None, where: str) -> None:
    """Raises UserError when the model has no embedding for the token id `largest`."""
    if vocab_size is not None and largest >= vocab_size:
        raise UserError(
            f"{where} holds token id {largest}, and the model's vocabulary ends at {vocab_size - 1}; "
            "choose token ids made with this model's tokenizer"
        )


def _too_small(text: TextConfig, queues: Sequence[SourceQueue], shortage: Shortage) -> UserError:
    """The error for a text that cannot fill both sides, with what it holds and why some of it was left out."""
    demand = (
        f"{count_text(text.n_tokens)} training and {count_text(text.n_validation_tokens)} validation tokens were asked"
    )
    fix = "lower --tokens or --text.n-validation-tokens, or add text"
    if shortage.side == "validation" and len(queues) == 1:
        has = f"{count_text(shortage.n_tokens + queues[0].n_kept_tokens)} tokens in all"
    elif shortage.side == "validation":
        has = f"{count_text(shortage.n_tokens)} validation tokens"
    else:
        n_validation = sum(q.validation.n_tokens for q in queues)
        has = f"{count_text(shortage.n_tokens)} training tokens beside {count_text(n_validation)} for validation"
    first = "" if len(queues) == 1 else f" at its fixed shares ({shortage.queue.source.name!r} ends first)"
    counts = {
        "copies of validation's documents left out": shortage.queue.n_left_out,
        "empty documents": shortage.queue.n_empty,
    }
    reasons = ", ".join(f"{count_text(n)} {reason}" for reason, n in counts.items() if n)
    reasons = f" ({reasons})" if reasons else ""
    return UserError(f"text {text.source!r} holds only {has}{first}{reasons}, but {demand}; {fix}")


def shard_names(kind: str, n: int) -> list[str]:
    """The file names of the n shards of `kind`: `train`, `train-documents`, …"""
    return [f"{kind}-{i:05d}.npy" for i in range(n)]


class _ShardWriter:
    """Collects packed sequences, and writes a shard whenever enough for one are there."""

    def __init__(self, folder: Path, side: str, context_length: int, n_sequences: int) -> None:
        self.folder, self.side, self.n_wanted = folder, side, n_sequences
        self.per_shard = max(1, _SHARD_TOKENS // context_length)
        self.held: list[tuple[Sequences, Sequences]] = []
        self.written: list[int] = []

    def add(self, tokens: Sequences, documents: Sequences) -> None:
        # The last block may hold more sequences than were asked for.
        room = self.n_wanted - sum(self.written) - sum(len(t) for t, _ in self.held)
        self.held.append((tokens[:room], documents[:room]))
        while sum(len(t) for t, _ in self.held) >= self.per_shard:
            self.flush()

    def flush(self) -> None:
        if not self.held:
            return
        tokens = np.concatenate([t for t, _ in self.held])
        documents = np.concatenate([d for _, d in self.held])
        n = min(len(tokens), self.per_shard)
        for kind, rows in ((self.side, tokens), (f"{self.side}-documents", documents)):
            np.save(self.folder / f"{kind}-{len(self.written):05d}.npy", rows[:n], allow_pickle=False)
        self.written.append(n)
        self.held = [(tokens[n:], documents[n:])] if n < len(tokens) else []
