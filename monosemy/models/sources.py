"""Loads a language model: from the embedded package, a local folder, a GGUF file, or the Hugging Face hub.

Place on the path: a name → [model with named, self-checked sites] → tokens and activations. transformers loads the
model, with weights in the requested dtype; hub ids use huggingface_hub's own cache, tokens and environment. No global
setting is changed, no code from a model's repository is run, and a checkpoint that lacks weights is refused.

Deviation: models that cap their attention scores (Gemma 2) run transformers' `eager` attention, since the fused kernel
drops the cap; all others use transformers' default, the fused `sdpa` kernel. Limits: causal decoders that transformers
itself implements. A model may be spread over devices (placement.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import fingerprint as hash_json
from monosemy.errors import UserError, near_matches, unknown
from monosemy.models import embedded
from monosemy.models.placement import ONE_DEVICE, Placement, placed_by, require_placement
from monosemy.support import files, ranks
from monosemy.support.estimates import ModelSize

if TYPE_CHECKING:
    import torch

    from monosemy.models.adapter import LanguageModel

EMBEDDED = "embedded"
DTYPES = ("float32", "bfloat16", "float16")
RANDOMISATIONS = ("published", "reinitialised", "matched")
LOCAL_CHOICES = f"`{EMBEDDED}`, a local folder, or a .gguf file"

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w.-]+)?")
_TOKENIZER_FILE = re.compile(r"(tokenizer|vocab|merges|tekken).*|.*\.(model|tiktoken)")
_WEIGHT_SUFFIXES = (".safetensors", ".bin")


def load_model(
    source: str = EMBEDDED,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    randomise: str = "none",
    checks: bool = True,
    placement: Placement = ONE_DEVICE,
) -> LanguageModel:
    """Loads a causal language model, ready to read and replace activations.

    source: `embedded` (SmolLM2-135M-Instruct from the Python package index), a local folder in transformers' format, a
    .gguf file, or a hub id with an optional `revision`.
    dtype: that of weights and activations: float32, bfloat16 or float16.
    device: `auto` takes cuda if there is one, else cpu.
    randomise: `none`, or how to redraw the weights (randomise.py), for a control with its own fingerprint and name.
    checks: whether to run the self-checks of `checks.py`.
    placement: over which devices the model is spread, and in which weights it is kept.
    Raises UserError, on one line, for anything that cannot be loaded.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if randomise not in ("none", *RANDOMISATIONS):
        raise unknown("way to randomise a model", randomise, ("none", *RANDOMISATIONS))
    kind = source_kind(source)
    files.require_cache()
    where = choose_device(device)
    require_placement(placement, device, randomise=randomise, kind=kind)

    from monosemy.models.adapter import LanguageModel
    from monosemy.models.checks import check_model

    name = embedded.NAME if kind == "embedded" else source
    if kind == "gguf":
        module, tokenizer = _load_gguf(Path(source).expanduser(), dtype, where)
        identity = {"gguf": cached_sha256(Path(source).expanduser())}
    elif kind == "hub":
        commit, offline = hub_commit(source, revision)
        options: dict[str, Any] = {"revision": commit, "local_files_only": offline}
        module, tokenizer = _load(source, dtype, where, placement=placement, **options)
        identity = {"id": source, "commit": commit}
    elif kind == "folder":
        module, tokenizer = _load(str(Path(source).expanduser()), dtype, where, placement=placement)
        identity = folder_identity(Path(source).expanduser())
    else:
        module, tokenizer = _load(str(embedded.embedded_folder()), dtype, where, placement=placement)
        identity = {"package": embedded.PACKAGE.sha256, "conversion": str(embedded.CONVERSION)}
    revised = identity.get("commit")
    if randomise != "none":
        from monosemy.models.randomise import randomise_module

        randomise_module(module, randomise, module.config.get_text_config().hidden_size)
        identity, name = {**identity, "randomised": randomise}, f"{name} ({randomise})"
    if placement.weights != "full":
        identity = {**identity, "weights": placement.weights}
    fingerprint = hash_json({"model": identity, "dtype": dtype})
    model = LanguageModel(module, tokenizer, name=name, fingerprint=fingerprint, commit=revised)
    if checks:
        check_model(model)
    return model


def source_kind(source: str) -> str:
    """The kind of a source: `embedded`, `gguf`, `folder` or `hub`.

    Raises UserError for a path that does not exist or holds no model, and for a name that can be neither path nor id.
    """
    if source == EMBEDDED:
        return "embedded"
    path = Path(source).expanduser()
    if source.lower().endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"GGUF file {source!r} does not exist; give the path of a .gguf file, or {LOCAL_CHOICES}")
        return "gguf"
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise UserError(_adapter_folder(path))
        if not (path / "config.json").is_file():
            raise UserError(f"folder {source!r} holds no config.json, so it is no model in transformers' format")
        return "folder"
    if path.is_file():
        raise UserError(f"{source!r} is a file but not a .gguf file; valid sources: {LOCAL_CHOICES}, or a hub id")
    if not _HUB_ID.fullmatch(source):
        raise UserError(
            f"model {source!r} is no existing folder and no hub id (name or owner/name); {_suggest(source)}"
        )
    return "hub"


