"""Families of published SAEs: where they are, what they read, and what is known of them.

Place on the path: `families.toml` → [families, searched] → `monosemy catalogue`. A family is what one publisher made in
one layout. Its `repository` and `path` are patterns, in which {layer} and the like stand for what differs between the
SAEs; with these filled in, `repository/path` is a name that `load_sae` opens. An empty field is a fact that is not
known here, and is said to be so: an SAE's own files tell widths and L0s, and its repository on the hub the licence. The
head of `families.toml` names the sources and their date.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from monosemy.errors import unknown

READ_ON = "2026-11-30"
"""When the sources were read."""
SOURCES: Mapping[str, str] = {
    "registry": "sae-lens 6.54.12's registry and loaders",
    "table": "SAELens' sae_table.md (3da4cee)",
    "sparsify": "sparsify's README (1b5c649)",
    "tracer": "circuit-tracer's README (061f78b)",
    "card": "model cards on the hub",
    "users": "several users' code that opens them",
}
"""What the facts were read in."""
_FILES: Mapping[str, tuple[str, ...]] = {
    "SAELens": ("cfg.json", "sae_weights.safetensors"),
    "Gemma Scope": ("params.npz",),
    "Gemma Scope 2": ("config.json", "params.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("ae.pt", "config.json"),
    "Llama Scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "circuit-tracer": (),
    "torch file": (),
}
_INPUTS: Mapping[str, str] = {
    "SAELens": "as cfg.json says",
    "Gemma Scope": "none; b_dec is not subtracted",
    "Gemma Scope 2": "none; b_dec is not subtracted",
    "sparsify": "b_dec is subtracted, except in transcoders",
    "dictionary_learning": "b_dec is subtracted, except in JumpReLU and AutoEncoderNew",
    "circuit-tracer": "none; b_dec is not subtracted",
    "torch file": "none; b_dec is not subtracted",
}
_VARIANT = re.compile(r"[-_](deduped|pt|base|hf|small|v\d+(\.\d+)?)$")


@dataclass(frozen=True)
class Family:
    """Published SAEs of one publisher in one layout."""

    name: str
    """The word that `monosemy catalogue` knows it by."""
    _: KW_ONLY
    title: str
    repository: str
    """The repository on the hub, or a pattern of several."""
    path: str
    """Pattern of an SAE's folder or file within a repository."""
    models: tuple[str, ...]
    """The models' names on the hub, in the order in which other fields go through them."""
    sites: str
    sources: tuple[str, ...]
    """Where these facts were read, keys of `SOURCES`."""
    layout: str = ""
    """The name of its layout in `saes.formats.LAYOUTS`; empty for one that is not read here."""
    example: Mapping[str, str] = field(default_factory=dict)
    """Values of the patterns that make the name of an SAE that a source names."""
    layers: str = ""
    widths: str = ""
    l0s: str = ""
    input_transform: str = ""
    """What is done to an activation before it is encoded, where it is not what its layout does."""
    licence: str = ""
    neuronpedia: str = ""
    """Pattern of the id on Neuronpedia, of those that are there."""
    neuronpedia_example: str = ""
    note: str = ""
    options: str = ""
    """What a command has to be told, since the files do not name it: model or site."""
    registered: int = 0
    """How many of them sae-lens's registry names."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of an SAE, in its folder; none where the path is itself a file."""
        return _FILES.get(self.layout, ())

    @property
    def words(self) -> tuple[str, ...]:
        """What it is looked up by."""
        return (self.name, *self.models)

    @property
    def input(self) -> str:
        """What is done to an activation before it is encoded."""
        return self.input_transform or _INPUTS.get(self.layout, "")

    @property
    def example_name(self) -> str:
        """The patterns filled in: a name as `load_sae` takes it."""
        return re.sub(r"\{(\w+)\}", lambda match: self.example[match[1]], f"{self.repository}/{self.path}")


@cache
def all_families() -> tuple[Family, ...]:
    """Every family, as `families.toml` has them."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    entries: list[dict[str, Any]] = [
        {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
        for entry in table["family"]
    ]
    return tuple(Family(**entry) for entry in entries)


def families(name: str) -> tuple[Family, ...]:
    """The families of this name or model; else those whose name or model begins with it; else those that mention it.

    Case, punctuation and publisher do not count, nor whether a model is called base, pretrained, deduplicated or by a
    version: gpt2, gpt2-small and openai-community/gpt2 are one. Raises UserError, with similar names, for none.
    """
    key = _key(name)
    keys = [(family, {_key(word) for word in family.words}) for family in all_families()]
    ways = (
        [family for family, words in keys if key in words],
        [family for family, words in keys if any(word.startswith(key) for word in words)],
        [family for family, _ in keys if key in _mentions(family)],
    )
    if key and any(ways):
        return tuple(next(filter(None, ways)))
    choices = {word.rpartition("/")[2] for family in all_families() for word in family.words}
    raise unknown("family or model", name, sorted(choices, key=str.lower))


def _key(name: str) -> str:
    """A name without what people write differently."""
    word = name.strip().lower().rpartition("/")[2].removeprefix("meta-").replace("-instruct", "-it")
    return re.sub(r"[^a-z0-9]", "", _VARIANT.sub("", word))


def _mentions(family: Family) -> str:
    """What is said of a family, in one text and without punctuation."""
    words = (family.name, family.title, family.layout, family.repository, family.sites)
    return " ".join(re.sub(r"[^a-z0-9]", "", word.lower()) for word in words)
