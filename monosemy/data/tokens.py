"""Token shards: packed, memory-mapped and hash-checked, built once for each text, tokenizer and settings.

Place on the data's path: text -> **tokens** -> activations. `prepare_tokens` tokenises and packs the documents of a
`TextConfig` (see `split` and `packing`) into a folder named by the fingerprint of text, tokenizer and settings, or
opens that folder if it exists:

  manifest.json                        fingerprint, record, {file: SHA-256 and number of sequences}
  train-00000.npy, …                   token ids, int32 [sequences, T]
  train-documents-00000.npy, …         document number of every token, int32 [sequences, T]
  validation-….npy                     the same for validation
  documents.jsonl                      line k: source, origin and side of document k (copies of a text share a number)

The folder appears only once it is complete. The hash of every file is checked when the folder is opened.
Cost: time and disk grow with the number of tokens (8 bytes a token on disk); memory is constant (one shard).
"""

from __future__ import annotations

import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monosemy.config import TextConfig, fingerprint, positive
from monosemy.data.build import Tokenizer, build_tokens, check_largest_id, shard_names
from monosemy.data.chats import ChatTemplate
from monosemy.data.corpora import open_sources
from monosemy.data.documents import TextSource
from monosemy.errors import UserError
from monosemy.support.fetch import exclusive
from monosemy.support.files import atomic_folder, cache_folder, free_bytes, read_json, sha256, sync, write_json
from monosemy.support.numbers import fixed_text

