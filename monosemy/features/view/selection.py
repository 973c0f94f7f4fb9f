"""Parses the words that `show` and the exports share: which SAE's features, which latents, which output folder.

Place on the data's path: between the command line and the feature database. Nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.features.store.database import FeatureDatabase, list_features, open_features
from monosemy.run import read_run
from monosemy.saes.listing import choose_sae, saved_saes
from monosemy.support import files
from monosemy.support.wording import sites_text

_SITE = re.compile(r"layers\.(\d+)\.(.+)")
_HOOKS = {
    "resid_pre": ("hook_resid_pre", "res-pre"),
    "resid_mid": ("hook_resid_mid", "res-mid"),
    "resid_post": ("hook_resid_post", "res"),
    "attn_heads": ("attn.hook_z", "att"),
    "attn_out": ("hook_attn_out", "att-out"),
    "attn_out_post": ("hook_attn_out", "att-out"),
    "mlp_in": ("mlp.hook_in", "mlp-in"),
    "mlp_out": ("hook_mlp_out", "mlp"),
    "mlp_out_post": ("hook_mlp_out", "mlp"),
}
_BEFORE_POST_NORM = {"attn_out": "attn.hook_out", "mlp_out": "mlp.hook_out"}
"""Names for models with a norm behind each sublayer: there, TransformerLens' block-level names mean the output of that
norm, so what comes before it has another name."""


@dataclass(frozen=True)
class Place:
    """The place an SAE reads: its layer, TransformerLens' hook name, and the short name used for sets of SAEs."""

    layer: int
    hook: str
    short: str


def place_of(site: str, *, post_norms: bool = False) -> Place:
    """The place of a site: `layers.12.resid_post` → layer 12, `blocks.12.hook_resid_post`, `res`.

    `post_norms` says whether a norm follows the model's sublayers. Raises UserError for a site without a layer number.
    """
    match = _SITE.fullmatch(site)
    if not match:
        raise UserError(f"site {site!r} has no layer number; exports need a site such as layers.12.resid_post")
    layer, kind = int(match[1]), match[2]
    hook, short = _HOOKS.get(kind, (f"hook_{kind}", kind.replace("_", "-")))
    if post_norms:
        hook = _BEFORE_POST_NORM.get(kind, hook)
    return Place(layer, f"blocks.{layer}.{hook}", short)


def require_text(info: Mapping[str, Any], subject: str) -> None:
    """Raises UserError for a database of rows that stand in no text; `subject` is what needs one."""
    if info.get("unit") == "rows":
        raise UserError(
            f"{subject} needs tokens of a text, and this run is on rows; show, browse, export-html and export-parquet "
            "work on rows"
        )


def open_selected(run: Path, sae: str | None) -> FeatureDatabase:
    """Opens the feature database of `sae` (`SITE/NAME`, or just the name if it is unique), or the only one built.

    Raises UserError when the run or the SAE has no features (with the command that builds them), when `sae` is unknown
    or its training stopped early, and when there are several databases and none is named.
    """
    read_run(run)
    features = list_features(run)
    saes = [saved for saved in saved_saes(run) if saved.key in features]
    # unlike `open_features`, which takes the first of several databases, a command asks which one is meant
    if sae is None:
        usable = [saved for saved in saes if not saved.stopped]
        if len(usable) > 1:
            flags = " or ".join(f"--sae {saved.label}{saved.remark}" for saved in usable)
            raise UserError(f"{run} has features of {len(usable)} SAEs; choose one: {flags}")
        if not usable:
            if saved_saes(run):
                choose_sae(run)  # refuses a run of which every SAE stopped early
            raise UserError(f"{run} has no features yet; build them: monosemy features {run}")
        return open_features(run, *usable[0].key)
    matches = [saved for saved in saes if sae in (saved.label, saved.name)]
    if len(matches) > 1:
        sites = sites_text(saved.site for saved in matches)
        raise UserError(f"SAE name {sae!r} is at several sites: {sites}; choose one, e.g. --sae {matches[0].label}")
    return open_features(run, *(matches[0] if matches else choose_sae(run, sae)).key)


def parse_latents(words: Sequence[str], database: FeatureDatabase) -> list[int]:
    """The latents that words name, in the given order, each once: `["3", "17,20", "30-32"]` → [3, 17, 20, 30, 31, 32].

    Raises UserError for a word that is not a number or range, and for a latent that the SAE does not have.
    """
    # both ends are checked before the range is made: a huge last number must not make a huge list
    latents: dict[int, None] = {}
    for part in (part for word in words for part in word.split(",") if part):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            raise UserError(f"latent {part!r} is no number; give numbers or ranges, e.g. 12 40-45")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"range {part!r} runs backwards; write {last}-{first}")
        latents.update(dict.fromkeys(range(database.check(first), database.check(last) + 1)))
    return list(latents)


def new_folder(path: Path) -> Path:
    """`path` itself, if it is missing or an empty folder, so that an export overwrites nothing.

    Raises UserError otherwise, or when it cannot be written to.
    """
    path = path.expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file; give a new folder")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"--out {path} is not empty; give a new folder, or delete that one first")
    files.require_writable(path, "--out", folder=True)
    return path
