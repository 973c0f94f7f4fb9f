"""Fetches an SAE from the Hugging Face hub: only its own files, into huggingface_hub's cache, at one commit.

Place on the path: a name → [a local folder or file] → the layout that recognises it. Names:

    owner/repository/path             google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71
    owner/repository/path@revision    the same at a branch, tag or commit; `hf://` may stand in front of both
    hf://…/path?revision=revision, https://huggingface.co/owner/repository/tree/revision/path    the same

huggingface_hub's own cache, token (HF_TOKEN or `hf auth login`) and environment (HF_ENDPOINT, HF_HUB_OFFLINE, proxies)
apply. Without a connection, what was fetched before is opened from the cache. A local path wins over a name.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from monosemy.errors import UserError, near_matches
from monosemy.saes.formats import LAYOUTS
from monosemy.saes.formats.stored import shown

SCHEME = "hf://"
_PART = re.compile(r"[\w.=:-]+")
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)(?:/(?:tree|blob|resolve)/([^/?#]+)([^?#]*))?/?"
)
"""The address of a repository, or of a folder or file in it, on the hub's site."""
_FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".npz")
_SECONDS = 15.0


@dataclass(frozen=True)
class HubName:
    """The parts of an SAE's name on the hub."""

    repository: str
    path: str
    """The folder or file within the repository; empty for the repository itself."""
    revision: str | None = None

    def __str__(self) -> str:
        return "/".join(filter(None, (self.repository, self.path))) + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Fetched:
    """An SAE's files in the cache."""

    place: Path
    name: HubName
    commit: str


def hub_name(source: str) -> HubName | None:
    """The parts of a name on the hub; None for a text that can be none. Raises UserError for a damaged hf:// name."""
    name = _from_address(source) if source.startswith(("http://", "https://")) else source
    text, _, revision = name.removeprefix(SCHEME).replace("?revision=", "@", 1).partition("@")
    parts = text.strip("/").split("/") if text else []
    valid = len(parts) > 1 and all(_PART.fullmatch(part) and set(part) != {"."} for part in parts)
    valid = valid and ":" not in "".join(parts[:2]) and not source.startswith(("/", "~", "."))
    has_revision = "@" in name or "?revision=" in name
    if not valid or (has_revision and (not re.fullmatch(r"[\w./-]+", revision) or ".." in revision)):
        if name.startswith(SCHEME):
            raise UserError(
                f"{shown(source)} is no name on the hub; it should be like hf://owner/repository/path@revision"
            )
        return None
    return HubName("/".join(parts[:2]), "/".join(parts[2:]), revision or None)


def _from_address(address: str) -> str:
    """The name that an address on the hub's site shows. Raises UserError for any other address."""
    match = _PAGE.fullmatch(address.partition("?")[0].partition("#")[0])
    if match is None:
        raise UserError(
            f"{shown(address)} is no address of an SAE on the hub; give owner/repository/path, or download it and give "
            "its folder"
        )
    repository, revision, path = match.groups()
    return f"{SCHEME}{repository}{unquote(path or '')}" + (f"@{unquote(revision)}" if revision else "")


