"""Opens the text of a `TextConfig` as documents: the embedded corpus, local files, or a Hugging Face dataset.

First stage of the data's path (text -> tokens). `TextConfig.source` is
  `embedded` or `embedded:english,code`   see `embedded`
  a path to a file or a folder of them    see `local` and `formats`
  `owner/name` or `owner/name@revision`   a hub dataset, streamed: only what is used is downloaded

A hub dataset without a revision is pinned to the commit that is current at its first use. The pin is kept in the cache
(`datasets/`), so that later and resumed runs see the same text; once it is tokenised, they need no network.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from monosemy.config import TextConfig
from monosemy.data.chats import ChatTemplate
from monosemy.data.columns import content_of
from monosemy.data.documents import Document, TextSource, section_chars
from monosemy.data.embedded import embedded_sources
from monosemy.data.local import documents_of, is_text_file, local_source
from monosemy.errors import UserError, near_matches
from monosemy.support.files import cache_folder, read_json, write_json

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


def open_sources(text: TextConfig, tokenizer: Any = None, lies_at: str = "") -> list[TextSource]:
    """The text sources of a configuration; their shares add up to 1.

    `tokenizer` provides the template that chats need. `lies_at` is the present path of a text that was moved.
    Raises UserError for an unknown source, a missing or empty file, and a dataset that cannot be reached.
    """
    source, limit = text.source, section_chars(text.context_length)
    chat = ChatTemplate(tokenizer)
    if source == "embedded" or source.startswith("embedded:"):
        return embedded_sources(source, limit)
    path = Path(lies_at or source).expanduser()
    if path.exists() or _looks_like_path(lies_at or source):
        return [local_source(path, text.column, limit, chat, known_as=Path(source).expanduser())]
    if "/" not in source and near_matches(source.partition(":")[0], ["embedded"]):
        raise UserError(f"unknown text source {source!r}; did you mean 'embedded'?{_CHOICES}")
    if not _HUB_ID.fullmatch(source):
        raise UserError(f"unknown text source {source!r};{_CHOICES}")
    return [hub_source(text, chat)]


_CHOICES = (
    " valid: embedded, embedded:english,code,…, a path to a .txt, .jsonl, .json, .csv, .tsv or .parquet file "
    "(.gz or .zst too) or a folder of them, or a hub dataset (owner/name)"
)


def open_documents(text: TextConfig) -> Iterator[Document]:
    """Every document of every source, one source after the other, in reading order (not shuffled)."""
    for source in open_sources(text):
        yield from source.read()


def _looks_like_path(source: str) -> bool:
    """Whether a name can only mean a file: it has a known ending, starts with `.`, `/` or `~`, or contains `\\`."""
    return is_text_file(source) or source.startswith((".", "/", "~")) or "\\" in source


def hub_source(text: TextConfig, chat: ChatTemplate) -> TextSource:
    """The text source of a hub dataset, streamed and pinned to a commit. Raises UserError when it cannot be reached."""
    name, _, revision = text.source.partition("@")
    commit = _pinned_commit(name, revision or None)

    def read() -> Iterator[Document]:
        return stream_documents(name, text, chat, revision=commit)

    identity = {"dataset": name, "commit": commit, "subset": text.subset, "split": text.split, "column": text.column}
    return TextSource("hub", read, identity, licence="see the dataset's card", facts={"dataset": name})


def stream_documents(dataset: str, text: TextConfig, chat: ChatTemplate, **arguments: Any) -> Iterator[Document]:
    """Streams the rows of a hub dataset as documents; `arguments` go to `datasets.load_dataset`.

    The dataset's own shards are read in an order drawn from the seed. Raises UserError for an unknown subset, split or
    column, and when the connection fails.
    """
    import datasets

    where, limit = f"dataset {dataset} ({text.split})", section_chars(text.context_length)
    try:
        if (
            int(datasets.__version__.split(".")[0]) < 4
        ):  # later releases run no code of a dataset, and know no such word
            arguments["trust_remote_code"] = False
        rows = datasets.load_dataset(dataset, text.subset, split=text.split, streaming=True, **arguments)
        rows = rows.shuffle(seed=text.seed, buffer_size=1)  # shards only; documents are shuffled when packing
        index = 0
        for number, row in enumerate(rows):
            content = content_of(row, text.column, f"{where} row {number}")
            for document in documents_of(content, "hub", str(number), limit, chat=chat):
                yield replace(document, index=index)
                index += 1
    except UserError:
        raise
    except Exception as error:  # the library's failures share no base class
        raise _hub_error(dataset, error) from error


def _pinned_commit(name: str, revision: str | None) -> str:
    """The commit that `revision` stands for; without one, that of the main branch at the first use."""
    pin = cache_folder() / "datasets" / f"{name.replace('/', '--')}@{(revision or 'main').replace('/', '--')}.json"
    if pin.exists():
        return str(read_json(pin)["commit"])
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=30).sha
    except Exception as error:  # connection errors come from two libraries, refusals from a third
        raise _hub_error(name, error) from error
    write_json(pin, {"dataset": name, "revision": revision, "commit": commit})
    return str(commit)


def _hub_error(name: str, error: Exception) -> UserError:
    """The UserError for a failure of the hub's libraries: a dataset that is not there, no connection, or another."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    kind = type(error).__name__
    if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError | RevisionNotFoundError):
        return UserError(
            f"no dataset {name!r} on the hub that you may read ({reason[:200]}); check its spelling{_CHOICES}"
        )
    # The HTTP library's own classes differ between releases of the hub's; the operating system's error behind them
    # does not.
    if any(isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) for cause in _causes(error)):
        return UserError(
            f"dataset {name!r}: no connection to the hub ({kind}: {reason[:200]}), and it is not in the cache; "
            "check the network, or use embedded or local text"
        )
    return UserError(f"cannot read dataset {name!r}: {kind}: {reason[:400]}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it was raised from, the first cause last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
