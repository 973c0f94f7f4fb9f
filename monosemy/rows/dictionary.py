"""Dictionary: a sparse autoencoder of rows of numbers, as an estimator with scikit-learn's manners.

Place on the data's path: rows of any origin → [Dictionary] → sparse codes, for a pipeline or by hand. `fit` is a run
(training, calibration and evaluation by the stages of every run) in a run folder, or in a temporary one. Codes and
reconstructions are in the units of the rows: centre and scale of training are folded into the weights.

Limits: `transform` gives float32, whatever the rows were.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from monosemy.activations.row_store import LEAST_ROWS
from monosemy.activations.tables import as_table, require_finite, too_few_rows
from monosemy.errors import UserError
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.latents import SparseLatents
from monosemy.layout import RunFiles
from monosemy.pipeline import report
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.evaluation import evaluate
from monosemy.pipeline.training import train
from monosemy.ranges import number_name
from monosemy.rows.defaults import Wishes, check_sizes, rows_config
from monosemy.rows.prepare import keep_rows, prepare_rows
from monosemy.rows.python_names import python_names
from monosemy.rows.settings import SITE
from monosemy.rows.sources import Source, copied, group_numbers, source_of
from monosemy.run import open_run
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.storage import load_sae

ROWS_AT_A_TIME = 4_096


class Dictionary(TransformerMixin, BaseEstimator):
    """A sparse autoencoder of rows x: codes f = transform(x), and x ≈ inverse_transform(f).

    Parameters
    ----------
    architecture: `jumprelu`, `topk`, `gated`, …; `monosemy info` lists them all, `monosemy info NAME` says what each
        computes.
    d_sae: the number of latents. None takes 8 × the width of the rows, but at most a quarter of the training rows, and
        at least 4 × l0.
    l0: the mean number of active latents per row. None takes 32, but at most d_sae / 8.
    seed: of the weights, the validation split and the order of the rows.
    validation_fraction: the share of the rows that is held out, and that everything in `evaluation_` is measured on.
    options: of the architecture, such as `{"bandwidth_relative": 0.3}`.
    training: settings of training, such as `{"n_passes": 20, "learning_rate": 1e-3, "batch_tokens": 256}`; by default
        the batch is a sixteenth of the training rows (32 to 1,024), for 2,000 steps or at most 200 passes.
    device: `auto` (a GPU if there is one), `cpu` or `cuda`.

    Attributes
    ----------
    sae_: the `SparseAutoencoder`, which reads rows in their own units; like the others, there once fitted.
    evaluation_: FVU, L0, dead share and more on the held-out rows, each with its 95% interval (`fvu_interval`), as in
        the evaluation of any run; `n_tokens` counts rows. Rows far from all others are left out (`RowsConfig`).
    firing_rates_: float64 [d_sae], the share of the held-out rows on which each latent is active.
    n_features_in_: the width of the rows; feature_names_in_ where they came with names.
    """

    sae_: SparseAutoencoder
    evaluation_: dict[str, Any]
    firing_rates_: np.ndarray
    n_features_in_: int

    def __init__(
        self,
        architecture: str = "jumprelu",
        *,
        d_sae: int | None = None,
        l0: float | None = None,
        seed: int = 0,
        validation_fraction: float = 0.1,
        options: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.architecture = architecture
        self.d_sae, self.l0, self.seed = d_sae, l0, seed
        self.validation_fraction = validation_fraction
        self.options, self.training, self.device = options, training, device

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, run: str | Path | None = None) -> Dictionary:
        """Trains on rows X and measures the result on held-out ones.

        X: an array, tensor or DataFrame [rows, columns]; the path of a .npy, .safetensors or .parquet file; or an
            iterable of batches [n, columns], which is read once and kept on disk while it is trained on.
        y: ignored.
        groups: what every row belongs to (a document, a patient, a picture), [rows]. Rows of one group are on one side
            of the split, and intervals resample groups; without it, every row is a group.
        run: a run folder to keep; training then saves checkpoints there, the same call continues it after an
            interruption, bit for bit, and `monosemy report`, `features` and `browse` work on it. An array is copied
            into it.

        Raises UserError, a ValueError of one line, for input that cannot be learnt from.
        """
        check_sizes(self.d_sae, self.l0)
        with python_names(), ExitStack() as stack:
            if run is None:
                scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="monosemy-")))
                folder, staged = scratch / "run", scratch / "rows.npy"
            else:
                folder = Path(run).expanduser()
                staged = folder.with_name(f".{folder.name}.{os.getpid()}.npy")
                stack.callback(staged.unlink, missing_ok=True)
            source = source_of(X, staged)
            if source.is_array:
                validate_data(self, X, reset=True, skip_check_array=True)
                if run is not None:
                    source = copied(source, staged)
            self.n_features_in_ = source.table.width
            self._fit(source, folder, groups=groups)
            if run is not None:
                report(folder)
        return self

    def _fit(self, source: Source, folder: Path, *, groups: Any) -> None:
        """Trains and evaluates in the run folder, and takes the results from it."""
        table = source.table
        if table.n_rows < LEAST_ROWS:  # before settings are derived from the number of rows
            raise too_few_rows(table, LEAST_ROWS)
        numbers = None if groups is None else group_numbers(groups, table)
        rows = dataclasses.replace(source.settings, validation_fraction=self.validation_fraction, seed=self.seed)
        wishes = Wishes(
            (self.architecture,),
            self.d_sae,
            None if self.l0 is None else (float(self.l0),),
            self.seed,
            options=self.options,
            training=self.training,
            device=self.device,
            controls=False,
        )
        config = rows_config(table, wishes, rows)
        check_config(config)
        with open_run(folder, config) as run:
            prepared = prepare_rows(run, table, numbers)
            keep_rows(run, source.staged, numbers)
            train(run, prepared)
            evaluate(run, prepared)
        name = f"{self.architecture}-l0_{number_name(config.l0[0])}-s{self.seed}"
        files = RunFiles(folder).sae(SITE, name)
        self.sae_ = load_sae(files.folder)
        (self.evaluation_,) = (record for record in read_evaluation(folder)["records"] if record["name"] == name)
        statistics = LatentStatistics.load(files.latents)
        self.firing_rates_ = statistics.firing_count / self.evaluation_["n_tokens"]

    def transform(self, X: Any) -> scipy.sparse.csr_matrix:
        """The codes of rows X [n, columns], as a sparse matrix [n, d_sae] of float32 in the rows' units.

        Raises UserError for values that are not finite and for rows of another width.
        """
        parts = [self.sae_.encode(rows.to(self.sae_.W_dec.device)).positive() for rows in self._chunks(X)]
        code = SparseLatents.concatenate(parts)
        values, indices, offsets = (part.cpu().numpy() for part in (code.values, code.indices, code.offsets))
        matrix = scipy.sparse.csr_matrix((values, indices, offsets), shape=(code.n_tokens, code.d_sae))
        matrix.sort_indices()
        return matrix

    def inverse_transform(self, codes: Any) -> np.ndarray:
        """The reconstructions [n, columns] of codes [n, d_sae], sparse or dense, in the rows' units, float32.

        Raises UserError when the codes have another number of latents.
        """
        check_is_fitted(self)
        matrix = scipy.sparse.csr_matrix(codes, dtype=np.float32)
        code = SparseLatents(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data),
            matrix.shape[1],
        )
        return self.sae_.decode(code).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """1 − FVU on rows X: the share of their variance that the reconstruction explains. y is ignored."""
        batches = ((rows, torch.arange(len(rows))) for rows in self._chunks(X))
        evaluated = evaluate_reconstruction({"this": self.sae_}, batches, site="X", n_bootstrap=1)
        return 1.0 - evaluated["this"].record.fvu

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns of `transform`: `latent0`, `latent1`, …; `input_features` is ignored."""
        check_is_fitted(self)
        return np.array([f"latent{i}" for i in range(self.sae_.d_sae)], dtype=object)

    def _chunks(self, X: Any) -> Iterator[torch.Tensor]:
        """Rows X as float32 tensors [n, columns]. Raises UserError for rows that do not fit the dictionary."""
        check_is_fitted(self)
        table = as_table(X)
        validate_data(self, X, reset=False, skip_check_array=True)
        if table.n_rows < 1:
            raise UserError(f"X has 0 sample(s) (shape=(0, {table.width})) while a minimum of 1 is required.")
        for start in range(0, table.n_rows, ROWS_AT_A_TIME):
            values = table.rows(slice(start, start + ROWS_AT_A_TIME))
            require_finite(values, table.name, range(start, start + len(values)))
            yield torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags
