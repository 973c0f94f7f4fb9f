"""The names of all files and folders of a run; no other module spells them out.

Place on the path: beneath everything that reads or writes a run. No file is opened here; each has one reader and one
writer, in the module that is named beside it (in two, where the reader comes first):

    run.json          configuration and provenance                                      run.py
    stages.json       what is finished                                                  run.py
    run.lock          one writer at a time                                              run.py
    sources.json      where model and text are on this machine                          support/moved.py
    metrics.jsonl     one training record per line                                      support/metrics.py
    wandb.json        the identity of the run in Weights & Biases                       training/viewers.py
    tensorboard/      training as TensorBoard shows it                                  training/viewers.py
    checkpoints/step-<number>/   tensors.safetensors, state.json                        training/checkpoint.py
    first-look/       metrics.jsonl, checkpoints/ of the first SAE, while it trains     pipeline/first_look.py
    checkpoints/rank-<i>-of-<n>/ a process's own step-<number>/ and metrics.jsonl, until the training ends
    activations/rank-<i>/    windows of activations that are trained on now or next     activations/windows.py
    evaluation.json   one record per SAE and control                                    evals/evaluation_file.py
    documents.safetensors   sums per document                                           evals/documents.py
    saes/<site>/<name>/      sae.safetensors                                            saes/formats/own.py
                             sae.safetensors.index.json, sae-<n>-of-<n>.safetensors     saes/slices.py
                             config.json                                                saes/config_file.py
                             latents.safetensors                                        evals/latent_statistics.py
    features/<site>/<name>/  features.json                                              run.py, features/store/write.py
                             features.sqlite, <array>.npy                               features/store
                             explanations.jsonl                                         features/explain/journal.py
        earlier-<hash>/      files about an SAE that another one replaced               features/store/write.py
                             explanations.json                                          features/store/write.py
    features/.work/          codes of the SAEs whose features are being built           features/building/encode_pass.py
    notes.json, .notes.lock  a person's notes on latents                                features/store/notes.py
    recipes/<name>.json      edits of latents worth keeping                             steering/recipe.py
    rows.npy          rows that were given as batches or as a Parquet column            rows/prepare.py
    groups.npy        the group of every row, where rows belong together                rows/prepare.py
    report.html, figures/<name>.png                                                     report
    <room>/                  further files of a room, e.g. its studies, which the room's own layout.py names
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monosemy.errors import UserError

RUN_JSON = "run.json"
_CHECKPOINT = "step-"
_RANK = "rank-"
_EARLIER = "earlier-"
_RECIPE = ".json"


@dataclass(frozen=True)
class RunFiles:
    """The paths of the run's files in `folder`, whether or not they exist."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser())

    @property
    def run_json(self) -> Path:
        return self.folder / RUN_JSON

    @property
    def stages(self) -> Path:
        return self.folder / "stages.json"

    @property
    def lock(self) -> Path:
        return self.folder / "run.lock"

    @property
    def sources(self) -> Path:
        return self.folder / "sources.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb.json"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def rank(self, rank: int, n_ranks: int) -> RankFiles:
        """The files of one of several processes that train the run."""
        return RankFiles(self.checkpoints / f"{_RANK}{rank}-of-{n_ranks}")

    def all_ranks(self) -> list[RankFiles]:
        """The files of every process that has trained a part of the run, whatever their number was."""
        return [RankFiles(folder) for folder in sorted(self.checkpoints.glob(f"{_RANK}*-of-*"))]

    @property
    def first_look(self) -> RunFiles:
        """What the training of the first SAE keeps while it goes on, laid out as in a run."""
        return RunFiles(self.folder / "first-look")

    @property
    def all_windows(self) -> Path:
        """Where all processes keep windows of activations, until the training ends."""
        return self.folder / "activations"

    def windows(self, rank: int) -> Path:
        """Where one of the processes keeps them."""
        return self.all_windows / f"{_RANK}{rank}"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def documents(self) -> Path:
        return self.folder / "documents.safetensors"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.npy"

    @property
    def groups(self) -> Path:
        return self.folder / "groups.npy"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def figure(self, name: str) -> Path:
        return self.folder / "figures" / f"{name}.png"

    @property
    def notes(self) -> Path:
        return self.folder / "notes.json"

    @property
    def notes_lock(self) -> Path:
        return self.folder / ".notes.lock"

    def recipe(self, name: str) -> Path:
        """The file of a steering recipe. Raises UserError for a name that cannot be a file's."""
        _check_name("recipe", name, "file")
        return self.folder / "recipes" / (name + _RECIPE)

    def recipes(self) -> list[Path]:
        """The files of the steering recipes, in the order of their names."""
        return sorted(path for path in (self.folder / "recipes").glob(f"*{_RECIPE}") if not path.name.startswith("."))

    def sae(self, site: str, name: str) -> SaeFiles:
        """The files of one SAE. Raises UserError for a site or name that cannot be a folder name."""
        _check_name("site", site, "folder")
        _check_name("SAE name", name, "folder")
        return SaeFiles(self.folder / "saes" / site / name)

    def saes(self) -> Iterator[SaeFiles]:
        """Yields every saved SAE, in the order of sites and names."""
        # A folder that is being written has a dot before its name.
        for path in sorted((self.folder / "saes").glob("*/*/config.json")):
            if not path.parent.name.startswith("."):
                yield SaeFiles(path.parent)

    def features(self, site: str, name: str) -> FeatureFiles:
        return FeatureFiles(self.folder / "features" / site / name)

    def databases(self, site: str = "*") -> Iterator[FeatureFiles]:
        """Yields every feature database, at one site or at all, in the order of sites and names."""
        for path in sorted((self.folder / "features").glob(f"{site}/*/features.json")):
            if not path.parent.name.startswith("."):
                yield FeatureFiles(path.parent)

    def feature_work(self, rank: int = 0) -> Path:
        """Where a process keeps codes while it builds features."""
        return self.folder / "features" / (f".work-{rank}" if rank else ".work")


