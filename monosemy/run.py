"""A run is a folder with its configuration (run.json), its finished stages (stages.json) and its results.

Place on the data's path: beside all of it. The pipeline opens a run, passes its paths to the stages and records each
finished stage, so that the same command, given again, repeats nothing and continues what was interrupted.

    run.json     {"format", "config": the resolved RunConfig, "provenance": versions, machine, seconds per stage}
    stages.json  {"format", "stages": {name: {"fingerprint", "seconds", "finished", "record"}}}

layout.py lists these and all other files of a run.

The provenance describes the machine in words (system, cores, memory); it holds no paths and no host or user names.
The lock is on `run.lock` (support/locks.py). The kernel frees it when its process ends, so a killed run never blocks
its own continuation, and worker processes that the killed run forked do not keep it.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from monosemy.config import LABELS, Difference, RunConfig, first_difference_of, from_json, to_json, with_labels
from monosemy.errors import UserError, near_matches
from monosemy.layout import FeatureFiles, RunFiles
from monosemy.support import files, locks, ranks
from monosemy.support.metrics import MetricsWriter
from monosemy.support.moved import NOT_MOVED, Moved, find_source
from monosemy.support.numbers import fixed_text
from monosemy.support.text_input import require_characters

if TYPE_CHECKING:
    from filelock import FileLock

FORMAT = 1
_PACKAGES = ("monosemy", "torch", "transformers", "tokenizers", "interp-engine", "numpy", "numba", "safetensors")


class Run:
    """An open run folder, locked against other writers.

    `open_run` makes one. Use it as a context manager, or call `close`. Where several processes work on a run
    (support/ranks.py), the first one holds the lock and writes run.json and stages.json; the others keep the same
    records in memory.
    """

    def __init__(self, folder: Path, config: RunConfig, provenance: dict[str, Any], lock: FileLock | None):
        self.files = RunFiles(folder)
        """The paths of the run's files."""
        self.config, self.provenance = config, provenance
        self.created = False
        """Whether this process created the run."""
        self.n_latent_shards = 0
        """Over how many processes each SAE's latents are shared out, one SAE after the other; 0 where they are not."""
        self.moved = NOT_MOVED
        """The present paths of model and text, as the user gives them."""
        self._lock = lock
        self._stages = read_stages(folder)

    @property
    def folder(self) -> Path:
        return self.files.folder

    def metrics(self) -> MetricsWriter:
        return MetricsWriter(self.files.metrics)

    def stage_done(self, name: str, fingerprint: str) -> bool:
        """Whether the stage was finished with exactly these inputs.

        `fingerprint` must cover everything that the stage's result depends on, including earlier stages. A stage that
        was finished with another fingerprint counts as not done.
        """
        return self._stages.get(name, {}).get("fingerprint") == fingerprint

    def stage_record(self, name: str) -> dict[str, Any]:
        """The record that `mark_done` was given for a finished stage; empty if the stage is not finished."""
        return dict(self._stages.get(name, {}).get("record", {}))

    def mark_done(self, name: str, fingerprint: str, seconds: float, record: Mapping[str, Any] | None = None) -> None:
        """Records durably that a stage is finished. Its results must be on disk before.

        `seconds` is the stage's wall time, summed over its parts if it was resumed; it goes into the provenance.
        """
        # run.json first: once the stage counts as done, nothing would add its seconds any more.
        self.provenance["seconds"][name] = round(seconds, 3)
        self._write_run_json()
        self._stages[name] = {
            "fingerprint": fingerprint,
            "seconds": round(seconds, 3),
            "finished": _now(),
            "record": dict(record or {}),
        }
        if self._lock is not None:
            files.write_json(self.files.stages, {"format": FORMAT, "stages": self._stages})

    def add_provenance(self, **facts: Any) -> None:
        """Adds facts to the provenance, e.g. `model={"name": …, "fingerprint": …}`; replaces those of the same name."""
        self.provenance.update(facts)
        self._write_run_json()

    def share_records(self) -> None:
        """Gives every rank of the run the provenance and stages of the first one, once that has written them."""
        self.provenance, self._stages = ranks.from_first(lambda: (self.provenance, self._stages))

    def relabel(self, config: RunConfig) -> None:
        """Takes over from `config` what changes nothing that is computed."""
        self.config = with_labels(self.config, config)
        self._write_run_json()

    def source(self, kind: Literal["model", "text", "rows"]) -> str:
        """The present source of the run's model, text or rows (support/moved.py). Raises UserError when it is gone."""
        return find_source(self.folder, self.config, self.provenance, kind, moved=self.moved)

    def _write_run_json(self) -> None:
        if self._lock is None:
            return
        document = {"format": FORMAT, "config": to_json(self.config), "provenance": self.provenance}
        files.write_json(self.files.run_json, document)

    def close(self) -> None:
        """Frees the lock. Calling it again does nothing."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Refused before any stage was finished, for example because memory is too small.
        if isinstance(error, UserError) and not self._stages and self._lock is not None:
            self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """Removes the files of a run that was refused before it began, so that a corrected command can use its folder.

        Nothing is removed if the folder holds anything else.
        """
        own = (self.files.run_json, self.files.lock)
        if set(self.folder.iterdir()) <= set(own):
            for path in own:
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()


def open_run(folder: Path, config: RunConfig, moved: Moved = NOT_MOVED) -> Run:
    """Creates a run folder, or opens an existing run to continue it.

    `moved` gives the present paths of its model and text. Raises UserError, without writing anything, when the folder
    holds a run of another configuration (naming the first setting that differs) or files that are not a run, and when
    it is open in another process; also when it cannot be written to, or not seen by another rank of the run.
    """
    folder = folder.expanduser()
    if ranks.n_ranks() == 1:
        return _open(folder, config, moved)
    run = _open(folder, config, moved) if ranks.is_first() else None
    created = ranks.from_first(lambda: run is not None and run.created)
    where = "give --run a folder on a file system that all ranks share"
    ranks.require_visible(RunFiles(folder).run_json.is_file(), f"the run folder {folder}", where)
    if run is None:
        recorded, provenance = read_run(folder)
        run = Run(folder, with_labels(recorded, config), provenance, lock=None)
        run.created, run.moved = created, moved
    return run


def _open(folder: Path, config: RunConfig, moved: Moved) -> Run:
    """As `open_run`, for the only process of a run or the first of several."""
    require_characters(f"the name of run folder {folder}", str(folder))
    _refuse_foreign(folder)
    run_json = RunFiles(folder).run_json
    # Checked before the lock as well: a refused command must leave no trace, and the lock creates a file.
    if run_json.exists():
        _refuse_difference(folder, read_run(folder)[0], config)
    lock = _acquire(folder)
    try:
        files.clear_leftovers(folder)
        if not run_json.exists():
            run = Run(folder, config, _new_provenance(), lock)
            run.created = True
        else:
            recorded, provenance = read_run(folder)
            # Checked again, now that nobody else can write.
            _refuse_difference(folder, recorded, config)
            provenance.setdefault("seconds", {})
            if changed := _changed_versions(provenance):
                provenance.setdefault("continued_with", []).append({"at": _now(), "versions": changed})
            # Labels may change: live views, and what describes the rows of a run.
            run = Run(folder, with_labels(recorded, config), provenance, lock)
        run.moved = moved
        run._write_run_json()
    except BaseException:
        lock.release()
        raise
    return run


def read_run(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Reads the configuration and the provenance of a run, without opening it for writing.

    Raises UserError when the folder holds no run, or one of another format.
    """
    path = RunFiles(folder).run_json
    if not path.exists():
        raise UserError(
            f"{folder} is not a run folder (it has no {path.name}); "
            f"{near_runs(folder)}give the folder a run was written to, or make one of a single SAE: "
            "monosemy features SAE"
        )
    document = _read_format(path)
    return from_json(RunConfig, document.get("config", {})), dict(document.get("provenance", {}))


