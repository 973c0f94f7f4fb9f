"""`monosemy export` and `monosemy push`: an SAE in other libraries' layouts, in a folder or on the hub.

Place on the path: an SAE (of a run, a folder, or the hub) → [files of the layout, and a card] → a folder → the hub.
What a layout cannot hold, and what was folded into the weights, is said before anything is written.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.support.arguments import Parser

if TYPE_CHECKING:
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.saes.formats.exported import Exported

LAYOUTS = ("sae-lens", "sparsify", "dictionary-learning", "gemma-scope-2", "circuit-tracer")
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def run_export(words: list[str]) -> None:
    """`monosemy export SAE FOLDER [--layout NAME] [--dry-run]`: writes an SAE in another library's layout."""
    parser = _parser(
        "monosemy export",
        "write an SAE as sae-lens and other libraries read it",
        "monosemy export runs/demo exports/demo",
        "monosemy export google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 exports/gemma-20",
    )
    parser.add_argument("folder", help="The folder to write, e.g. exports/demo.")
    parser.add_argument("--dry-run", action="store_true", help="Say what would be written, and write nothing.")
    options = parser.parse_args(words)
    from monosemy.saes.formats.exported import write_exported

    if RunFiles(Path(options.folder)).run_json.is_file():
        raise UserError(
            f"{options.folder} is a run, which an export would be mixed with; give another folder, e.g. "
            f"exports/{Path(options.folder).name}"
        )
    notes: set[str] = set()
    for sae in _every_layer(options) or [_open(options)[0]]:
        exported = _announced(sae, options, notes)
        target = Path(options.folder).expanduser() / exported.folder
        if options.dry_run:
            print(f"would write {target}: {', '.join([*exported.settings, *exported.tensors])}")
        else:
            place = write_exported(exported, Path(options.folder))
            print(f"written: {place} ({sae!r})")


def run_push(words: list[str]) -> None:
    """`monosemy push SAE OWNER/NAME --licence NAME [--dry-run]`: writes folder and card, and uploads both."""
    parser = _parser(
        "monosemy push",
        "put an SAE on the Hugging Face hub, with a card",
        "monosemy push runs/demo me/smollm-saes --licence apache-2.0 --dry-run",
    )
    parser.add_argument("repository", help="The repository on the hub, e.g. me/smollm-saes; made if it does not exist.")
    parser.add_argument(
        "--licence", required=True, metavar="NAME", help="The licence of the weights, as the hub names it, e.g. mit."
    )
    parser.add_argument("--folder", help="Where to write folder and card. (default: exports/NAME)")
    parser.add_argument("--path", default="", help="The SAE's folder within the repository. (default: its site)")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--dry-run", action="store_true", help="Write the folder and the card only.")
    options = parser.parse_args(words)
    if not _REPOSITORY.fullmatch(options.repository):
        raise UserError(f"{options.repository!r} is no repository on the hub; it should be like owner/name")
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", options.licence):
        raise UserError(
            f"--licence {options.licence!r} is no name of a licence on the hub; it should be like mit, apache-2.0 or "
            "other"
        )
    sae, run_sae = _open(options)
    exported = _announced(sae, options, set())
    from monosemy.publishing.card import card_text, measures_of
    from monosemy.saes.formats.exported import write_exported
    from monosemy.support.files import write_text

    folder = Path(options.folder or Path("exports") / options.repository.rpartition("/")[2]).expanduser()
    inner = options.path or sae.config.site or "sae"
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", inner) or ".." in inner:
        raise UserError(f"--path {inner!r} is no folder of a repository; use letters, digits, '.', '-', '_' and '/'")
    target = write_exported(exported, folder / inner)
    path = target.relative_to(folder).as_posix()
    measures = measures_of(run_sae) if run_sae else {}
    card = card_text(
        sae.config, options.repository, path, licence=options.licence, layout=options.layout, measures=measures
    )
    write_text(folder / "README.md", card)
    print(f"written: {folder}")
    if not options.dry_run:
        print(f"uploaded: {_upload(folder, options.repository, private=options.private)}")


def _parser(prog: str, summary: str, *examples: str) -> Parser:
    parser = Parser(prog, summary, examples=examples)
    parser.add_argument("source", metavar="sae", help="A run, an SAE's folder or file, or its name on the hub.")
    parser.add_argument(
        "--sae",
        metavar="SITE/NAME",
        help="Which SAE of a run; NAME alone: a circuit-tracer set of all layers. (default: the JumpReLU SAE at the "
        "middle L0)",
    )
    parser.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0], help="Whose layout to write.")
    parser.add_argument(
        "--unit-rows",
        action="store_true",
        help="Make decoder rows of length 1, which SAEBench requires; reconstructions stay.",
    )
    return parser


def _open(options: Namespace) -> tuple[SparseAutoencoder, Path | None]:
    """(the SAE, its folder within a run if it is of one)."""
    from monosemy.saes.listing import choose_sae
    from monosemy.saes.storage import load_sae

    path = Path(options.source).expanduser()
    if path.is_dir() and RunFiles(path).run_json.is_file():
        folder = choose_sae(path, options.sae).folder
        return load_sae(folder), folder
    if options.sae:
        raise UserError(f"--sae chooses among the SAEs of a run, but {options.source!r} is none; leave it out")
    sae = load_sae(options.source)
    folder = path.absolute()
    in_run = path.is_dir() and len(folder.parents) > 2 and RunFiles(folder.parents[2]).run_json.is_file()
    return sae, folder if in_run else None


def _every_layer(options: Namespace) -> list[SparseAutoencoder]:
    """The transcoders of a run with the name that is given without a site, where a layout takes a set of all layers."""
    from monosemy.saes.listing import saved_saes
    from monosemy.saes.storage import load_sae

    path = Path(options.source).expanduser()
    is_set = options.layout == "circuit-tracer" and options.sae and "/" not in options.sae
    if not is_set or not RunFiles(path).run_json.is_file():
        return []
    members = [saved for saved in saved_saes(path) if saved.name == options.sae and not saved.stopped]
    return [load_sae(saved.folder) for saved in members] if len(members) > 1 else []


def _announced(sae: SparseAutoencoder, options: Namespace, printed: set[str]) -> Exported:
    """The files in the layout, after its notes have been printed, except those that were `printed` before."""
    from monosemy.saes.formats import export
    from monosemy.saes.listing import FIRST_LOOK

    exported = export(sae, options.layout, unit_rows=options.unit_rows)
    first_look = [FIRST_LOOK] if sae.config.record.get("first_look") else []
    for note in [*first_look, *exported.notes]:
        if note not in printed:
            print(f"note: {note}", file=sys.stderr)
            printed.add(note)
    return exported


def _upload(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads the folder; returns the commit's address. Raises UserError, one line, when the hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        HfApi().create_repo(repository, private=private or None, exist_ok=True)
        commit = HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Add a sparse autoencoder"
        )
    except LocalTokenNotFoundError as error:
        raise UserError("the hub needs a token to write: log in with `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(
                f"the hub refuses to write to {repository!r}: log in with `hf auth login`, or set HF_TOKEN to a token "
                "that may write there"
            ) from error
        raise UserError(f"the hub does not take {repository!r}: {' '.join(str(error).split())[:200]}") from error
    except Exception as error:  # no connection; its class is that of whichever HTTP library the hub's release uses
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the upload to {repository!r} failed ({reason}); {folder} is written, try again") from error
    return str(commit)