def _check_name(role: str, name: str, kind: str) -> None:
    """Raises UserError for a name that some file system cannot have."""
    if not name or name.startswith(".") or any(c in name for c in '/\\\0:*?"<>|'):
        raise UserError(f"{role} {name!r} cannot be a {kind} name; use letters, digits, '.', '-' and '_'")


@dataclass(frozen=True)
class SaeFiles:
    """The files of one saved SAE, in a run or in a folder of its own."""

    folder: Path

    @property
    def site(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        return self.folder / "sae.safetensors"

    @property
    def slices(self) -> Path:
        """The list of files where the weights lie in several, each with a slice of the latents."""
        return self.folder / "sae.safetensors.index.json"

    @property
    def has_weights(self) -> bool:
        """Whether the weights are there, in one file or in slices."""
        return self.weights.is_file() or self.slices.is_file()

    def slice_weights(self, number: int, n_slices: int) -> Path:
        """The file of a slice, counted from 0."""
        return self.folder / f"sae-{number + 1:05d}-of-{n_slices:05d}.safetensors"

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def latents(self) -> Path:
        return self.folder / "latents.safetensors"

    @property
    def run(self) -> RunFiles | None:
        """The run that the SAE belongs to; None for one in a folder of its own."""
        above = self.folder.parent.parent
        run = RunFiles(above.parent)
        return run if above.name == "saes" and run.run_json.exists() else None


@dataclass(frozen=True)
class FeatureFiles:
    """The files of one feature database of a run."""

    folder: Path

    @property
    def site(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def info(self) -> Path:
        return self.folder / "features.json"

    @property
    def sqlite(self) -> Path:
        return self.folder / "features.sqlite"

    @property
    def sqlite_journal(self) -> Path:
        """The file that SQLite itself keeps while it writes."""
        return self.folder / "features.sqlite-journal"

    def array(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    @property
    def journal(self) -> Path:
        """Every question that a language model was asked about the latents, with its answer."""
        return self.folder / "explanations.jsonl"

    @property
    def lock(self) -> Path:
        """The lock's file, which is beside the folder because a build replaces the folder."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    def earlier(self, sae_sha256: str) -> EarlierFiles:
        """Where the files about a replaced SAE, given by the hash of its weights, are kept."""
        return EarlierFiles(self.folder / f"{_EARLIER}{sae_sha256[:8]}")

    def all_earlier(self) -> list[EarlierFiles]:
        """What is kept about replaced SAEs, in the order of the folders' names."""
        return [EarlierFiles(folder) for folder in sorted(self.folder.glob(f"{_EARLIER}*"))]

    @property
    def run(self) -> RunFiles:
        return RunFiles(self.folder.resolve().parents[2])


@dataclass(frozen=True)
class EarlierFiles:
    """What a feature database keeps about an SAE that another one of the same name replaced."""

    folder: Path

    @property
    def replaced_explanations(self) -> Path:
        """The explanations of the replaced SAE's latents; written for people, no module reads them."""
        return self.folder / "explanations.json"


@dataclass(frozen=True)
class RankFiles:
    """What one of several processes keeps of the SAEs that it trains."""

    checkpoints: Path

    @property
    def metrics(self) -> Path:
        return self.checkpoints / "metrics.jsonl"


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint."""

    folder: Path

    @property
    def tensors(self) -> Path:
        return self.folder / "tensors.safetensors"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @staticmethod
    def at(checkpoints: Path, step: int) -> CheckpointFiles:
        return CheckpointFiles(checkpoints / f"{_CHECKPOINT}{step:08d}")

    @staticmethod
    def finished(checkpoints: Path) -> list[CheckpointFiles]:
        """The finished checkpoints, oldest first."""
        # Numbers have leading zeros, so that names sort as steps do.
        checkpoint_files = (CheckpointFiles(folder) for folder in sorted(checkpoints.glob(f"{_CHECKPOINT}*")))
        return [checkpoint for checkpoint in checkpoint_files if checkpoint.state.exists()]