def fetch(name: HubName) -> Fetched:
    """Fetches the SAE's files, or finds them in the cache; no other file of the repository.

    Raises UserError, one line, for an unknown repository, revision or path (with similar ones), a path that holds
    several SAEs, a gated repository, and without a connection when nothing is cached.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    with _explained(name):
        try:
            # A single request that is not repeated tells whether there is a connection.
            commit = str(HfApi().model_info(name.repository, revision=name.revision, timeout=_SECONDS).sha)
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            if not isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
                raise
            return _cached(name)
        except Exception:  # no connection; its class is that of whichever HTTP library the hub's release uses
            return _cached(name)
        needed, path = _needed_files(name, commit)
        places = [Path(hf_hub_download(name.repository, file, revision=commit)) for file in needed]
    snapshot = places[0]
    for _ in PurePosixPath(needed[0]).parts:
        snapshot = snapshot.parent
    if name.revision != commit:
        # As huggingface_hub does when it fetches by a branch's name: later, without a connection, the name leads here.
        reference = snapshot.parent.parent / "refs" / (name.revision or "main")
        with suppress(OSError):
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit)
    return Fetched(snapshot / path, name, commit)


def _cached(name: HubName) -> Fetched:
    from huggingface_hub import snapshot_download

    snapshot = Path(snapshot_download(name.repository, revision=name.revision, local_files_only=True))
    place = next((p for p in (snapshot / name.path, snapshot / f"{name.path}.safetensors") if p.exists()), None)
    if place is None:
        raise UserError(
            f"cannot fetch SAE {str(name)!r} from the hub: no network, and of {name.repository} only other files are "
            "in the local cache; connect once, or give a local folder"
        )
    return Fetched(place, name, snapshot.name)


def _needed_files(name: HubName, commit: str) -> tuple[list[str], str]:
    """(the repository's files that the SAE consists of, its folder or file)."""
    from huggingface_hub import hf_hub_download

    from monosemy.saes.formats import circuit_tracer

    in_repository = _listed(name.repository, name.path, commit)
    for folder in [name.path, *([name.path.rpartition("/")[0]] if name.path.endswith(_FILE_SUFFIXES) else [])]:
        below = in_repository if folder == name.path else _listed(name.repository, folder, commit)
        for files in _folder_layouts():
            needed = [f"{folder}/{file}".lstrip("/") for file in files]
            if set(needed) <= below and (folder == name.path or name.path in needed):
                return needed + _beside(name.repository, folder, commit), folder
        if alone := _alone(folder, below, repository=name.repository):
            return [alone, *_beside(name.repository, folder, commit)], folder
    parent = name.path.rpartition("/")[0]
    siblings = _listed(name.repository, parent, commit, recursive=False) if name.path else in_repository
    for file in (name.path, f"{name.path}.safetensors"):
        if file in siblings and file.endswith(_FILE_SUFFIXES):
            return [file, *_partners(file, siblings)], file
    settings_file = f"{name.path}/{circuit_tracer.CONFIG}".lstrip("/")
    if settings_file in in_repository:
        layers = sorted(file for file in in_repository if circuit_tracer.is_layer(PurePosixPath(file).name))
        inside = [file for file in layers if file.rpartition("/")[0] == name.path]
        if len(inside) == 1:
            return [inside[0], *_partners(inside[0], in_repository)], inside[0]
        if layers:
            example = f"{name.repository}/{layers[0]}"
            raise UserError(
                f"{str(name)!r} holds a transcoder for each of {len(layers)} layers; name one, e.g. {example}"
            )
        elsewhere = circuit_tracer.published_elsewhere(
            Path(hf_hub_download(name.repository, settings_file, revision=commit))
        )
        if elsewhere:
            raise circuit_tracer.several(repr(str(name)), elsewhere)
    raise _not_one(name, in_repository, siblings)


def _folder_layouts() -> Iterator[tuple[str, ...]]:
    """The files of each layout that is a folder."""
    for module in LAYOUTS.values():
        if files := getattr(importlib.import_module(module), "FILES", ()):
            yield files


def _alone(folder: str, below: set[str], *, repository: str) -> str:
    """The weights of a folder of Gemma Scope 2 without settings, which its repository's name says; else empty."""
    from monosemy.saes.formats import gemma_scope_2

    weights = f"{folder}/{gemma_scope_2.FILES[1]}".lstrip("/")
    return weights if gemma_scope_2.names_repository(repository) and weights in below else ""


def _partners(file: str, siblings: set[str]) -> list[str]:
    """What belongs to a weight file of its own: its set's settings, and the other half of a cross-layer transcoder."""
    parent, _, last = file.rpartition("/")
    names = ["config.yaml", "config.json"] + ([last.replace("W_enc_", "W_dec_")] if last.startswith("W_enc_") else [])
    return [place for place in (f"{parent}/{other}".lstrip("/") for other in names) if place in siblings]


def _beside(repository: str, folder: str, commit: str) -> list[str]:
    """The settings of the whole run, one folder up, which sparsify's layout reads the model from."""
    parent = folder.rpartition("/")[0]
    file = f"{parent}/config.json".lstrip("/")
    return [file] if folder and file in _listed(repository, parent, commit, recursive=False) else []


def _listed(repository: str, path: str, commit: str, *, recursive: bool = True) -> set[str]:
    """The files at or below a path of a repository; empty where there is none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    try:
        entries = HfApi().list_repo_tree(repository, path or None, revision=commit, recursive=recursive)
        return {entry.path for entry in entries}
    except EntryNotFoundError:
        return set()


def _not_one(name: HubName, in_repository: set[str], siblings: set[str]) -> UserError:
    """The error for a path that is no SAE: with the SAEs below it, or with similar paths beside it."""
    ends = [files[-1] for files in _folder_layouts()]
    below = sorted(
        {file.removesuffix(f"/{end}") for file in in_repository for end in ends if file.endswith(f"/{end}")}
        | {file for file in in_repository if file.endswith((".pt", ".pth"))}
    )
    if below:
        examples = ", ".join(f"{name.repository}/{path}" for path in below[:3])
        return UserError(f"{str(name)!r} holds {len(below)} SAEs; name one, e.g. {examples}")
    similar = near_matches(name.path, siblings) or sorted(siblings)[:3]
    hint = f"; beside it are {', '.join(similar)}" if similar else ""
    return UserError(f"repository {name.repository!r} has no SAE at {name.path!r}{hint}")


@contextmanager
def _explained(name: HubName) -> Iterator[None]:
    """Turns the hub's errors into UserErrors of one line that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(
            f"repository {name.repository!r} is gated: accept its licence on the hub, then log in (`hf auth login` or "
            "HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"repository {name.repository!r} has no revision {name.revision!r}; leave it out or name a branch"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no repository {name.repository!r}, or it is private and HF_TOKEN is missing; give "
            "owner/repository/path, or an existing local folder"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"cannot fetch SAE {str(name)!r} from the hub: no network, and it is not in the local cache; connect once, "
            "or give a local folder"
        ) from error
    except errors.HfHubHTTPError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the hub does not serve SAE {str(name)!r}: {reason}") from error
    except Exception as error:  # a download that breaks off raises what its HTTP library raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"SAE {str(name)!r} cannot be fetched: {reason}; try again") from error