def choose_device(device: str) -> torch.device:
    """The torch device of a name; `auto` takes cuda if there is one, else cpu. Raises UserError for another device.

    The processes of a run on one machine take one GPU after the other for `auto` and `cuda`.
    mps is not offered: it lacks float64, in which statistics are summed.
    """
    import torch

    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    choices = [f"cuda:{i}" for i in range(n_cuda)] + ["cpu"]
    if device == "auto" or (device == "cuda" and n_cuda):
        return torch.device(choices[ranks.local_rank() % max(n_cuda, 1)])
    if device in choices:
        return torch.device(device)
    raise unknown("device", device, ["auto", *choices], fix="these are the devices of this machine")


def model_size(source: str = EMBEDDED, revision: str | None = None) -> tuple[ModelSize, int]:
    """The sizes of a model, and the largest width of the concatenated head outputs of any layer, without its weights.

    They are counted on a model without storage that is built from the configuration; of a hub model, only config.json
    is fetched. For a model without heads the width is that of its residual stream. Raises UserError as `load_model`.
    """
    kind = source_kind(source)
    if kind == "embedded":
        return embedded.SIZE, embedded.SIZE.d_model

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from monosemy.models.adapter import LanguageModel

    place, options = source, dict[str, Any]()
    if kind == "hub":
        options["revision"], options["local_files_only"] = hub_commit(source, revision)
    if kind == "gguf":
        path = Path(source).expanduser()
        place, options["gguf_file"] = str(path.parent), path.name
    with _explained(source), quiet_transformers():
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        n_parameters = sum(parameter.numel() for parameter in module.parameters())
        model = LanguageModel(module, None, name=source, fingerprint="")
    widths = [model.site_width(site) for site in model.site_names() if site.endswith(".attn_heads")]
    size = ModelSize(
        n_parameters,
        model.n_layers,
        model.d_model,
        model.vocab_size,
        n_block_parameters=model.n_block_parameters,
    )
    return size, max(widths, default=model.d_model)


def _adapter_folder(folder: Path) -> str:
    """The message for a folder with a LoRA adapter (as PEFT saves it) instead of a model: how to merge the two."""
    try:
        base = files.read_json(folder / "adapter_config.json", fix="fetch the adapter again").get(
            "base_model_name_or_path"
        )
    except (UserError, AttributeError):
        base = None
    of = f"model {base!r}" if base else "a model that its adapter_config.json does not name"
    return (
        f"folder {str(folder)!r} holds a LoRA (PEFT) adapter to {of}, not a model: merge them with PEFT "
        "(PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)), save the base model's "
        "tokenizer there too, and give that folder"
    )


def hub_commit(source: str, revision: str | None = None) -> tuple[str, bool]:
    """The commit of a hub model's `revision` (default: main), and whether there is no connection.

    Without a connection it is the commit in the local cache.
    Raises UserError for an unknown id or revision, a gated model, and without a connection when nothing is cached.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    with _explained(source):
        # A single request that is not repeated tells whether there is a connection; huggingface_hub's downloads try for
        # half a minute per file before they give up.
        try:
            commit = str(HfApi().model_info(source, revision=revision, timeout=15).sha)
        except HfHubHTTPError:
            raise
        except Exception:  # no connection; its class is that of whichever HTTP library the hub's release uses
            path = hf_hub_download(source, "config.json", revision=revision, local_files_only=True)
            return Path(path).parent.name, True
        # The model's metadata is public even if the model is gated; only a download tells.
        hf_hub_download(source, "config.json", revision=commit)
        return commit, False


def _load(
    source: str,
    dtype: str,
    device: torch.device,
    *,
    label: str = "",
    placement: Placement = ONE_DEVICE,
    **options: Any,
) -> tuple[Any, Any]:
    """transformers' model and fast tokenizer from a folder or a hub id; `options` go to both, `label` is for errors.

    The tokenizer is None if there is no file of one; work that needs one then raises its own error. Raises UserError
    for anything that cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    placed = placed_by(placement, device)
    quantization = {key: options.pop(key) for key in ("quantization_config",) if key in options}
    label = label or source
    # If it were unset, transformers would ask at the terminal, and run the code on a "y".
    options["trust_remote_code"] = False
    with _explained(label), quiet_transformers():
        config = AutoConfig.from_pretrained(source, **options)
        if getattr(config, "attn_logit_softcapping", None) is not None:
            placed["attn_implementation"] = "eager"
        tokenizer = None
        if "gguf_file" in options or _has_tokenizer(source, options):
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), output_loading_info=True, **options, **placed, **quantization
        )
    module, report = loaded
    # transformers only warns about missing tensors, and initialises them at random.
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report.get("mismatched_keys") or ())
    if lacking:
        raise UserError(f"the weights of {label} lack {len(lacking)} tensors of its model, first {lacking[0]!r}")
    if tokenizer is not None and not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{label} has no fast tokenizer (tokenizer.json); convert it with transformers and save it there"
        )
    return module, tokenizer


