"""Where the studies of a run's pairs are stored: the only place that spells out the names of their files.

Place on the path: used by everything that measures, shows and reports on pairs. study_file.py reads the JSON files,
resamples.py the draws. All files are in RUN/jacobian:

    frontier.json            every pair: variance explained, CE score, sparsity, linearity, ablation
    <pair>/measures.json     one pair's measures; draws.safetensors beside it: the same on every resample
    <pair>/pairs.json        max-activating pairs with contexts, as chosen where the user names no latents
    random/<kind>-<hash>/    a whole run on a randomised model; random.json in RUN/jacobian: the comparison
    interpretability.json    label scores of the latents of one pair and of the pair without penalty
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monosemy.layout import RunFiles


@dataclass(frozen=True)
class StudyFiles:
    """The files of the studies in `folder`."""

    folder: Path

    @staticmethod
    def of_run(run: Path) -> StudyFiles:
        """The files of the studies of a run."""
        return StudyFiles(RunFiles(run).folder / "jacobian")

    @property
    def frontier(self) -> Path:
        return self.folder / "frontier.json"

    @property
    def random(self) -> Path:
        return self.folder / "random.json"

    @property
    def interpretability(self) -> Path:
        return self.folder / "interpretability.json"

    def random_run(self, name: str) -> Path:
        """The folder of a run on a randomised model."""
        return self.folder / "random" / name

    def pair(self, name: str) -> PairFiles:
        return PairFiles(self.folder / name)


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair."""

    folder: Path

    @property
    def measures(self) -> Path:
        return self.folder / "measures.json"

    @property
    def draws(self) -> Path:
        return self.folder / "draws.safetensors"

    @property
    def pairs(self) -> Path:
        return self.folder / "pairs.json"
