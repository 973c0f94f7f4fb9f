"""The time that several stages together still take, against a clock that the test moves."""

from __future__ import annotations

import pytest

from monosemy.pipeline.expected import expected_stages, first_look_stages
from monosemy.recipes import demo
from monosemy.support import outlook, progress
from monosemy.support.outlook import Outlook

STAGES = (("", 10.0), ("tokenise", 10.0), ("harvest", 100.0), ("training", 200.0), ("harvest", 50.0), ("report", 30.0))


@pytest.fixture
def clock(monkeypatch):
    seconds = [1000.0]
    monkeypatch.setattr(outlook.time, "monotonic", lambda: seconds[0])

    def advance(n: float) -> None:
        seconds[0] += n

    return advance


def test_what_is_left_follows_the_speed_so_far(clock):
    whole = Outlook(STAGES)
    clock(20)  # loading took twice the expected time
    whole.begin("tokenise", 100, 0)
    assert whole.left() == pytest.approx(2 * 390)
    whole.advance(50)
    clock(10)
    assert whole.left() == pytest.approx(2 * 385)
    whole.end()
    clock(10)
    whole.begin("harvest", 1000, 0)
    whole.advance(500)
    clock(30)  # 70 seconds for what should have taken 70
    assert whole.left() == pytest.approx(50 + 280)


def test_restored_and_missing_stages_count_for_nothing(clock):
    whole = Outlook(STAGES)
    clock(10)
    whole.begin("training 2 SAEs", 100, 50)  # tokens and activations were there, and half of the training
    clock(20)
    whole.advance(10)
    assert whole.left() == pytest.approx((80 + 80) * 30 / (10 + 20))
    whole.begin("harvest", None, 0)
    assert whole.left() == pytest.approx((30 + 50) * 30 / (10 + 100))


def test_what_is_not_expected_changes_nothing(clock):
    whole = Outlook(STAGES)
    clock(10)
    whole.begin("tokenise", 10, 0)
    clock(10)
    whole.end()
    before = whole.left()
    whole.begin("another thing", 5, 0)
    whole.advance(5)
    whole.end()
    assert whole.left() == before == pytest.approx(380)


def test_nothing_is_said_too_early(clock):
    whole = Outlook(STAGES)
    assert whole.left() is None
    clock(5)
    whole.begin("tokenise", 10, 0)
    assert whole.left() is None


def test_every_line_of_a_stage_tells_it(clock, monkeypatch, capsys):
    monkeypatch.delenv("MONOSEMY_QUIET", raising=False)
    monkeypatch.setattr(progress, "_is_terminal", lambda stream: False)
    with progress.together(STAGES):
        clock(10)
        with progress.stage("harvest", 100, "tokens") as bar:
            clock(50)
            bar.advance(50)
            clock(11)
            bar.advance(1)
    with progress.stage("harvest", 100, "tokens") as bar:
        clock(11)
        bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(", about 6 min left in all")  # 330 s expected, 1.0 times the expected time so far
    assert sum("left in all" in line for line in lines) == 2
    assert "took" in lines[2]
    assert "left in all" not in lines[2]


def test_the_stages_of_the_demo_are_told_in_their_order_and_those_of_its_first_look_are_among_them():
    config = demo()
    first, whole, rest = first_look_stages(config, 86_016), expected_stages(config, 86_016), expected_stages(config, 0)
    assert whole[: len(first)] == first
    assert [name for name, _ in rest] == [name for name, _ in (*first[:3], *whole[len(first) :])]
    assert sum(seconds for name, seconds in whole if name == "harvest") == pytest.approx(dict(rest)["harvest"])
    assert sum(seconds for _, seconds in first) < sum(seconds for _, seconds in whole) / 4
