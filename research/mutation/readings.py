"""What is to be said about survivors: the gap that a test now closes, or why the fault changes nothing that matters."""

from __future__ import annotations

from collections.abc import Mapping

SAES, EVALS, TRAINING = "monosemy/saes/", "monosemy/evals/", "monosemy/training/"
EXACT_ZERO = "gap: a magnitude of exactly zero"

READINGS: Mapping[tuple[str, str, str], str] = {
    (SAES + "gated.py", "Gated.margins", "linear * self.r_mag.exp() + self.b_mag >= 0"): EXACT_ZERO,
    (SAES + "jumprelu.py", "JumpRelu.losses", "self.options.recipe == 'tanh' or self.options.pre_act_coef > 0"): (
        "gap: the step recipe with a coefficient of the tanh recipe"
    ),
    (EVALS + "intervals.py", "jackknife_interval", "n <= 2"): "gap: exactly two blocks",
    (EVALS + "reconstruction.py", "_quantiles", "q + 1e-12"): "gap: a share of tokens that equals the quantile",
    (EVALS + "frontier.py", "print_evaluation", "all((record[column.field] is not None for record in ordered))"): (
        "gap: a column that not every record has"
    ),
    (TRAINING + "dead.py", "FiringTracker.dead", "self.silent_tokens > self.dead_after_tokens"): (
        "gap: dead from the very token; the tracker had no test of its own"
    ),
    (TRAINING + "dead.py", "FiringTracker.observe", "1"): "gap: silence starts from zero",
    (TRAINING + "dead.py", "FiringTracker.observe", "self.silent_tokens - latents.n_tokens"): (
        "gap: no test asked whether silence grows"
    ),
    (TRAINING + "trainer.py", "Trainer._most_at_a_time", "2 * 4 / self.config.batch_tokens"): (
        "gap: the bound on memory was not tested"
    ),
    (TRAINING + "trainer.py", "Trainer._step", "all((self.trainees[key].stopped for key in unit.keys))"): (
        "equivalent for single SAEs, and both SAEs of a pair stop together"
    ),
    (TRAINING + "trainee.py", "Trainee.__init__", "30 * n_steps"): "gap: the controller's gain in long runs",
    ("monosemy/steering/edits.py", "SiteEdit._changed", "(a_NE != 0).all(1, keepdim=True)"): (
        "gap: one of several edits does nothing at a position"
    ),
    ("monosemy/steering/control.py", "_draw", "counts[candidates]"): (
        "gap: partners near in counts, not in their logarithms"
    ),
    ("monosemy/steering/strength.py", "check_finite", "edited or not all((edited[row] for row in rows))"): (
        "gap: overflow of edited texts in a batch with others"
    ),
}
"""(module, function, code with the fault) → its reading."""
