"""The contents of a run as the browser sees them: its SAEs, its evaluation and its feature databases.

Place on the path: run folder → [catalogue] → lists, pages, compare, live → server. The table of SAEs is read from the
folder. A request names an SAE by site and name, which are looked up in this table and never become part of a path.

Columns are float32 [d_sae], one value per latent. An SAE without a feature database still has the columns that the
evaluation stored in latents.safetensors: n_fired, firing_rate, mean (of the positive activations, raw units) and max.
Limits: if a run is still training while it is browsed, changes appear when the overview is reloaded.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.circuits.graphs.layout import graphs_of_run
from monosemy.errors import UserError
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.features.store.database import FeatureDatabase, open_current
from monosemy.layout import RunFiles, SaeFiles
from monosemy.run import read_run
from monosemy.saes.listing import SavedSae, refuse_stopped, saved_saes
from monosemy.support.moved import NOT_MOVED, Moved

Array = np.ndarray[Any, np.dtype[Any]]
Stamp = tuple[int, int]
"""A file's inode and time of change."""


class NotFoundError(UserError):
    """Raised for an address that names something which is not in this run (status 404)."""


@dataclass
class Dictionary:
    """One SAE or control of the run; `database` is None if no features were built."""

    saved: SavedSae
    database: FeatureDatabase | None = None
    weights_stamp: Stamp | None = None
    """Identity of the SAE's present files; it changes when another SAE takes its place."""
    stamp: Stamp | None = None
    """Identity of the features' present build; it changes when they are built again."""
    problem: str = ""
    """Why an existing database cannot be read; empty if it can."""
    orders: dict[str, Array] = field(default_factory=dict)
    """Latents sorted by each column; `lists` fills it at first use."""
    cards: tuple[Any, dict[str, Any]] | None = None
    """What `pages.highlight_cards` answered, after the versions of features and labels that it answered for."""
    built_columns: Mapping[str, Array] = field(default_factory=dict)
    """The database's columns as plain arrays, since indexing a memory-mapped one takes five times as long."""

    @property
    def site(self) -> str:
        return self.saved.site

    @property
    def name(self) -> str:
        return self.saved.name

    @property
    def folder(self) -> Path:
        return self.saved.folder

    @property
    def config(self) -> Mapping[str, Any]:
        return self.saved.config

    @property
    def source_site(self) -> str | None:
        """The site that a transcoder reads, which lies under the site that it gives; None for an SAE."""
        return str(self.config.get("site", "")) if self.saved.is_transcoder else None

    @property
    def d_sae(self) -> int:
        return int(self.config["d_sae"])

    @cached_property
    def statistics(self) -> tuple[dict[str, Array], int | None]:
        """(columns from the evaluation, its number of tokens); ({}, None) if the SAE was not evaluated."""
        path = SaeFiles(self.folder).latents
        if not path.exists():
            return {}, None
        statistics = LatentStatistics.load(path)
        count, n_tokens = statistics.firing_count, statistics.n_tokens
        # silent latents have 0 / 0 here, and get NaN
        fired = count.astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = {
                "n_fired": fired,
                "firing_rate": fired / np.float32(n_tokens or np.nan),
                "mean": np.where(count > 0, statistics.sum / count, np.nan).astype(np.float32),
                "max": np.where(count > 0, statistics.max, np.nan).astype(np.float32),
            }
        return columns, n_tokens

    @property
    def columns(self) -> Mapping[str, Array]:
        """The columns of the features, or those of the evaluation if there are no features."""
        return self.built_columns or self.statistics[0]

    @property
    def n_tokens(self) -> int | None:
        return int(self.database.info["n_tokens"]) if self.database is not None else self.statistics[1]

    def check_latent(self, latent: int) -> int:
        """The latent itself. Raises NotFoundError unless 0 ≤ latent < d_sae."""
        if not 0 <= latent < self.d_sae:
            raise NotFoundError(f"latent {latent} is out of range: {self.name} has latents 0 to {self.d_sae - 1}")
        return latent

    def steering_max(self, latent: int) -> tuple[float, str] | None:
        """The maximum that steering's unit `max` multiplies, and the text it was measured on.

        It is the evaluation's, on "validation" text. If the latent is silent there, or nothing was evaluated, it is
        that of the "features". None if the latent fired on neither.
        """
        for columns, text in ((self.statistics[0], "validation"), (self.built_columns, "features")):
            value = float(columns["max"][latent]) if "max" in columns else 0.0
            if value > 0:  # False for NaN
                return value, text
        return None

    @property
    def build_command(self) -> str:
        """The command that builds the features of this SAE."""
        run = SaeFiles(self.folder).run
        assert run is not None  # a catalogue lists the SAEs of a run
        return f"monosemy features {shlex.quote(str(run.folder))} --saes {self.saved.label}"

    def labels(self, latents: Array | list[int]) -> list[str]:
        """The labels of some latents; empty strings without features."""
        if self.database is None:
            return [""] * len(latents)
        return self.database.labels(np.asarray(latents, dtype=np.int64))

    def entry(self) -> dict[str, Any]:
        """The SAE as a `schema.SaeEntry`."""
        columns = list(self.columns)
        source = "features" if self.database is not None else "evaluation" if columns else "none"
        return {
            "site": self.site,
            "source_site": self.source_site,
            "name": self.name,
            "architecture": self.saved.kind,
            "control": self.saved.control,
            "stopped": self.saved.stopped,
            "imported": bool(self.saved.imported),
            "warnings": self.saved.warnings,
            "build_command": self.build_command,
            "d_sae": self.d_sae,
            "d_in": int(self.config["d_in"]),
            # A published SAE may not say its L0, which its file then gives as 0.
            "target_l0": self.config.get("l0") or None,
            "seed": self.config.get("seed"),
            "has_features": self.database is not None,
            "problem": self.problem,
            "n_tokens": self.n_tokens,
            "column_source": source,
            "columns": columns,
        }