def near_runs(folder: Path) -> str:
    """Which runs may have been meant by a folder that is none, as the start of a sentence; empty where none is near.

    Those in the folder itself, or beside it those whose names resemble its own.
    """
    folder = folder.expanduser()
    if inside := runs_inside(folder):
        return f"it holds the runs {', '.join(map(str, inside[:3]))}; "
    near = near_matches(folder.name, [run.name for run in runs_inside(folder.parent)])
    return f"did you mean {' or '.join(str(folder.parent / name) for name in near)}? " if near else ""


def runs_inside(folder: Path) -> list[Path]:
    """The run folders that lie in a folder, sorted; none where it cannot be read."""
    try:
        return sorted(place for place in folder.iterdir() if RunFiles(place).run_json.is_file())
    except OSError:
        return []


def read_stages(folder: Path) -> dict[str, Any]:
    """The finished stages of a run, by name: fingerprint, seconds, time and record of each; empty before the first.

    Raises UserError when stages.json is damaged or has another format.
    """
    path = RunFiles(folder).stages
    if not path.exists():
        return {}
    stages = _read_format(path).get("stages")
    if not isinstance(stages, dict):
        raise UserError(f"{path} has no object 'stages'; restore it or delete it")
    return stages


def read_feature_info(folder: Path) -> dict[str, Any]:
    """The content of features.json in the feature database `folder`: what was built, and from what.

    It is read here, below features and steering, because neither of them may import the other. The format is left to
    the caller to check. Raises UserError when the file is missing or damaged.
    """
    path = FeatureFiles(folder).info
    again = "build it again: monosemy features RUN"
    info = files.read_json(path, fix=again)
    if not isinstance(info, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(info).__name__}; {again}")
    return info


