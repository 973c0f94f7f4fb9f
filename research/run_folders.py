"""SAEs of finished runs, gathered for a comparison: which there are, and the model and text that they share."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from monosemy.config import RunConfig, fingerprint, to_json
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.run import read_run
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.config_file import read_weights_sha256
from monosemy.saes.storage import load_sae, read_sae_config
from research.records import record_path

FROZEN = "frozen_random"
FREE = frozenset({"sites", "checkpoint_tokens", "log_tokens"})
"""Settings of activations and training in which compared runs may differ."""


@dataclass(frozen=True)
class Entry:
    """One saved SAE. kind: its architecture, or `frozen_random` for that control."""

    folder: Path
    kind: str
    site: str
    name: str
    _: KW_ONLY
    l0: float
    seed: int
    d_sae: int

    def load(self) -> SparseAutoencoder:
        return load_sae(self.folder)


def arguments(study: str, description: str | None) -> argparse.ArgumentParser:
    """The flags that all comparisons of trained SAEs have, the record in the study's folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of one model and text")
    parser.add_argument("--site", help="default: the site with the most SAEs of the asked L0")
    parser.add_argument("--l0", type=float, default=32)
    parser.add_argument("--out", type=Path, default=record_path(study), help="the record")
    parser.add_argument("--figures", type=Path, help="folder for the figure; without it none is drawn")
    return parser


def gather(folders: Sequence[Path], site: str | None, l0: float) -> list[Entry]:
    """Every SAE of the asked L0 at one site, by kind and seed; of several alike, the first.

    Raises UserError when there is none, or the runs were trained on other terms.
    """
    shared_config(folders)
    entries: dict[tuple[str, str, int], Entry] = {}
    for folder in folders:
        for where, name, path in ((sae.site, sae.name, sae.folder) for sae in RunFiles(folder).saes()):
            config = read_sae_config(path)
            if config.l0 == l0 and site in (None, where):
                kind = FROZEN if config.frozen_decoder else config.architecture
                entry = Entry(path, kind, where, name, l0=config.l0, seed=config.seed, d_sae=config.d_sae)
                entries.setdefault((where, kind, config.seed), entry)
    if not entries:
        raise UserError(f"no SAE of L0 {l0:g}{f' at {site}' if site else ''} in {', '.join(map(str, folders))}")
    chosen_site = site or Counter(where for where, _, _ in entries).most_common(1)[0][0]
    return [entry for (where, _, _), entry in sorted(entries.items()) if where == chosen_site]


def shared_config(folders: Sequence[Path]) -> RunConfig:
    """The configuration of the first run. Raises UserError when another differs in what makes SAEs comparable."""
    configs = [read_run(folder)[0] for folder in folders]
    first = comparable(configs[0])
    for folder, config in zip(folders, configs):
        for name, value in comparable(config).items():
            if value != first[name]:
                raise UserError(f"{folder} has another {name} than {folders[0]}; compare runs that differ in none")
    return configs[0]


def comparable(config: RunConfig) -> dict[str, object]:
    """What runs must share for their SAEs to be compared: all that bears on training, except what tells SAEs apart.

    As plain values, for result files.
    """
    settings = to_json(config)
    shared = {name: settings[name] for name in ("model", "text", "d_sae", "options")}
    for section in ("activations", "training"):
        shared |= {f"{section}.{name}": value for name, value in settings[section].items() if name not in FREE}
    return shared


def provenance(folders: Sequence[Path], entries: Sequence[Entry]) -> dict[str, object]:
    """What the compared SAEs are, for a result file."""
    config = shared_config(folders)
    return {
        "model": read_run(folders[0])[1].get("model", {}).get("name"),
        "site": entries[0].site,
        "l0": entries[0].l0,
        "d_sae": sorted({entry.d_sae for entry in entries}),
        "training_tokens": config.text.n_tokens,
        "passes": config.training.n_passes,
        "batch_tokens": config.training.batch_tokens,
        "text": config.text.source,
        "settings": comparable(config),
        "seeds": {kind: [e.seed for e in entries if e.kind == kind] for kind in dict.fromkeys(e.kind for e in entries)},
    }


def identity(entries: Sequence[Entry], **settings: object) -> str:
    """A name for cached work on these SAEs with these settings. It holds the hash of the weights, which loading checks:
    a SAE trained anew has another name, even where its configuration is the same."""
    saes = [[to_json(read_sae_config(entry.folder)), read_weights_sha256(entry.folder)] for entry in entries]
    return fingerprint([saes, [[entry.site, entry.name] for entry in entries], settings])


def run(main: Callable[[], None]) -> None:
    """Runs a script; bad input ends it with one line and status 2, as in `monosemy`."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
