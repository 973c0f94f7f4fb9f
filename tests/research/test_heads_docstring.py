"""The choice among docstring's variants: the rule by hand, and that the task's default is what its record says."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from monosemy.circuits.heads.tasks.docstring import DEFAULT, SOURCE, DocstringVariant
from monosemy.errors import UserError
from research.heads.docstring import VARIANTS, nearest_clear_variant, needs_order, settings_changed
from research.records import records_of


def row(variant, low, share):
    return {"variant": asdict(variant), "selection": {"share": share, "interval": [low, 1.0]}}


def test_the_rule_takes_the_variant_nearest_to_the_source_that_is_clearly_done():
    names, before = DocstringVariant(names="code"), DocstringVariant(n_before=0)
    both, exclusion = DocstringVariant(n_before=0, names="code"), DocstringVariant(n_before=0, n_after=0)
    assert [settings_changed(variant) for variant in (SOURCE, names, before, both, exclusion)] == [0, 1, 1, 2, 2]
    assert [needs_order(variant) for variant in (names, both, exclusion)] == [True, True, False]
    rows = [row(SOURCE, 0.7, 0.8), row(exclusion, 0.99, 1.0), row(both, 0.95, 0.98)]
    assert nearest_clear_variant(rows) == both
    rows += [row(names, 0.89, 0.95)]  # not clearly: the interval reaches below 90%
    assert nearest_clear_variant(rows) == both
    rows += [row(before, 0.90, 0.94)]
    assert nearest_clear_variant(rows) == before  # nearer, though less accurate
    assert nearest_clear_variant([*rows, row(names, 0.91, 0.95)]) == names  # as near and more accurate
    with pytest.raises(UserError, match="no variant of docstring is clearly right on 90% of its prompts"):
        nearest_clear_variant([row(SOURCE, 0.7, 0.8), row(exclusion, 0.99, 1.0)])


def test_the_tasks_default_is_the_variant_that_the_record_selects():
    record = records_of("heads")["docstring"]
    assert {DocstringVariant(**entry["variant"]) for entry in record["variants"]} == set(VARIANTS)
    assert DEFAULT == nearest_clear_variant(record["variants"]) == DocstringVariant(**record["selected"])
