"""The steering benchmark's means and differences over prompts, by hand."""

from __future__ import annotations

import pytest

from research.steering.estimates import mean_over_prompts, paired_difference


def test_means_and_differences_over_prompts():
    average = mean_over_prompts([1.0, None, 3.0, 2.0])
    assert (average.mean, average.n) == (2.0, 3)
    assert average.interval[0] < 2 < average.interval[1]
    assert mean_over_prompts([None]).mean is None
    assert mean_over_prompts([1.0]).interval is None
    apart = paired_difference([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
    assert apart.mean == 0.5
    assert apart.interval == pytest.approx((0.5, 0.5))
