"""What decides in the steering studies, by hand: means and differences over prompts, which latents are silenced."""

from __future__ import annotations

import pytest

from research.steering.ablation import BEHAVIOURS, chosen_set
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


def test_what_the_model_does_is_counted_in_the_text():
    months, french = BEHAVIOURS["names a month"], BEHAVIOURS["goes on in French"]
    assert months.in_text(" June 1914, when")
    assert not months.in_text(" the following year, he may")
    assert french.in_text(" le sud de la France, dans les Alpes")
    assert not french.in_text(" the south of France, en route to la Rochelle")
    assert BEHAVIOURS["writes code"].in_text("Sure:\n```python\n")
    assert BEHAVIOURS["numbers a list"].in_text("Here are some:\n\n1. Fish")
    assert not BEHAVIOURS["numbers a list"].in_text("In 2011. Then")
    for behaviour in BEHAVIOURS.values():
        assert len(set(behaviour.prompts)) == len(behaviour.prompts) == 40


def test_latents_are_added_until_enough_of_the_behaviour_is_gone():
    falls = {1: 0.3, 2: 0.2, 3: 0.35, 4: 0.0}

    def rates_of(sets: list[list[int]]) -> list[float]:
        return [0.9 - sum(falls[latent] for latent in latents) for latents in sets]

    leaders, rates = chosen_set(rates_of, [1, 2, 3, 4], 0.9)
    assert leaders == [3, 1, 2]  # the best two leave more than a quarter of it
    assert rates == pytest.approx([0.55, 0.25, 0.05])
    assert chosen_set(lambda sets: [0.9] * len(sets), [1, 2, 3, 4], 0.9)[0] == [1, 2, 3]
    assert chosen_set(lambda sets: [0.0] * len(sets), [7, 8], 0.9) == ([7], [0.0])
