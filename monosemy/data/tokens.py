"""Token shards: packed, memory-mapped, hash-checked, built once for each text and tokenizer.

Place on the data's path: text -> **tokens** -> activations. `prepare_tokens` tokenises and packs the documents of a
`TextConfig` (see `packing` for order, split and mix) into a folder named by the fingerprint of text, tokenizer and
settings, or opens that folder when it is already there:

  manifest.json                        fingerprint, record, {file: SHA-256 and number of sequences}
  train-00000.npy, …                   token ids, int32 [sequences, T]
  train-documents-00000.npy, …         document number of every token, int32 [sequences, T]
  validation-….npy                     the same for validation
  documents.jsonl                      line k: source, origin and side of document k

The folder appears only when complete. Every file's hash is checked when it is opened.
Cost: n → 10n tokens is 10 times the time and disk (8 bytes a token), at constant memory (one shard).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monosemy import progress
from monosemy.config import TextConfig, fingerprint, positive
from monosemy.data.corpora import open_sources
from monosemy.data.documents import TextSource
from monosemy.data.packing import Shortage, ShuffledDocuments, SourceQueue, mixed, pack, tokeniser
from monosemy.errors import UserError
from monosemy.fetch import exclusive
from monosemy.files import atomic_folder, cache_folder, free_bytes, read_json, sha256, write_json

FORMAT = 1
_SHARD_TOKENS = 1 << 24
_BYTES_PER_TOKEN = 8

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class TokenShards:
    """One side of the split: sequences of T tokens in memory-mapped files."""

    folder: Path
    side: str
    context_length: int
    shard_sequences: tuple[int, ...]
    """Sequences in each shard."""
    fingerprint: str
    """Hash of the content: equal tokens have equal fingerprints, whatever run made them."""

    @property
    def n_sequences(self) -> int:
        return sum(self.shard_sequences)

    @property
    def n_tokens(self) -> int:
        return self.n_sequences * self.context_length

    def sequences(self, start: int, stop: int) -> Tokens:
        """Token ids of sequences [start, stop), int32 [stop − start, T]; a view of the file where one shard holds them.

        Raises IndexError outside [0, n_sequences].
        """
        return self._rows(self._tokens, start, stop)

    def documents(self, start: int, stop: int) -> Tokens:
        """Document number of every token of sequences [start, stop), int32 [stop − start, T]."""
        return self._rows(self._documents, start, stop)

    @cached_property
    def _tokens(self) -> list[Tokens]:
        return [_load(self.folder / name) for name in shard_names(self.side, len(self.shard_sequences))]

    @cached_property
    def _documents(self) -> list[Tokens]:
        return [_load(self.folder / name) for name in shard_names(f"{self.side}-documents", len(self.shard_sequences))]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self.shard_sequences))

    def _rows(self, shards: Sequence[Tokens], start: int, stop: int) -> Tokens:
        if not 0 <= start <= stop <= self.n_sequences:
            raise IndexError(f"sequences [{start}, {stop}) of {self.n_sequences}")
        pieces: list[Tokens] = []
        while start < stop:
            k = bisect_right(self._ends, start)
            offset = self._ends[k] - self.shard_sequences[k]
            until = min(stop, self._ends[k])
            pieces.append(shards[k][start - offset : until - offset])
            start = until
        if not pieces:
            return np.empty((0, self.context_length), dtype=np.int32)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True)
class TokenSet:
    """The training and validation tokens of one text, and the record of where they came from."""

    folder: Path
    train: TokenShards
    validation: TokenShards
    fingerprint: str
    """Hash of text, tokenizer and settings: the name of the folder."""
    record: dict[str, Any]
    """JSON: per source documents, tokens and licence; separator, BOS, split unit, empty documents."""

    @classmethod
    def open(cls, folder: Path) -> TokenSet:
        """Opens a folder of token shards and checks every file's hash.

        Raises UserError naming the file that is missing, truncated or changed.
        """
        manifest = read_json(folder / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise UserError(
                f"{folder}/manifest.json has format {found!r}, not {FORMAT}; delete the folder to rebuild it"
            )
        for name, digest in manifest["files"].items():
            path = folder / name
            if not path.exists():
                raise UserError(f"token file {path} is missing; delete the folder {folder} to tokenise again")
            if sha256(path) != digest:
                raise UserError(
                    f"token file {path} is corrupted or truncated (its SHA-256 differs from the manifest's); "
                    f"delete the folder {folder} to tokenise again"
                )
        sides = {side: _shards(folder, side, manifest) for side in ("train", "validation")}
        return cls(folder, sides["train"], sides["validation"], manifest["fingerprint"], manifest["record"])

    def documents(self) -> Iterator[dict[str, Any]]:
        """{source, origin, side, n_tokens} of every document, in the order of the document numbers."""
        with (self.folder / "documents.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def prepare_tokens(
    text: TextConfig, tokenizer: Any, tokenizer_fingerprint: str, *, folder: Path | None = None
) -> TokenSet:
    """The packed tokens of a text: opened when they are there, else built.

    `tokenizer` is a transformers tokenizer; `tokenizer_fingerprint` identifies it (and may cover the model too).
    `folder` holds one sub-folder per fingerprint, by default `cache_folder()/tokens`.

    Raises UserError for bad settings or text, a corpus smaller than asked, too little disk, corrupted shards.
    """
    positive(n_tokens=text.n_tokens, n_validation_tokens=text.n_validation_tokens)
    if text.context_length < 2:
        raise UserError(f"context_length must be at least 2, got {text.context_length}")
    sources = open_sources(text)
    identity = {
        "format": FORMAT,
        "sources": {s.name: {"identity": s.identity, "share": s.share} for s in sources},
        "tokenizer": [tokenizer_fingerprint, *separator_and_bos(tokenizer)],
        "settings": [text.context_length, text.n_tokens, text.n_validation_tokens, text.seed],
    }
    key = fingerprint(identity)
    final = (folder or cache_folder() / "tokens") / key
    if not final.exists():
        with exclusive(final):
            if not final.exists():
                _check_disk(text, final)
                with atomic_folder(final) as target:
                    _build(text, tokenizer, sources, identity, key, target)
    return TokenSet.open(final)


def shard_names(kind: str, n: int) -> list[str]:
    """File names of the shards of `train`, `train-documents`, …"""
    return [f"{kind}-{i:05d}.npy" for i in range(n)]


def separator_and_bos(tokenizer: Any) -> tuple[int | None, int | None]:
    """(token id between documents, token id at the start of every sequence or None).

    The separator is `<|endoftext|>` where the vocabulary has it, else EOS, else SEP, else BOS, else nothing: chat
    models declare the end of a turn as their EOS, but were pre-trained with `<|endoftext|>` between documents
    (SmolLM2-135M-Instruct on packed Wikipedia: 3.23 nats per token with it, 3.35 with its EOS).
    BOS starts sequences when the tokenizer itself puts it before a text.
    """
    pretraining = tokenizer.get_added_vocab().get("<|endoftext|>")
    candidates = (pretraining, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    separator = next((token for token in candidates if token is not None), None)
    bos = tokenizer.bos_token_id
    starts = bos is not None and tokenizer("a")["input_ids"][0] == bos
    return separator, bos if starts else None


class _ShardWriter:
    """Collects packed sequences and writes a shard each time one is full."""

    def __init__(self, folder: Path, side: str, context_length: int, n_sequences: int) -> None:
        self.folder, self.side, self.n_wanted = folder, side, n_sequences
        self.per_shard = max(1, _SHARD_TOKENS // context_length)
        self.held: list[tuple[Tokens, Tokens]] = []
        self.written: list[int] = []

    def add(self, tokens: Tokens, documents: Tokens) -> None:
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


def _build(
    text: TextConfig, tokenizer: Any, sources: list[TextSource], identity: dict[str, Any], key: str, target: Path
) -> None:
    for source in sources:
        source.prepare()
    separator, bos = separator_and_bos(tokenizer)
    tokenise = tokeniser(tokenizer)
    queues = [SourceQueue(s, ShuffledDocuments(s.read(), f"{text.seed}/{s.name}"), tokenise) for s in sources]
    manifest: dict[str, Any] = {"format": FORMAT, "fingerprint": key, "identity": identity, "shards": {}}
    width = text.context_length - (bos is not None)
    n_documents = 0
    wanted = {"validation": text.n_validation_tokens, "train": text.n_tokens}
    n_sequences = {side: -(-n // text.context_length) for side, n in wanted.items()}
    left = {side: n * width for side, n in n_sequences.items()}
    with (
        (target / "documents.jsonl").open("w", encoding="utf-8") as listing,
        progress.stage("tokenise", total=sum(left.values()), unit="tokens") as bar,
    ):
        for side in ("validation", "train"):
            if side == "train":
                for queue in queues:
                    queue.begin_training()

            def numbered(side: str = side) -> Iterator[tuple[int, Tokens]]:
                nonlocal n_documents
                n_separators = int(separator is not None)
                for document, ids in mixed(queues, n_sequences[side] * width, n_separators, side == "validation"):
                    entry = {"source": document.source, "origin": document.origin, "side": side, "n_tokens": len(ids)}
                    listing.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    bar.advance(min(len(ids) + n_separators, left[side]))
                    left[side] -= min(len(ids) + n_separators, left[side])
                    yield n_documents, ids
                    n_documents += 1

            writer = _ShardWriter(target, side, text.context_length, n_sequences[side])
            try:
                for tokens, documents in pack(numbered(), text.context_length, separator, bos):
                    writer.add(tokens, documents)
            except Shortage as shortage:
                raise _too_small(text, queues, shortage, side) from None
            writer.flush()
            manifest["shards"][side] = writer.written
    manifest["record"] = _record(text, sources, queues, separator, bos)
    manifest["context_length"] = text.context_length
    manifest["files"] = {path.name: sha256(path) for path in sorted(target.iterdir())}
    write_json(target / "manifest.json", manifest)


def _too_small(text: TextConfig, queues: Sequence[SourceQueue], shortage: Shortage, side: str) -> UserError:
    asked = f"{text.n_tokens:,} training and {text.n_validation_tokens:,} validation tokens were asked"
    fix = "lower n_tokens or n_validation_tokens, or add text"
    if side == "validation" and len(queues) == 1:
        has = f"{shortage.n_tokens + queues[0].n_kept_tokens:,} tokens in all"
    elif side == "validation":
        has = f"{shortage.n_tokens:,} validation tokens"
    else:
        n_validation = sum(q.validation.n_tokens for q in queues)
        has = f"{shortage.n_tokens:,} training tokens beside {n_validation:,} for validation"
    first = "" if len(queues) == 1 else f" at its fixed shares ({shortage.queue.source.name!r} ends first)"
    return UserError(f"text {text.source!r} holds only {has}{first}, but {asked}; {fix}")


def _record(
    text: TextConfig, sources: list[TextSource], queues: list[SourceQueue], separator: int | None, bos: int | None
) -> dict[str, Any]:
    def facts(queue: SourceQueue) -> dict[str, Any]:
        source = queue.source
        return {
            "licence": source.licence,
            "share": source.share,
            **source.facts,
            "train_documents": queue.train.n_documents,
            "train_tokens": queue.train.n_tokens,
            "validation_documents": queue.validation.n_documents,
            "validation_tokens": queue.validation.n_tokens,
            "empty_documents": queue.n_empty,
            "split_unit": "section" if queue.shuffled.single_work else "document",
        }

    return {
        "source": text.source,
        "context_length": text.context_length,
        "seed": text.seed,
        "separator_token": separator,
        "bos_token": bos,
        "train_documents": sum(q.train.n_documents for q in queues),
        "validation_documents": sum(q.validation.n_documents for q in queues),
        "sources": {queue.source.name: facts(queue) for queue in queues},
        "identity": {source.name: source.identity for source in sources},
    }


def _check_disk(text: TextConfig, final: Path) -> None:
    needed = (text.n_tokens + text.n_validation_tokens) * _BYTES_PER_TOKEN
    if (free := free_bytes(final)) < needed:
        raise UserError(
            f"tokens need {needed / 1e9:.2f} GB in {final.parent} and {free / 1e9:.2f} GB are free; "
            "free space, lower n_tokens, or set MONOSEMY_CACHE to another disk"
        )


def _shards(folder: Path, side: str, manifest: dict[str, Any]) -> TokenShards:
    sizes = tuple(manifest["shards"][side])
    names = shard_names(side, len(sizes)) + shard_names(f"{side}-documents", len(sizes))
    content = fingerprint({name: manifest["files"][name] for name in names})
    return TokenShards(folder, side, manifest["context_length"], sizes, content)


def _load(path: Path) -> Tokens:
    return np.load(path, mmap_mode="r", allow_pickle=False)
