"""Families of published SAEs: where they are, what they read, and what is known of them.

Place on the path: beneath `monosemy catalogue`. A family is what one publisher made in one layout. Its `path` is a
pattern, in which {layer} and the like stand for what differs between the SAEs; with these filled in, `repository/path`
is a name that `load_sae` opens. An empty field is a fact that is not known here, and is said to be so: an SAE's own
files tell widths and L0s, and its repository on the hub the licence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from monosemy.errors import unknown

UNKNOWN_REPOSITORY = "OWNER/REPOSITORY"
"""Stands for the repository of a family whose repositories are not known here."""


@dataclass(frozen=True)
class Family:
    """Published SAEs of one publisher in one layout."""

    name: str
    """The word that `monosemy catalogue` knows it by."""
    _: KW_ONLY
    title: str
    layout: str
    """The name of its layout in `saes.formats.LAYOUTS`."""
    path: str
    """Pattern of an SAE's folder or file within a repository."""
    files: tuple[str, ...]
    """The files of an SAE, in its folder; none where the path is itself a file."""
    repository: str = UNKNOWN_REPOSITORY
    """The repository on the hub, or a pattern of it."""
    example: Mapping[str, str] = field(default_factory=dict)
    """Values of the patterns that make the name of one SAE."""
    exists: bool = False
    """Whether the SAE of the example is known to exist, or only shows the form of a name."""
    models: tuple[str, ...] = ()
    sites: str = ""
    widths: str = ""
    l0s: str = ""
    input_transform: str = ""
    """What is done to an activation before it is encoded, where it is not taken as it is."""
    licence: str = ""
    neuronpedia: str = "{model}/{layer}-{set}, where it is there; its set is not known here"
    """Pattern of the id on Neuronpedia."""
    registered: str = ""
    """How many SAEs sae-lens's registry names, and as what."""

    @property
    def words(self) -> tuple[str, ...]:
        """What it is looked up by."""
        return (self.name, *self.models)

    @property
    def pattern(self) -> str:
        """`repository/path`, with its patterns."""
        return f"{self.repository}/{self.path}"

    @property
    def example_name(self) -> str:
        """The pattern filled in: a name as `load_sae` takes it."""
        return re.sub(r"\{(\w+)\}", lambda match: self.example[match[1]], self.pattern)


FAMILIES = (
    Family(
        "gemma-scope",
        title="Gemma Scope",
        layout="Gemma Scope",
        path="layer_{layer}/width_{width}/average_l0_{l0}",
        files=("params.npz",),
        repository="google/gemma-scope-2b-pt-res",
        example={"layer": "12", "width": "16k", "l0": "82"},
        exists=True,
        models=("gemma-2-2b",),
        sites="resid_post; in sibling repositories also attn_heads, embedding, mlp_in → mlp_out",
        widths="16k, perhaps others",
        l0s="in the path",
        input_transform="none, b_dec is not subtracted; of the embedding × √d",
        registered="2,833 as gemma_2",
    ),
    Family(
        "gemma-scope-2",
        title="Gemma Scope 2",
        layout="Gemma Scope 2",
        path="{folder}",
        files=("config.json", "params.safetensors"),
        example={"folder": "FOLDER"},
        models=("gemma-3",),
        sites="residual stream, MLP, attention; transcoders, cross-layer transcoders, crosscoders",
        widths="in config.json",
        l0s="in config.json",
        input_transform="none, b_dec is not subtracted",
        registered="8,784 as gemma_3",
    ),
    Family(
        "sae-lens",
        title="SAELens folders, gpt2-small-res-jb among them",
        layout="SAELens",
        path="{folder}",
        files=("cfg.json", "sae_weights.safetensors"),
        example={"folder": "FOLDER"},
        models=("gpt2-small",),
        sites="any; cfg.json names it (hook_name)",
        widths="in cfg.json",
        l0s="k in cfg.json for TopK",
        input_transform="cfg.json names it; residual streams of gpt2-small-res-jb with their mean subtracted",
        registered="292 as sae_lens",
    ),
    Family(
        "sparsify",
        title="EleutherAI sparsify",
        layout="sparsify",
        path="{hookpoint}",
        files=("cfg.json", "sae.safetensors"),
        example={"hookpoint": "layers.12"},
        sites="the folder's name; also transcoders",
        widths="in cfg.json",
        l0s="k in cfg.json",
        input_transform="b_dec is subtracted, except in transcoders",
    ),
    Family(
        "dictionary-learning",
        title="dictionary_learning",
        layout="dictionary_learning",
        path="{folder}/trainer_{trainer}",
        files=("ae.pt", "config.json"),
        example={"folder": "FOLDER", "trainer": "0"},
        sites="config.json names layer and model",
        widths="in config.json",
        l0s="k in config.json for TopK and its kin",
        input_transform="b_dec is subtracted, except in JumpReLU and AutoEncoderNew",
        registered="838 as dictionary_learning",
    ),
    Family(
        "openai",
        title="OpenAI sparse_autoencoder",
        layout="torch file",
        path="{file}.pt",
        files=(),
        example={"file": "FILE"},
        l0s="k in the file for TopK",
        input_transform="b_dec is subtracted; with TopK each row is normalised before",
    ),
    Family(
        "llama-scope",
        title="Llama Scope",
        layout="Llama Scope",
        path="{folder}",
        files=("hyperparams.json", "checkpoints/final.safetensors"),
        example={"folder": "FOLDER"},
        sites="hyperparams.json names it",
        input_transform="× √d / average norm of the dataset",
    ),
    Family(
        "qwen-scope",
        title="Qwen Scope",
        layout="torch file",
        path="layer{layer}.sae.pt",
        files=(),
        repository="Qwen/SAE-Res-{model}-W{width}K-L0_{l0}",
        example={"model": "MODEL", "layer": "12", "width": "64", "l0": "50"},
        sites="resid_post",
        widths="64k, perhaps others; in the repository's name",
        l0s="50, perhaps others; in the repository's name",
        input_transform="none, b_dec is not subtracted",
        registered="544 as qwen_scope",
    ),
    Family(
        "goodfire",
        title="Goodfire",
        layout="torch file",
        path="{file}.pth",
        files=(),
        example={"file": "FILE"},
        input_transform="none",
    ),
    Family(
        "circuit-tracer",
        title="circuit-tracer's transcoder sets",
        layout="circuit-tracer",
        path="layer_{layer}.safetensors",
        files=(),
        example={"layer": "12"},
        sites="every layer; config.yaml names input and output, e.g. mlp_in → mlp_out",
        widths="one in a set",
        l0s="k in config.yaml for TopK",
        input_transform="none, b_dec is not subtracted",
        registered="208 transcoders",
    ),
    Family(
        "circuit-tracer-clt",
        title="circuit-tracer's cross-layer transcoders",
        layout="circuit-tracer",
        path="W_enc_{layer}.safetensors",
        files=(),
        example={"layer": "12"},
        sites="from each layer to all later ones",
        input_transform="none, b_dec is not subtracted",
    ),
)


def families(name: str) -> tuple[Family, ...]:
    """The families of this name, or of this model; else those whose name or model begins with it.

    Raises UserError, with similar names, when there is none.
    """
    word = name.rpartition("/")[2].lower()
    exact = tuple(family for family in FAMILIES if word in family.words)
    beginning = tuple(f for f in FAMILIES if any(full_name.startswith(word) for full_name in f.words))
    if not word or not beginning:
        raise unknown("family or model", name, [full_name for family in FAMILIES for full_name in family.words])
    return exact or beginning
