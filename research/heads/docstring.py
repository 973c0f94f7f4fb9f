"""Docstring: on which variant of its prompts is the embedded model right often enough?

Every variant is measured twice: on selection prompts, from which the rule chooses, and on others, whose accuracy is the
one to report. Both are draws apart from those of the circuits (seed 0).

Rule: of the variants whose 95% interval on selection prompts lies whole at or above 90%, the one with the fewest
settings other than the source's; among those as near, the one of the highest accuracy. A variant in which the answer is
the only argument not described yet is measured but never selected: there the order of the arguments is not needed.

Run: python -m research.heads.docstring (about 10 minutes on one free core)
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from monosemy.circuits.heads.model_heads import Heads, as_heads, batches
from monosemy.circuits.heads.task import Example, clean_tokens
from monosemy.circuits.heads.tasks import TaskAccuracy, task_accuracy
from monosemy.circuits.heads.tasks.docstring import DEFAULT, SOURCE, DocstringVariant, build
from monosemy.circuits.heads.tasks.prompts import Prompts
from monosemy.errors import UserError
from monosemy.support import progress
from research.common import save
from research.records import record_path

VARIANTS = tuple(
    DocstringVariant(n_before, n_matching, n_after, names)
    for names in ("words", "code")
    for n_before, n_matching, n_after in (
        (2, 3, 1),
        (1, 3, 1),
        (0, 3, 1),
        (2, 3, 0),
        (0, 3, 0),
        (2, 2, 1),
        (2, 4, 1),
    )
)
N_PROMPTS = 128
SELECTION_SEED, REPORTING_SEED = 1, 2
MIN_CLEAR_ACCURACY = 0.9


def accuracy_on(heads: Heads, examples: tuple[Example, ...]) -> TaskAccuracy:
    """How often the model is right on these prompts."""
    tokens = clean_tokens(examples)
    return task_accuracy(torch.cat([heads.run(tokens[rows]).logits for rows in batches(heads, tokens)]), examples)


def settings_changed(variant: DocstringVariant) -> int:
    """How many of a variant's settings are not the source's."""
    return sum(getattr(variant, field.name) != getattr(SOURCE, field.name) for field in fields(variant))


def needs_order(variant: DocstringVariant) -> bool:
    """Whether some argument besides the answer is not described, so that only the order tells the answer."""
    return variant.n_before + variant.n_after > 0


def nearest_clear_variant(rows: Sequence[Mapping[str, Any]]) -> DocstringVariant:
    """The variant that the rule chooses. Raises UserError when none is clearly right often enough."""
    clear = [
        row
        for row in rows
        if row["selection"]["interval"][0] >= MIN_CLEAR_ACCURACY and needs_order(DocstringVariant(**row["variant"]))
    ]
    if not clear:
        raise UserError(
            f"no variant of docstring is clearly right on {MIN_CLEAR_ACCURACY:.0%} of its prompts; choose another task"
        )

    def by_distance(row: Mapping[str, Any]) -> tuple[int, float]:
        return settings_changed(DocstringVariant(**row["variant"])), -row["selection"]["share"]

    return DocstringVariant(**min(clear, key=by_distance)["variant"])


def measure_variants(heads: Heads, prompts: Prompts, n: int = N_PROMPTS) -> list[dict[str, Any]]:
    """One row a variant: its settings and the accuracy on selection and on reporting prompts."""
    rows: list[dict[str, Any]] = []
    with progress.stage("docstring variants", total=len(VARIANTS), unit="variants") as bar:
        for variant in VARIANTS:
            selection, reporting = (
                build(prompts, n, seed, variant=variant).positives for seed in (SELECTION_SEED, REPORTING_SEED)
            )
            assert not {e.tokens for e in selection} & {e.tokens for e in reporting}
            rows.append(
                {
                    "variant": asdict(variant),
                    "n_tokens": len(selection[0].tokens),
                    "selection": asdict(accuracy_on(heads, selection)),
                    "reporting": asdict(accuracy_on(heads, reporting)),
                }
            )
            print(f"{variant.task_name}: {rows[-1]['selection']['share']:.1%}", flush=True)
            bar.advance()
    return rows


def main() -> None:
    from monosemy.models.sources import load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=record_path("heads", "docstring"))
    arguments = parser.parse_args()
    model = load_model("embedded")
    rows = measure_variants(as_heads(model), Prompts(model.tokenizer))
    selected = nearest_clear_variant(rows)
    print(f"by the rule: {selected}; the task's default: {DEFAULT}")
    save(arguments.out, {"variants": rows, "selected": asdict(selected)})


if __name__ == "__main__":
    main()
