"""One rule on dropped positions, the same at every site, in training and in evaluation."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from activation_cases import CONFIG, EOS, NORMS, OUTLIER, A, ArrayTokens, B, TableModel, expected_keep, topical_text

from monosemy.activations.harvest import (
    REASONS,
    DropRules,
    drop_reasons,
    drop_rules,
    harvest_rows,
    keep_mask,
    measure_sites,
)
from monosemy.config import ActivationsConfig
from monosemy.errors import UserError


def with_(**changes: object) -> ActivationsConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def harvested(config: ActivationsConfig = CONFIG, sites: tuple[str, ...] = (A, B)) -> list:
    model, text = TableModel(), topical_text()
    return list(harvest_rows(model, text, sites, config, statistics=measure_sites(model, text, sites, config)))


def test_rows_are_the_kept_tokens_in_order_and_aligned_over_sites() -> None:
    text, tables = topical_text(), TableModel().tables
    parts = harvested()
    tokens = torch.cat([rows.token_ids for rows in parts]).long()
    keep = expected_keep(text)
    assert tokens.tolist() == text.tokens[keep].tolist()
    assert torch.cat([rows.document for rows in parts]).tolist() == text.numbers[keep].tolist()
    sequence, position = np.nonzero(keep)
    assert torch.cat([rows.sequence for rows in parts]).tolist() == sequence.tolist()
    assert torch.cat([rows.position for rows in parts]).tolist() == position.tolist()
    for site in (A, B):
        assert torch.equal(torch.cat([rows.activations[site] for rows in parts]), tables[site][tokens])


def test_an_outlier_at_one_site_is_dropped_at_all_and_only_when_that_site_is_harvested() -> None:
    both = torch.cat([rows.token_ids for rows in harvested()])
    alone = torch.cat([rows.token_ids for rows in harvested(sites=(A,))])
    assert OUTLIER not in both.tolist()
    assert OUTLIER in alone.tolist()


def test_every_dropped_position_is_counted_once_for_its_first_reason() -> None:
    text = topical_text()
    counts = {reason: sum(rows.n_dropped[reason] for rows in harvested()) for reason in REASONS}
    later = text.tokens[:, 1:]
    assert counts == {
        "first_position": text.n_sequences,
        "special_token": int((later == EOS).sum()),
        "norm_outlier": int((later == OUTLIER).sum()),
    }
    assert counts["norm_outlier"] > 3
    assert sum(counts.values()) + int(expected_keep(text).sum()) == text.tokens.size


def test_evaluation_keeps_the_very_positions_that_harvesting_keeps() -> None:
    model, text = TableModel(), topical_text()
    rules = drop_rules(model, CONFIG, measure_sites(model, text, (A, B), CONFIG))
    rules = DropRules.from_json(json.loads(json.dumps(rules.to_json())))
    tokens = torch.from_numpy(text.tokens.astype(np.int64))
    activations = model.activations(tokens, (A, B))
    assert np.array_equal(keep_mask(tokens, activations, rules).numpy(), expected_keep(text))
    assert torch.equal(drop_reasons(tokens, activations, rules) == 0, keep_mask(tokens, activations, rules))
    with pytest.raises(ValueError, match=r"layers\.1\.mlp_out"):
        keep_mask(tokens, {A: activations[A]}, rules)
    alone = keep_mask(tokens, {A: activations[A]}, rules.only([A]))
    assert int(alone.sum()) > int(expected_keep(text).sum())


@pytest.mark.parametrize("batch_sequences", [1, 3, 64])
def test_rows_do_not_depend_on_how_many_sequences_go_through_at_once(batch_sequences: int) -> None:
    parts, reference = harvested(with_(batch_sequences=batch_sequences)), harvested()
    for site in (A, B):
        together = torch.cat([rows.activations[site] for rows in parts])
        assert torch.equal(together, torch.cat([rows.activations[site] for rows in reference]))


def test_rules_can_be_switched_off() -> None:
    config = with_(drop_first_positions=0, drop_special_tokens=False, outlier_multiple=0.0)
    assert sum(len(rows.token_ids) for rows in harvested(config)) == topical_text().tokens.size
    rules = drop_rules(TableModel(), config, measure_sites(TableModel(), topical_text(), (A,), config))
    assert math.isinf(rules.norm_limits[A])
    assert DropRules.from_json(json.loads(json.dumps(rules.to_json()))) == rules


def test_statistics_are_those_of_the_held_in_sample() -> None:
    model, text = TableModel(), topical_text(outliers=0.05)
    model.tables[B] *= torch.linspace(0.5, 1.5, len(model.tables[B]))[:, None]
    stats = measure_sites(model, text, (A, B), CONFIG, n_tokens=10 * 32)[B]
    sample = text.tokens[:10, 1:]
    ordinary = sample[sample != EOS]
    length = model.tables[B].norm(dim=1).double().numpy()
    assert stats.median_norm == np.sort(length[ordinary])[(len(ordinary) - 1) // 2]
    inliers = ordinary[ordinary != OUTLIER]
    assert stats.scale == pytest.approx(np.sqrt((length[inliers] ** 2).mean()), rel=1e-6)
    assert (stats.n_tokens, stats.n_ordinary) == (320, len(ordinary))
    assert stats.n_outliers == len(ordinary) - len(inliers) > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_an_error_that_names_site_and_sequence(value: float) -> None:
    text = topical_text(outliers=0)
    text.tokens[17, 5] = OUTLIER
    model = TableModel(poison=(B, OUTLIER, value))
    rules = drop_rules(model, CONFIG, measure_sites(TableModel(), text, (A, B), CONFIG))
    with pytest.raises(UserError, match=r"layers\.1\.mlp_out .* sequence 17, position 5"):
        list(harvest_rows(model, text, (A, B), CONFIG, statistics=rules))
    assert len(list(harvest_rows(model, text, (A,), CONFIG, statistics=rules.only([A])))) == 20


def test_norms_of_half_precision_activations_do_not_overflow() -> None:
    model, text = TableModel(), topical_text()
    # position 0 then has components of up to 50,000: finite in float16, while their squares are not
    model.tables = {site: (table * (50 / NORMS[site])).half() for site, table in model.tables.items()}
    assert measure_sites(model, text, (A,), CONFIG)[A].median_norm == pytest.approx(50, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_first_positions": 32}, "drop_first_positions must be from 0 to 31"),
        ({"drop_first_positions": -1}, "drop_first_positions"),
        ({"outlier_multiple": 0.5}, "outlier_multiple must be above 1"),
        ({"outlier_multiple": -6.0}, "outlier_multiple must be above 1"),
        ({"batch_sequences": 0}, "batch_sequences must be at least 1"),
    ],
)
def test_rules_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure_sites(TableModel(), topical_text(), (A,), with_(**changes))


def test_sites_are_resolved_once_and_unknown_ones_refused() -> None:
    stats = measure_sites(TableModel(), topical_text(), ("blocks.0.hook_resid_post", A), CONFIG)
    assert list(stats) == [A]
    with pytest.raises(UserError, match="did you mean"):
        measure_sites(TableModel(), topical_text(), ("layers.0.resid_pos",), CONFIG)
    with pytest.raises(UserError, match="no sites"):
        measure_sites(TableModel(), topical_text(), (), CONFIG)


def test_text_without_an_ordinary_token_is_refused() -> None:
    empty = ArrayTokens(np.zeros((4, 8), dtype=np.int32), np.zeros((4, 8), dtype=np.int32))
    with pytest.raises(UserError, match="none of the first 32 tokens counts"):
        measure_sites(TableModel(), empty, (A,), CONFIG)
