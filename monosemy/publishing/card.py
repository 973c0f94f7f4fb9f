"""The card of a published SAE: the README.md that the hub shows, with what it is, how good it is, and how to open it.

Place on the path: an SAE's configuration and its record of evaluation.json → [README.md]. Numbers come with their
interval and the tokens behind them; where nothing was measured, the card says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.saes.base import SaeConfig
from monosemy.saes.listing import FIRST_LOOK
from monosemy.saes.registry import ARCHITECTURES
from monosemy.saes.transforms import NO_TRANSFORMS
from monosemy.support.numbers import count_text, interval_text, setting_text
from monosemy.support.visible import visible

_MEASURES = (
    ("l0", "L0 (active latents per token)"),
    ("fvu", "FVU (unexplained share of the variance)"),
    ("delta_loss", "Δ loss when spliced into the model (nats per token)"),
    ("loss_recovered", "loss recovered"),
    ("dead_fraction", "dead latents (share)"),
)


def measures_of(folder: Path) -> Mapping[str, Any]:
    """The record of the SAE in a run's folder `saes/SITE/NAME`; empty when the run was not evaluated."""
    site, name = folder.parent.name, folder.name
    try:
        records = read_evaluation(folder.parents[2])["records"]
    except (UserError, KeyError):
        return {}
    return next((record for record in records if (record.get("site"), record.get("name")) == (site, name)), {})


def card_text(
    config: SaeConfig, repository: str, path: str, *, licence: str, layout: str, measures: Mapping[str, Any]
) -> str:
    """The card of an SAE at `path` of a repository, written in `layout`; `measures` is its record, or empty."""
    entry = ARCHITECTURES.get(config.architecture)
    label = entry.label if entry else config.architecture
    head = [
        "---",
        f"license: {licence}",
        *([f"base_model: {json.dumps(config.model)}"] if "/" in config.model else []),
        "tags:",
        "- sparse-autoencoder",
        "- interpretability",
        *(["library_name: saelens"] if layout == "sae-lens" else []),
        "---",
        "",
    ]
    what = "transcoder" if config.transforms.transcoder else "sparse autoencoder"
    facts = [
        f"# A {what} of {config.model or 'a model that its files do not name'}",
        "",
        "| | |",
        "| --- | --- |",
        f"| model | {config.model or 'not said'} |",
        f"| site | `{config.site or 'not said'}` |",
        *([f"| output | `{config.site_out}` |"] if config.site_out else []),
        f"| architecture | {label} |",
        f"| latents | {count_text(config.d_sae)}, of an input of width {count_text(config.d_in)} |",
        *([f"| target L0 | {setting_text(config.l0)} |"] if config.l0 else []),
        *_origin(config),
        f"| licence of the weights | {licence}; the model's own licence may ask for more |",
        "",
    ]
    # Names come from strangers' files: no line break may end a line of the table.
    lines = [*head, *(visible(line) for line in facts), *_measured(measures), *_loading(repository, path, layout)]
    return "\n".join(lines)


def _origin(config: SaeConfig) -> list[str]:
    origin = config.record.get("origin", {})
    rows = []
    if origin:
        # A local path is its owner's business.
        source = f"{origin['path']}, " if origin.get("repository") else ""
        rows.append(f"| converted from | {source}{origin['layout']}'s layout |")
    if config.transforms != NO_TRANSFORMS:
        plain = {
            "subtract_b_dec": "b_dec not subtracted from the input",
            "transcoder": "",
            "merge_heads": "heads merged",
        }
        steps = [
            plain.get(name, f"{name} {value if not isinstance(value, float) else setting_text(value)}")
            for name, value in vars(config.transforms).items()
            if value != getattr(NO_TRANSFORMS, name)
        ]
        rows.append(f"| around the encoder | {', '.join(filter(None, steps)) or 'nothing'} |")
    if config.record.get("first_look"):
        rows.append(f"| training | {FIRST_LOOK} |")
    if n_tokens := config.record.get("n_tokens"):
        rows.append(f"| training tokens | {count_text(n_tokens)} |")
    return rows


def _measured(measures: Mapping[str, Any]) -> list[str]:
    if not measures:
        return ["Its quality was not measured with monosemy.", ""]
    n_tokens = measures.get("n_tokens")
    lines = [
        f"Measured on {count_text(n_tokens) if n_tokens else 'an unknown number of'} held-out tokens of "
        f"{measures.get('n_documents', 'several')} documents, with 95% intervals over documents:",
        "",
        "| | |",
        "| --- | --- |",
    ]
    for name, heading in _MEASURES:
        value, interval = measures.get(name), measures.get(f"{name}_interval") or (float("nan"), float("nan"))
        if value is not None:
            lines.append(f"| {heading} | {interval_text(value, interval[0], interval[1])} |")
    return [*lines, ""]


def _loading(repository: str, path: str, layout: str) -> list[str]:
    """How to open it in monosemy, in the layout's own library, and with safetensors alone."""
    lines = ["## Open it", "", "With monosemy:", "", "```python", "from monosemy import load_sae", ""]
    lines += [
        f'sae = load_sae("{repository}/{path}")',
        "latents = sae.encode(activations)  # [tokens, width]",
        "```",
        "",
    ]
    fetch = f'    snapshot_download("{repository}", allow_patterns="{path}/*")'
    own = {
        "sae-lens": (
            "sae-lens 6",
            ["from sae_lens import SAE", "", f'sae = SAE.from_pretrained("{repository}", "{path}")'],
        ),
        "sparsify": (
            "sparsify",
            ["from sparsify import SparseCoder", "", f'sae = SparseCoder.load_from_hub("{repository}", "{path}")'],
        ),
        "dictionary-learning": (
            "dictionary_learning",
            [
                "from dictionary_learning.utils import load_dictionary",
                "from huggingface_hub import snapshot_download",
                "",
                f'folder = snapshot_download("{repository}", allow_patterns="{path}/*")',
                f'sae, config = load_dictionary(f"{{folder}}/{path}", "cpu")',
            ],
        ),
    }
    if layout in own:
        library, code = own[layout]
        lines += [f"With {library}:", "", "```python", *code, "```", ""]
    if layout == "dictionary-learning":
        read = [f'tensors = torch.load(f"{{folder}}/{path}/ae.pt", weights_only=True)']
        imports = ["import torch", "from huggingface_hub import snapshot_download", ""]
    else:
        read = [f'files = sorted(Path(folder, "{path}").glob("*.safetensors"))', "tensors = load_file(files[0])"]
        imports = [
            "from pathlib import Path",
            "",
            "from huggingface_hub import snapshot_download",
            "from safetensors.torch import load_file",
            "",
        ]
    download = f"folder = {fetch.strip()}"
    lines += ["The bare tensors, without either:", "", "```python", *imports, download, *read, "```", ""]
    return lines
