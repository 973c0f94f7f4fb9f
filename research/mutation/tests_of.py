"""The modules under mutation, and the unit tests that stand beside each."""

from __future__ import annotations

from collections.abc import Mapping

_SAES = ("tests/unit/saes/test_inference.py", "tests/unit/saes/test_saes.py")
_TRAINER = ("tests/unit/training/test_trainer.py",)
_KERNELS = ("tests/unit/kernels/test_kernels.py", "tests/unit/kernels/test_exactness.py")
_MLP = ("tests/unit/circuits/jacobian/test_mlp.py",)

TESTS: Mapping[str, tuple[str, ...]] = {
    "monosemy/saes/gated.py": _SAES,
    "monosemy/saes/batch_topk.py": _SAES,
    "monosemy/saes/jumprelu.py": _SAES,
    "monosemy/saes/topk.py": _SAES,
    "monosemy/saes/relu.py": _SAES,
    "monosemy/saes/base.py": _SAES,
    "monosemy/saes/losses.py": _SAES,
    "monosemy/saes/storage.py": _SAES,
    "monosemy/saes/listing.py": ("tests/unit/saes/test_listing.py",),
    "monosemy/evals/intervals.py": ("tests/unit/evals/test_intervals.py",),
    "monosemy/evals/reconstruction.py": ("tests/unit/evals/test_reconstruction.py",),
    "monosemy/evals/controls.py": ("tests/unit/evals/test_controls.py",),
    "monosemy/evals/documents.py": ("tests/unit/evals/test_documents.py",),
    "monosemy/evals/frontier.py": ("tests/unit/evals/test_frontier.py",),
    "monosemy/evals/model_loss.py": ("tests/unit/evals/test_model_loss.py",),
    "monosemy/training/sparsity.py": ("tests/unit/training/test_sparsity.py",),
    "monosemy/training/optim.py": ("tests/unit/training/test_optim.py",),
    "monosemy/training/outliers.py": ("tests/unit/training/test_outliers.py",),
    "monosemy/training/dead.py": ("tests/unit/training/test_dead.py",),
    "monosemy/training/trainee.py": (
        "tests/unit/training/test_sparsity.py",
        "tests/unit/training/test_optim.py",
        *_TRAINER,
    ),
    "monosemy/training/trainer.py": _TRAINER,
    "monosemy/training/checkpoint.py": _TRAINER,
    "monosemy/kernels/reference.py": _KERNELS,
    "monosemy/steering/edits.py": ("tests/unit/steering/test_edits.py",),
    "monosemy/steering/control.py": ("tests/unit/steering/test_edits.py",),
    "monosemy/steering/generate.py": ("tests/unit/steering/test_generate.py",),
    "monosemy/steering/strength.py": ("tests/unit/steering/test_strength.py", "tests/unit/steering/test_generate.py"),
    "monosemy/circuits/jacobian/penalty.py": ("tests/unit/circuits/jacobian/test_penalty.py",),
    "monosemy/circuits/jacobian/linearity.py": ("tests/unit/circuits/jacobian/test_curves.py",),
    "monosemy/circuits/jacobian/ablation.py": ("tests/unit/circuits/jacobian/test_curves.py",),
    "monosemy/circuits/jacobian/latent_map.py": ("tests/unit/circuits/jacobian/test_curves.py",),
    "monosemy/circuits/jacobian/measures.py": ("tests/unit/circuits/jacobian/test_measures.py",),
    "monosemy/circuits/jacobian/activation.py": _MLP,
    "monosemy/circuits/jacobian/diagonals.py": _MLP,
    "monosemy/circuits/jacobian/weights.py": _MLP,
    "monosemy/circuits/jacobian/mlp.py": _MLP,
}