class Catalogue:
    """The SAEs of one run folder. Raises UserError if the folder is not a run or holds no SAE."""

    def __init__(self, folder: Path, moved: Moved = NOT_MOVED) -> None:
        self.folder, self.moved = folder.expanduser(), moved
        self.files = RunFiles(self.folder)
        self.config, self.provenance = read_run(self.folder)
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Dictionary] = {}
        self.refresh()
        if not self._known:
            raise UserError(f"{folder} holds no trained SAE yet; train it first: monosemy train {folder}")

    @property
    def of_rows(self) -> bool:
        """Whether the run's SAEs read rows of the user's own, behind which there is no language model."""
        return "rows" in self.provenance

    @property
    def has_graphs(self) -> bool:
        """Whether the run has attribution graphs, or transcoders to make some with."""
        transcoders = any(sae.source_site is not None for sae in self.saes())
        return transcoders or any(graphs_of_run(self.folder))

    @property
    def build_command(self) -> str:
        """The command that builds the features of the run's default SAE."""
        return f"monosemy features {shlex.quote(str(self.folder))}"

    def refresh(self) -> list[Dictionary]:
        """Reads the folder's table of SAEs again, which shows new SAEs and new feature builds. Controls come last."""
        # known SAEs keep their object, and with it their opened database and sorted columns
        with self._lock:
            saes: dict[tuple[str, str], Dictionary] = {}
            for saved in saved_saes(self.folder):
                sae, weights_stamp = self._known.get(saved.key), stamp_of(SaeFiles(saved.folder).config)
                if sae is None or sae.weights_stamp != weights_stamp:
                    sae = Dictionary(saved, weights_stamp=weights_stamp)
                saes[saved.key] = sae
                self._open_features(sae)
            self._known = saes
        return list(saes.values())

    def _open_features(self, sae: Dictionary) -> None:
        """Opens an SAE's features if they are new or were built again since the last look."""
        features = self.files.features(sae.site, sae.name)
        stamp = stamp_of(features.info)
        if stamp == sae.stamp:
            return
        sae.database, sae.problem = None, ""
        if stamp is not None and not sae.saved.stopped:
            try:
                sae.database = open_current(self.folder, sae.site, sae.name)
            except UserError as error:  # damaged or outdated: the run's other SAEs can still be browsed
                sae.problem = str(error)
        built = sae.database.columns if sae.database is not None else {}
        sae.built_columns = {column: np.asarray(values) for column, values in built.items()}
        sae.stamp, sae.orders = stamp, {}  # orders of the old columns are void

    def saes(self) -> list[Dictionary]:
        """The SAEs as of the last `refresh`."""
        return list(self._known.values())

    def sae(self, site: str, name: str) -> Dictionary:
        """The SAE of a site and name. Raises NotFoundError, which lists the names that exist."""
        entry = self._known.get((site, name))
        if entry is None:
            names = ", ".join("/".join(key) for key in list(self._known)[:24])
            raise NotFoundError(f"this run has no SAE {site}/{name}; it has: {names}")
        return entry

    def sae_of(self, key: str) -> Dictionary:
        """The SAE named by the key `site/name`. Raises NotFoundError as `sae` does."""
        site, _, name = key.partition("/")
        return self.sae(site, name)

    def features(self, site: str, name: str) -> tuple[Dictionary, FeatureDatabase]:
        """The SAE and its feature database.

        Raises NotFoundError for an unknown SAE or one without features (with the command that builds them), and
        UserError for one whose training stopped early or whose database cannot be read.
        """
        sae = self.sae(site, name)
        refuse_stopped(sae.saved.label, sae.saved.stopped)
        if sae.problem:
            raise UserError(sae.problem)
        if sae.database is None:
            raise NotFoundError(f"no features were built for {site}/{name}; build them: {sae.build_command}")
        return sae, sae.database

    def evaluation(self) -> tuple[list[dict[str, Any]], float | None]:
        """The records of evaluation.json and the model's own loss (nats per token); ([], None) before evaluation."""
        if not self.files.evaluation.exists():
            return [], None
        evaluation = read_evaluation(self.folder)
        return list(evaluation.get("records", [])), evaluation.get("clean_loss")


def stamp_of(path: Path) -> Stamp | None:
    """Identity of a file's present content; None if there is no such file.

    Builds replace the file rather than write into it, so inode and time of change tell them apart.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