def load_config(path: Path) -> RunConfig:
    """Reads a configuration from a run folder, from its run.json, or from a JSON file with settings only.

    Raises UserError when there is none.
    """
    path = path.expanduser()
    if path.is_dir():
        return read_run(path)[0]
    document = files.read_json(path, fix="correct it there")
    if not isinstance(document, dict):
        raise UserError(f"{path} must hold a JSON object of settings, got {type(document).__name__}")
    if "config" in document:
        _check_format(document, path)
        document = document["config"]
    return from_json(RunConfig, document)


def require_weights(folder: Path, *only: tuple[str, str]) -> None:
    """Raises UserError, naming the file, when the weights of SAEs of a run (all, or `only` some) are missing."""
    saes = [sae for sae in RunFiles(folder).saes() if not only or (sae.site, sae.name) in only]
    lost = [sae for sae in saes if not sae.has_weights]
    if lost:
        others = f", and those of {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(
            f"the weights of SAE {lost[0].site}/{lost[0].name} are missing ({lost[0].weights}){others}; "
            f"restore the file, or train again: monosemy train {folder}"
        )


def first_difference(there: RunConfig, here: RunConfig) -> Difference | None:
    """The first setting, in the order of the configuration, that differs between two runs; labels do not count."""
    alike = with_labels(here, there)
    left, right = ({k: v for k, v in to_json(config).items() if k not in LABELS} for config in (there, alike))
    return first_difference_of(left, right)


def _refuse_difference(folder: Path, there: RunConfig, here: RunConfig) -> None:
    """Raises UserError when a folder's run has another configuration than the one now asked for."""
    if difference := first_difference(there, here):
        raise UserError(
            f"run folder {folder} holds another configuration: {difference}; "
            "choose another folder, or give the same settings to continue that run, or delete the folder to start again"
        )


def _refuse_foreign(folder: Path) -> None:
    """Raises UserError for a folder with other files in it, which must not be written to.

    The lock and half-written files that a run leaves when it is killed early do not count.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run folder {folder} is a file; choose another folder")
    run_files = RunFiles(folder)
    if not folder.exists() or run_files.run_json.exists():
        return
    names = sorted(path.name for path in folder.iterdir())
    unfinished = f".{run_files.run_json.name}."
    foreign = [name for name in names if name != run_files.lock.name and not name.startswith(unfinished)]
    if foreign:
        raise UserError(
            f"{folder} is not empty and holds no run ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}); "
            "choose a new or empty folder"
        )


def _acquire(folder: Path) -> FileLock:
    """Takes the folder's lock. Raises UserError when another process, or this one, holds it."""
    try:
        return locks.acquire(RunFiles(folder).lock)
    except locks.LockedError as error:
        if error.held_here:
            raise UserError(f"run folder {folder} is already open in this process; close it first") from None
        raise UserError(
            f"run folder {folder} is in use by process {error.holder}; wait for it or stop it, or choose another folder"
        ) from None


def _new_provenance() -> dict[str, Any]:
    return {"created": _now(), "versions": versions(), "machine": machine(), "seconds": {}}


def _changed_versions(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The versions that differ from those with which the run was last begun or continued."""
    last_versions = dict(provenance.get("versions", {}))
    for later in provenance.get("continued_with", []):
        last_versions.update(later["versions"])
    return {name: version for name, version in versions().items() if last_versions.get(name) != version}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that influence results, read without importing them."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def machine() -> str:
    """This machine in words: `Linux x86_64, 2 cores, 23.5 GiB memory`."""
    import psutil

    # The cores that this process may use, which can be fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.system()} {platform.machine()}, {cores} cores, {fixed_text(memory, 1)} GiB memory"


def _read_format(path: Path) -> dict[str, Any]:
    document = files.read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(document).__name__}; restore it or delete it")
    _check_format(document, path)
    return document


def _check_format(document: Mapping[str, Any], path: Path) -> None:
    version = document.get("format")
    if version != FORMAT:
        raise UserError(f"{path} has format {version!r}, this version of monosemy reads {FORMAT}; upgrade monosemy")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
