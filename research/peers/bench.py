"""Two draws of real activations, and whole training runs on them, ours and other libraries', for `run.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.evals.intervals import Blocks
from monosemy.evals.reconstruction import block_sums, evaluate_reconstruction
from monosemy.saes.base import SaeConfig, calibrate
from monosemy.saes.registry import build_sae
from monosemy.training.trainee import Trainee
from research import common
from research.peers import training as peers_training
from research.peers.training import Clock, Data, Trained

OURS = "monosemy"
FIRST_ORDER = 1_000
"""Seeds of the order of rows count from here on the second draw, so that none equals the tries'."""

Record = dict[str, Any]


class Draw:
    """Rows of one draw of the corpus, harvested at first use: to train on, to calibrate on, to measure on."""

    def __init__(self, path: Path, text_seed: int, n_validation_tokens: int) -> None:
        self._path, self._seed, self._n_validation = path, text_seed, n_validation_tokens

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        if not self._path.exists():
            common.save_real_split(self._path, 300_000, self._n_validation, self._seed)
        return load_file(self._path)

    def data(self, n_steps: int, batch: int, order_seed: int, seed: int) -> Data:
        train = self._rows["train"]
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(order_seed))[: n_steps * batch]
        return Data(list(train[order].float().split(batch)), float(self._rows["scale"]), seed)

    @cached_property
    def held_in(self) -> Tensor:
        """Training rows that ours starts from and calibrates on."""
        train = self._rows["train"]
        return train[torch.randperm(len(train), generator=torch.Generator().manual_seed(1))[:32_768]].float()

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """Rows of documents that training never saw, and their documents."""
        return self._rows["validation"].float(), self._rows["documents"]


class Bench:
    """Rows, and every run made so far (one JSON line each)."""

    def __init__(self, folder: Path, d_sae: int, batch: int, n_steps: int, *, seeds: Sequence[int]) -> None:
        self.d_sae, self.batch, self.n_steps, self.seeds = d_sae, batch, n_steps, seeds
        self.size = {"d_sae": d_sae, "batch": batch, "n_steps": n_steps}
        self.first = Draw(folder / "rows.safetensors", 0, 32_768)
        self.second = Draw(folder / "reported.safetensors", 1, 65_536)
        self.log = folder / "tries.jsonl"
        self.warm: set[str] = set()
        self.records: dict[str, Record] = {}
        if self.log.exists():
            self.records = {r["key"]: r for r in map(json.loads, self.log.read_text().splitlines())}

    @cached_property
    def data(self) -> Data:
        return self.first.data(self.n_steps, self.batch, 0, 0)

    @cached_property
    def tuning(self) -> tuple[Tensor, Tensor]:
        """Every second validation document of the first draw."""
        rows, documents = self.first.validation
        return rows[documents % 2 == 0], documents[documents % 2 == 0]

    def tried(
        self, library: str, architecture: str, l0: float, rate: float, *, coef: float | None = None, **extra: Any
    ) -> Record:
        """The record of one training run on the first draw, made now unless it was before."""
        about = self._about(library, architecture, l0, {"learning_rate": rate, "coef": coef, **extra})
        key = json.dumps({**about, **self.size})
        if key not in self.records:
            trained = self._trained(about, self.data, self.first.held_in)
            self._keep(key, {**about, "cpu_seconds": trained.cpu_seconds, "tuning": measured(trained, *self.tuning)})
        return self.records[key]

    def reported(self, record: Record, l0: float | None = None) -> list[Record]:
        """The settings of a try on the second draw: a record for each seed, with every document's error."""
        target_l0 = record["asked_l0"] if l0 is None else l0
        about = self._about(record["library"], record["architecture"], target_l0, record["settings"])
        records = []
        for seed in self.seeds:
            key = json.dumps({**about, **self.size, "draw": 2, "seed": seed})
            if key not in self.records:
                data = self.second.data(self.n_steps, self.batch, FIRST_ORDER + seed, seed)
                trained = self._trained(about, data, self.second.held_in)
                rows = self.second.validation
                result = {"reported": measured(trained, *rows), "errors": errors(trained, *rows)}
                self._keep(key, {**about, "seed": seed, "cpu_seconds": trained.cpu_seconds, **result})
            records.append(self.records[key])
        return records

    @staticmethod
    def _about(library: str, architecture: str, l0: float, settings: Mapping[str, Any]) -> Record:
        return {"library": library, "architecture": architecture, "asked_l0": l0, "settings": dict(settings)}

    def _trained(self, about: Record, data: Data, held_in: Tensor) -> Trained:
        settings = dict(about["settings"])
        rate, coef = settings.pop("learning_rate"), settings.pop("coef")
        if about["library"] == OURS:
            return self._ours(about["architecture"], about["asked_l0"], rate, settings, data=data, held_in=held_in)
        make = peers_training.LIBRARIES[about["library"]]
        return make(
            about["architecture"], data, self.d_sae, float(about["asked_l0"]), learning_rate=rate, coef=coef, **settings
        )

    def _ours(
        self, architecture: str, l0: float, rate: float, options: Record, *, data: Data, held_in: Tensor
    ) -> Trained:
        if architecture not in self.warm:  # compiles the kernels: no part of a step
            self.warm.add(architecture)
            self._trainee(architecture, l0, rate, options, data=data, held_in=held_in).step(data.batches[0], 0)
        clock = Clock()
        trainee = self._trainee(architecture, l0, rate, options, data=data, held_in=held_in)
        for index, x in enumerate(data.batches):
            trainee.step(x, index)
        calibrate(trainee.sae, list(held_in.split(4096)))
        return Trained(trainee.sae, *clock.seconds())

    def _trainee(
        self, architecture: str, l0: float, rate: float, options: Record, *, data: Data, held_in: Tensor
    ) -> Trainee:
        sae = build_sae(SaeConfig(architecture, data.d_in, self.d_sae, l0, seed=data.seed, options=options))
        settings = TrainingConfig(batch_tokens=data.batch_tokens, learning_rate=rate)
        trainee = Trainee(sae, settings, data.n_steps, data.n_steps * data.batch_tokens)
        trainee.initialise(held_in[:4096])
        return trainee

    def _keep(self, key: str, record: Record) -> None:
        self.records[key] = {"key": key, **record}
        with self.log.open("a") as file:
            file.write(json.dumps(self.records[key]) + "\n")
        measures = record.get("tuning") or record["reported"]
        settings = {name: value for name, value in record["settings"].items() if value is not None}
        where = "first" if "tuning" in record else f"second, seed {record['seed']}"
        print(
            f"{where:15s} {record['library']:20s} {record['architecture']:11s} {settings!s:60s} "
            f"L0 {measures['l0']:7.2f}  FVU {measures['fvu']:.4f}  dead {measures['dead_fraction']:.3f}  "
            f"{record['cpu_seconds']:.0f} s",
            flush=True,
        )


def measured(trained: Trained, rows: Tensor, documents: Tensor) -> Record:
    return asdict(evaluate_reconstruction({"": trained.dictionary}, [(rows, documents)])[""].record)


@torch.no_grad()
def errors(trained: Trained, rows: Tensor, documents: Tensor) -> list[float]:
    """Summed squared error of each block of documents."""
    block = Blocks().rows(documents)
    parts = [trained.dictionary.decode(trained.dictionary.encode(x)) for x in rows.split(4096)]
    total = block_sums((rows - torch.cat(parts)).square().sum(1, keepdim=True), block, int(block.max()) + 1)
    return total[:, 0].tolist()