def _has_tokenizer(source: str, options: dict[str, Any]) -> bool:
    """Whether a folder or a hub model holds a file of a tokenizer.

    It looks at the files' names, since transformers creates an empty tokenizer for some families if files are missing.
    """
    if (folder := Path(source)).is_dir():
        names = [path.name for path in folder.iterdir()]
    elif options.get("local_files_only"):
        from huggingface_hub import hf_hub_download

        config = hf_hub_download(source, "config.json", revision=options.get("revision"), local_files_only=True)
        names = [path.name for path in Path(config).parent.iterdir()]
    else:
        from huggingface_hub import list_repo_files

        names = list_repo_files(source, revision=options.get("revision"))
    return any(_TOKENIZER_FILE.fullmatch(name) for name in names)


def _load_gguf(path: Path, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """The model and tokenizer of a GGUF file, dequantised by transformers' own loader."""
    import transformers
    from gguf import GGUFReader

    options: dict[str, Any] = {"gguf_file": path.name}
    if hasattr(transformers, "GgufConfig"):  # older releases always dequantise
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    module, tokenizer = _load(str(path.parent), dtype, device, label=str(path), **options)
    pre_tokenizer = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if pre_tokenizer is not None and pre_tokenizer.contents() == "smollm":
        # transformers' conversion loses the splitting of digits by this pre-tokenizer.
        tokenizer.backend_tokenizer.pre_tokenizer = embedded.digits_apart()
    return module, tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' progress bars and notices within the block; faults of a model are raised or checked."""
    from transformers.utils import logging

    progress_bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if progress_bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns errors of transformers and the hub within the block into UserErrors of one line that say what to do."""
    from huggingface_hub import errors as hub_errors
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except hub_errors.GatedRepoError as error:
        raise UserError(
            f"model {source!r} is gated: accept its licence on the hub, then log in (`hf auth login` or HF_TOKEN)"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise UserError(f"model {source!r} has no such revision on the hub; leave it out or name a branch") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise UserError(f"unknown model {source!r}: the hub has none of that name; {_suggest(source)}") from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"cannot fetch model {source!r} from the hub: no network, and it is not in the local cache; "
            f"{_suggest(source)}"
        ) from error
    except hub_errors.HfHubHTTPError as error:
        raise UserError(f"the hub does not serve model {source!r}: {_line(error)}") from error
    except SafetensorError as error:
        raise UserError(
            f"the weights of {source} are corrupted or truncated ({_line(error)}); fetch them again"
        ) from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model {source!r} needs code of its own repository, which is never run here; take a model that "
                "transformers itself implements"
            ) from error
        raise UserError(f"model {source!r} cannot be loaded as a causal language model: {_line(error)}") from error
    except Exception as error:  # readers of damaged files raise all sorts, the tokenizers library bare Exceptions
        raise UserError(f"model {source!r} cannot be loaded as a causal language model: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def local_folder(source: str, commit: str | None) -> Path:
    """The folder, in transformers' format, of a model that has been loaded; `commit` is that of a hub model.

    Raises UserError for a .gguf file, which is in another format.
    """
    kind = source_kind(source)
    if kind == "embedded":
        return embedded.embedded_folder()
    if kind == "folder":
        return Path(source).expanduser()
    if kind == "gguf":
        raise UserError(f"{source!r} is a .gguf file; give the model as a folder or a hub id")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, revision=commit, local_files_only=True))


def _suggest(source: str) -> str:
    """Advice on sources that work on this machine, with names similar to `source` first."""
    cached = cached_models()
    near = near_matches(source, [EMBEDDED, *cached])
    hint = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    also = f"; in the local cache: {', '.join(cached[:8])}" if cached else ""
    return f"{hint}without a network these work: {LOCAL_CHOICES}{also}"


def cached_models() -> list[str]:
    """The hub ids of the models in huggingface_hub's local cache."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)


def folder_identity(folder: Path) -> dict[str, str]:
    """The SHA-256 of every weight file and of config.json, by file name."""
    parts = sorted(part for part in folder.iterdir() if part.suffix in _WEIGHT_SUFFIXES or part.name == "config.json")
    return {part.name: cached_sha256(part) for part in parts}


def cached_sha256(path: Path) -> str:
    """The SHA-256 of a file; the cache folder keeps it as long as path, size and modification time are the same."""
    path = path.resolve()
    status = path.stat()
    key = hash_json([str(path), status.st_size, status.st_mtime_ns])
    note = files.cache_folder() / "models" / "hashes" / f"{key}.json"
    if note.exists():
        try:
            return str(files.read_json(note)["sha256"])
        except (UserError, KeyError, TypeError):
            pass  # damaged: computed anew
    digest = files.sha256(path)
    files.write_json(note, {"path": str(path), "sha256": digest})
    return digest
