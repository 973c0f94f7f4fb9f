"""A run to look at: its settings, its SAEs and its evaluation, for Python and notebooks.

Place on the data's path: run folder → [FinishedRun] → people. Nothing is written and no lock is taken, so a run can be
looked at while it is trained. `run.open_run` opens a run for writing.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.errors import UserError
from monosemy.run import read_run
from monosemy.saes.listing import SavedSae, choose_sae, saved_saes
from monosemy.support.notebook import facts_html, facts_line
from monosemy.support.numbers import count_text, setting_text

if TYPE_CHECKING:
    import pandas

    from monosemy.features.view.features import Features
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.steering.edits import LatentScales


class FinishedRun:
    """A run folder, read. `config` and `provenance` are those of its run.json."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError when the folder holds no run."""
        self.folder = folder
        self.config, self.provenance = read_run(folder)

    @property
    def saes(self) -> dict[str, SavedSae]:
        """The saved SAEs by `SITE/NAME`, controls after the others; `load` opens one."""
        return {sae.label: sae for sae in saved_saes(self.folder)}

    def load(self, label: str | None = None, *, device: str = "cpu") -> SparseAutoencoder:
        """Loads the SAE named `SITE/NAME`, or NAME alone; the default one where none is named (`saes.listing`)."""
        from monosemy.saes.storage import load_sae

        return load_sae(choose_sae(self.folder, label).folder, device=device)

    def load_model(self) -> LanguageModel:
        """Loads the run's language model. Raises UserError where it is gone, and for a run of rows, which has none."""
        from monosemy.models.of_run import load_run_model

        return load_run_model(self.folder, self.config, self.provenance)

    def features(self, label: str | None = None) -> Features:
        """What the latents of an SAE respond to; of the first SAE that has features where none is named.

        Raises UserError, with the command that builds them, where there are none.
        """
        from monosemy.features.store.database import open_features
        from monosemy.features.view.features import Features

        key = choose_sae(self.folder, label).key if label else (None, None)
        return Features(open_features(self.folder, *key))

    def scales(self, label: str | None = None) -> LatentScales:
        """What the units `max` and `norm` of a steering strength refer to, for the SAE that `load` opens."""
        from monosemy.steering.edits import read_scales

        sae = choose_sae(self.folder, label)
        return read_scales(sae.folder, self.load(sae.label))

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The evaluation as it is saved: a record per SAE and control. Raises UserError where it is missing."""
        from monosemy.evals.evaluation_file import read_evaluation

        return read_evaluation(self.folder)["records"]

    @property
    def evaluation(self) -> pandas.DataFrame:
        """The evaluation as a DataFrame: a line per SAE and control, the ends of intervals in columns of their own.

        `fvu_interval` becomes `fvu_low` and `fvu_high`. Raises UserError without pandas; `records` needs nothing.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                "run.evaluation is a pandas DataFrame, and pandas is not installed: pip install pandas, or use "
                "run.records, which are plain dictionaries"
            ) from None
        return pandas.DataFrame([_flat(record) for record in self.records])

    def _facts(self) -> dict[str, str]:
        rows = self.provenance.get("rows")
        saes = [sae for sae in saved_saes(self.folder) if not sae.control]
        n_imported = sum(bool(sae.imported) for sae in saes)
        facts = {
            "rows" if rows else "model": str(rows["name"]) if rows else self.config.model.source,
            "SAEs": count_text(len(saes)) + (f" ({count_text(n_imported)} imported)" if n_imported else ""),
            "architectures": ", ".join(self.config.architectures),
            "L0": ", ".join(setting_text(l0) for l0 in self.config.l0),
            "d_sae": count_text(self.config.d_sae),
        }
        # A run of imported SAEs alone was asked for no architectures and L0s.
        return {name: text for name, text in facts.items() if text}

    def __repr__(self) -> str:
        return facts_line(f"Run {self.folder}", self._facts())

    def _repr_html_(self) -> str:
        return facts_html(f"Run {self.folder}", self._facts())


def open_run(folder: str | Path) -> FinishedRun:
    """Opens a run folder to look at: `open_run("runs/demo").evaluation`. Raises UserError when it holds no run."""
    return FinishedRun(Path(folder).expanduser())


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the ends of its intervals, and its quantiles, under names of their own."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if name.endswith("_interval"):
            quantity = name.removesuffix("_interval")
            flat[f"{quantity}_low"], flat[f"{quantity}_high"] = value or (None, None)
        elif isinstance(value, dict):
            flat |= {f"{name}_{key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat
