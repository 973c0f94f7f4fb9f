"""Verdicts say no more than intervals allow; numbers are written readably."""

from __future__ import annotations

import math

import pytest

from monosemy.report.compare import beaten_by_control, points, verdicts, with_interval
from monosemy.report.read import MEASURES, Evaluated, Measure
from monosemy.report.summary import control_sentence, verdict_sentence
from monosemy.support.numbers import measured_text

NAN = math.nan


def record(
    architecture: str,
    fvu: tuple[float, float, float],
    *,
    l0: float = 32.0,
    target: float | None = 32.0,
    seed: int = 0,
    control: bool = False,
    stopped: str | None = None,
) -> Evaluated:
    measures = dict.fromkeys(MEASURES, Measure(NAN)) | {"l0": Measure(l0, l0, l0), "fvu": Measure(*fvu)}
    name = f"{architecture}-l0_{target or 0:g}-s{seed}"
    return Evaluated(
        name,
        architecture,
        "site",
        target,
        seed=seed,
        d_sae=64,
        control=control,
        n_tokens=1000,
        n_loss_tokens=0,
        measures=measures,
        l0_quantiles={},
        stopped=stopped,
    )


def sentence(*records: Evaluated) -> str:
    (verdict,) = verdicts(points(records), "fvu")
    return verdict_sentence(verdict)


def test_a_clear_winner_is_called_one() -> None:
    verdict = sentence(record("topk", (0.2, 0.19, 0.21)), record("relu", (0.4, 0.39, 0.41)))
    assert verdict == "TopK has the lowest FVU, 0.200 [0.190, 0.210], and its interval lies below that of ReLU + L1."


def test_overlapping_intervals_are_not_told_apart() -> None:
    verdict = sentence(
        record("topk", (0.2, 0.19, 0.22)), record("gated", (0.21, 0.2, 0.23)), record("relu", (0.4, 0.39, 0.41))
    )
    assert (
        verdict == "TopK has the lowest FVU, 0.200 [0.190, 0.220], not told apart from Gated (the intervals overlap)."
    )


def test_touching_intervals_count_as_overlapping() -> None:
    assert "not told apart" in sentence(record("topk", (0.2, 0.19, 0.21)), record("gated", (0.22, 0.21, 0.23)))


def test_without_intervals_nothing_is_claimed() -> None:
    verdict = sentence(record("topk", (0.2, NAN, NAN)), record("relu", (0.4, NAN, NAN)))
    assert "without an interval" in verdict


def test_saes_off_their_l0_are_not_ranked() -> None:
    (verdict,) = verdicts(
        points([record("topk", (0.3, 0.29, 0.31)), record("relu", (0.2, 0.19, 0.21), l0=34.0)]), "fvu"
    )
    assert [p.architecture for p in verdict.ranked] == ["topk"]
    assert [p.architecture for p in verdict.off_target] == ["relu"]
    assert verdict_sentence(verdict).startswith("TopK alone")
    assert "No SAE reached" in sentence(record("relu", (0.2, 0.19, 0.21), l0=40.0))


def test_l0_within_five_percent_is_on_target_and_beyond_is_not() -> None:
    within, beyond = (points([record("topk", (0.2, 0.1, 0.3), l0=32 * f)])[0] for f in (1.049, 1.051))
    assert within.on_target
    assert not beyond.on_target


def test_seeds_become_a_mean_with_the_envelope_of_their_intervals() -> None:
    (point,) = points([record("topk", (0.2, 0.18, 0.21), seed=0), record("topk", (0.24, 0.23, 0.26), seed=1)])
    assert point["fvu"].value == pytest.approx(0.22)
    assert (point["fvu"].low, point["fvu"].high) == (0.18, 0.26)
    assert point.spread("fvu") == pytest.approx(0.04 / math.sqrt(2))
    assert math.isnan(points([record("topk", (0.2, 0.18, 0.21))])[0].spread("fvu"))


def test_stopped_saes_and_controls_are_not_ranked() -> None:
    verdict = sentence(
        record("topk", (0.3, 0.29, 0.31)),
        record("relu", (0.1, 0.09, 0.11), stopped="NaN"),
        record("pca", (0.05, 0.04, 0.06), control=True),
    )
    assert verdict.startswith("TopK alone")


def test_saes_of_no_asked_l0_stay_apart_points() -> None:
    a, b = record("relu", (0.2, 0.1, 0.3), target=None), record("relu", (0.4, 0.3, 0.5), target=None, l0=9)
    separate = points([a, Evaluated(**{**vars(b), "name": "relu-coef_2-s0"})])
    assert len(separate) == 2
    assert verdicts(separate, "fvu") == []


def test_controls_are_beaten_only_with_intervals_apart() -> None:
    control = record("frozen_random", (0.5, 0.45, 0.55), control=True)
    better, close, worse = (
        record("topk", (0.2, 0.1, 0.3)),
        record("relu", (0.44, 0.4, 0.48)),
        record("gated", (0.7, 0.6, 0.8)),
    )
    compared, unclear = beaten_by_control(points([control, better, close, worse]), "frozen_random", "fvu")
    assert len(compared) == 3
    assert {p.architecture for p in unclear} == {"relu", "gated"}
    verdict = control_sentence(points([control, better, close]), "frozen_random", "it")
    assert verdict == "Not clearly lower in FVU than it at the same L0: ReLU + L1 at L0 32. The other one is."
    assert control_sentence(points([control, better]), "frozen_random", "it") == (
        "Every SAE has a lower FVU than it at the same L0, with intervals apart."
    )
    assert control_sentence(points([better]), "frozen_random", "it") is None


def test_an_sae_of_no_asked_l0_is_named_without_one() -> None:
    control = record("frozen_random", (0.5, 0.45, 0.55), target=None, control=True)
    close = record("relu", (0.44, 0.4, 0.48), target=None)
    verdict = control_sentence(points([control, close]), "frozen_random", "it")
    assert verdict == "Not clearly lower in FVU than it at the same L0: ReLU + L1."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.21345, "0.213"),
        (1.2345, "1.23"),
        (12.345, "12.3"),
        (60211, "60,211"),
        (0.000123, "0.000123"),
        (1.5e-7, "1.50e-07"),
        (-0.0312, "-0.0312"),
        (NAN, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert measured_text(value) == text


def test_intervals_have_the_decimals_of_their_value() -> None:
    assert with_interval(Measure(0.213, 0.2, 0.2261)) == "0.213 [0.200, 0.226]"
    assert with_interval(Measure(0.1, 0.08, 0.12), percent=True) == "10.0% [8.0, 12.0]"
    assert with_interval(Measure(0.5)) == "0.500"
    assert with_interval(Measure(NAN, 0, 1)) == "–"