FORMAT = 1
RULES = 2
"""The version of the rules; raised with any change in reading, cutting or splitting that gives other tokens."""
_BYTES_PER_TOKEN = 8

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class TokenShards:
    """One side of the split: sequences of T tokens in memory-mapped files."""

    folder: Path
    side: str
    context_length: int
    shard_sequences: tuple[int, ...]
    """The number of sequences in each shard."""
    _: KW_ONLY
    fingerprint: str
    """A hash of the content: equal tokens have equal fingerprints, whichever run made them."""

    @property
    def n_sequences(self) -> int:
        return sum(self.shard_sequences)

    @property
    def n_tokens(self) -> int:
        return self.n_sequences * self.context_length

    def sequences(self, start: int, stop: int) -> Tokens:
        """The token ids of sequences [start, stop), int32 [stop − start, T]; a view of the file if one shard has all.

        Raises IndexError outside [0, n_sequences].
        """
        return self._rows(self._tokens, start, stop)

    def documents(self, start: int, stop: int) -> Tokens:
        """The document number of every token of sequences [start, stop), int32 [stop − start, T]."""
        return self._rows(self._documents, start, stop)

    def first(self, n_sequences: int) -> TokenShards:
        """The first `n_sequences` alone, in the same files. Raises IndexError if there are fewer."""
        if not 0 < n_sequences <= self.n_sequences:
            raise IndexError(f"the first {n_sequences} of {self.n_sequences} sequences")
        ends = [min(end, n_sequences) for end in self._ends]
        sizes = tuple(end - before for before, end in pairwise([0, *ends]) if end > before)
        return replace(self, shard_sequences=sizes, fingerprint=fingerprint([self.fingerprint, n_sequences]))

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
        """Rows [start, stop) of the shards laid end to end; raises IndexError outside."""
        if not 0 <= start <= stop <= self.n_sequences:
            raise IndexError(f"sequences [{start}, {stop}) of {self.n_sequences}")
        pieces: list[Tokens] = []
        while start < stop:
            # The shard that holds sequence `start`: the first one whose end is beyond it.
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
    """The training and validation tokens of one text, with a record of where they come from."""

    folder: Path
    train: TokenShards
    validation: TokenShards
    fingerprint: str
    """A hash of text, tokenizer and settings; also the name of the folder."""
    _: KW_ONLY
    record: dict[str, Any]
    """JSON values: documents, tokens, licence, split unit and empty documents of each source; separator and BOS."""

    @classmethod
    def open(cls, folder: Path) -> TokenSet:
        """Opens a folder of token shards and checks every file's hash.

        Raises UserError for another format, and when a file is missing, truncated or changed, naming it.
        """
        manifest = read_json(folder / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            stored_format = manifest.get("format") if isinstance(manifest, dict) else None
            raise UserError(
                f"{folder}/manifest.json has format {stored_format!r}, not {FORMAT}; delete the folder to rebuild it"
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
        return cls(folder, sides["train"], sides["validation"], manifest["fingerprint"], record=manifest["record"])

    def first(self, n_sequences: int) -> TokenSet:
        """The same set with the first `n_sequences` of its training side alone. Raises IndexError as the side does."""
        train = self.train.first(n_sequences)
        return replace(self, train=train, fingerprint=fingerprint([self.fingerprint, n_sequences]))

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yields {source, origin, side, n_tokens} of every document, in the order of the documents' numbers."""
        with (self.folder / "documents.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def prepare_tokens(
    text: TextConfig,
    tokenizer: Any,
    tokenizer_fingerprint: str,
    *,
    vocab_size: int | None = None,
    began_with: str | None = None,
    lies_at: str = "",
    folder: Path | None = None,
) -> TokenSet:
    """The packed tokens of a text: opened if they exist, otherwise built.

    `tokenizer` is a transformers tokenizer, or None for a text of token ids. `tokenizer_fingerprint` identifies it (and
    may cover the model as well). Token ids in the text must be below `vocab_size`. `began_with` is the fingerprint of
    the tokens that an existing run began with: they are opened as that run made them. `lies_at` is the present path of
    a text that is no longer at `text.source`; it keeps that name. `folder` holds one sub-folder per fingerprint, by
    default `cache_folder()/tokens`.

    Raises UserError for bad settings or text, a corpus smaller than asked for, too little disk, and corrupted shards.
    """
    positive(n_tokens=text.n_tokens, n_validation_tokens=text.n_validation_tokens)
    if text.context_length < 2:
        raise UserError(f"context_length must be at least 2, got {text.context_length}")
    sources = open_sources(text, tokenizer, lies_at)
    frame = Tokenizer(tokenizer, *separator_and_bos(tokenizer), vocab_size)
    identity = {
        "format": FORMAT,
        "sources": {s.name: {"identity": s.identity, "share": s.share} for s in sources},
        "tokenizer": [tokenizer_fingerprint, frame.separator, frame.bos],
        "settings": [text.context_length, text.n_tokens, text.n_validation_tokens, text.seed],
    }
    folder = folder or cache_folder() / "tokens"
    identities = _identities(identity, tokenizer)
    # Double-checked: another process may have built the tokens while this one waited for the lock.
    if (final := _built(folder, identities, began_with)) is None:
        first = folder / fingerprint(identity)
        with exclusive(first):
            if (final := _built(folder, identities, began_with)) is None:
                _check_disk(text, first)
                final = _build(text, frame, sources, identities, folder=folder)
    tokens = TokenSet.open(final)
    if (largest := tokens.record.get("largest_given_id")) is not None:
        check_largest_id(largest, vocab_size, f"text {text.source!r}")
    return tokens


def _identities(identity: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    """The identities that the tokens of a text may have; which of them applies is known once the text was read.

    In order: tokens as the package's first version made them; tokens that a later rule changed; tokens that depend on
    the chat template as well.
    """
    later = {**identity, "rules": RULES}
    template = ChatTemplate(tokenizer).fingerprint
    return [identity, later] + ([{**later, "chat_template": template}] if template else [])


def _built(folder: Path, identities: list[dict[str, Any]], began_with: str | None) -> Path | None:
    """The folder that already holds the tokens; None if there is none.

    A folder that the package's first version wrote does not say whether today's rules would give the same tokens. It is
    used only for a run that began with it.
    """
    # The tokens that the run began with come first, whatever newer ones exist; the sort is stable for the others.
    keys = [fingerprint(identity) for identity in identities]
    for key in sorted(keys, key=lambda key: key != began_with):
        if (manifest := folder / key / "manifest.json").exists():
            content = read_json(manifest)
            if key == began_with or not isinstance(content, dict) or content.get("rules") == RULES:
                return folder / key
    return None


def _build(
    text: TextConfig, tokenizer: Tokenizer, sources: list[TextSource], identities: list[dict[str, Any]], *, folder: Path
) -> Path:
    """Builds the tokens in a folder under another name, renames it to their fingerprint and returns it."""
    # The folder's name depends on the text's content, so it is built under another name first.
    staging = folder / f".{fingerprint(identities[0])}.built"
    with atomic_folder(staging) as target:
        built = build_tokens(text, tokenizer, sources, target)
        has_chats = any("chat" in source["reader"] for source in built["record"]["sources"].values())
        identity = identities[2] if has_chats else identities[1] if built["later_rules"] else identities[0]
        key = fingerprint(identity)
        manifest = {"format": FORMAT, "rules": RULES, "fingerprint": key, "identity": identity, **built}
        write_json(target / "manifest.json", manifest)
    final = folder / key
    # A folder of this name can only be one that the first version wrote, with the same tokens.
    shutil.rmtree(final, ignore_errors=True)
    os.replace(staging, final)
    sync(folder)
    return final


def separator_and_bos(tokenizer: Any) -> tuple[int | None, int | None]:
    """(id of the token between documents, id of the token at the start of every sequence); None where there is none.

    The separator is `<|endoftext|>` if the vocabulary has it, else EOS, SEP or BOS, whichever exists first. Chat models
    declare the end of a turn as their EOS, but were pre-trained with `<|endoftext|>` between documents
    (SmolLM2-135M-Instruct on packed Wikipedia: 3.23 nats per token with it, 3.35 with its EOS).
    Sequences start with BOS if the tokenizer itself puts it before a text.
    """
    if tokenizer is None:
        return None, None
    pretraining = tokenizer.get_added_vocab().get("<|endoftext|>")
    # In order of preference; a token id may be 0, so None is tested for and not falsehood.
    candidates = (pretraining, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    separator = next((token for token in candidates if token is not None), None)
    bos = tokenizer.bos_token_id
    starts = bos is not None and tokenizer("a")["input_ids"][0] == bos
    return separator, bos if starts else None


def _check_disk(text: TextConfig, final: Path) -> None:
    needed = (text.n_tokens + text.n_validation_tokens) * _BYTES_PER_TOKEN
    if (free := free_bytes(final)) < needed:
        raise UserError(
            f"tokens need {fixed_text(needed / 1e9, 2)} GB in {final.parent} and {fixed_text(free / 1e9, 2)} GB are "
            "free; free space, lower n_tokens, or set MONOSEMY_CACHE to another disk"
        )


def _shards(folder: Path, side: str, manifest: dict[str, Any]) -> TokenShards:
    sizes = tuple(manifest["shards"][side])
    names = shard_names(side, len(sizes)) + shard_names(f"{side}-documents", len(sizes))
    content = fingerprint({name: manifest["files"][name] for name in names})
    return TokenShards(folder, side, manifest["context_length"], sizes, fingerprint=content)


def _load(path: Path) -> Tokens:
    return np.load(path, mmap_mode="r", allow_pickle=False)
