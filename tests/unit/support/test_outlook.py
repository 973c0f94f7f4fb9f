"""The time that several stages together still take, against a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from monosemy.config import RunConfig
from monosemy.pipeline.expected import expected_stages, first_look_stages
from monosemy.recipes import demo
from monosemy.support import outlook, progress
from monosemy.support.outlook import WEIGHT, ExpectedStage, Outlook

STAGES = (
    ExpectedStage("", 10.0),
    ExpectedStage("tokenise", 10.0, "other"),
    ExpectedStage("harvest", 100.0, "model"),
    ExpectedStage("training", 200.0, "training"),
    ExpectedStage("harvest", 50.0, "model"),
    ExpectedStage("report", 30.0, "other"),
)


class Recorded(NamedTuple):
    """A stage of a run as it went."""

    pause: float
    """Seconds before it."""
    name: str
    total: float
    seconds: float
    done: tuple[float, ...] = (1.0,)
    """Shares of its work that were done after equal parts of its seconds."""
    start: float = 0.0


QUIET = (
    Recorded(5, "tokenise", 166_144, 1.5),
    Recorded(12, "harvest", 86_016, 78),
    Recorded(4, "training the first SAE", 161_792, 13),
    Recorded(0.5, "features: reading the text", 86_016, 2.4),
    Recorded(4, "features: jumprelu-l0_32-s0", 6, 38, (1 / 6, 4 / 6, 1)),
    Recorded(0.5, "harvest", 150_016, 48, start=86_016),
    Recorded(14.5, "training 5 SAEs and 1 control", 282_112, 77, (0.11, 0.24, 0.37, 0.52, 0.67, 0.82, 1)),
    Recorded(2, "features: reading the text", 150_016, 2.4),
    Recorded(5.5, "features: jumprelu-l0_32-s0", 6, 7),
    Recorded(0.5, "reconstruction", 16_128, 17),
    Recorded(1.5, "model loss at layers.12.resid_post", 9_216, 19),
    Recorded(1, "report", 1, 6.6),
)
"""A smaller demo (`small_demo`) on two cores with nothing else to do: the stages to the second harvest of a run without
the 8-bit screen, the others of one with it, which were as fast (1 min 15 s and 1 min 17 s of training)."""
LOADED = (
    Recorded(40, "tokenise", 232_960, 2.7),
    Recorded(16, "harvest", 86_016, 144, (0.29, 0.56, 0.73, 0.83, 1)),
    Recorded(19, "training the first SAE", 161_792, 22, (0.14, 1)),
    Recorded(1.5, "features: reading the text", 86_016, 3.8),
    Recorded(0.5, "features: jumprelu-l0_32-s0", 6, 43, (1 / 6, 1 / 6, 5 / 6, 1)),
    Recorded(4, "harvest", 200_192, 146, (0.21, 0.42, 0.61, 0.75, 1), start=86_016),
    Recorded(
        30,
        "training 15 SAEs and 3 controls",
        376_832,
        349,
        (0.067, 0.16, 0.23, 0.28, 0.38, 0.5, 0.62, 0.74, 0.83, 0.92, 1),
    ),
    Recorded(13, "features: reading the text", 150_016, 3.4),
    Recorded(4, "features: jumprelu-l0_32-s0", 6, 8.7),
    Recorded(4, "reconstruction", 32_768, 57),
    Recorded(2, "model loss at layers.12.resid_post", 70_656, 155, (0.2, 0.42, 0.56, 0.7, 0.86, 1)),
    Recorded(1, "report", 1, 9.8),
)
"""The demo with downloads, on two cores of which other programs had one; pauses from what it said and its stages'
records."""


def small_demo() -> RunConfig:
    config = demo()
    text = replace(config.text, n_tokens=150_016, n_validation_tokens=16_000)
    return replace(config, l0=(32.0,), text=text, evaluation=replace(config.evaluation, n_loss_tokens=1024))


RUNS = {"quiet": (small_demo, QUIET), "loaded": (demo, LOADED)}


def dearer_training(run: Sequence[Recorded], factor: float) -> list[Recorded]:
    """The run on a made-up machine where training takes so many times as long and all else what it took."""
    return [stage._replace(seconds=stage.seconds * (factor if "training" in stage.name else 1)) for stage in run]


class Told(NamedTuple):
    stage: str
    after: float
    """Seconds since the beginning."""
    really_left: float
    ratio: float
    """What was told to be left, in terms of what was."""


def replay(config: RunConfig, run: Sequence[Recorded], clock: Callable[[float], None]) -> list[Told]:
    """What is told on the way through a run from the end of its first minute, while there is half a minute left."""
    whole, at_end = Outlook(expected_stages(config, 80_000)), sum(stage.pause + stage.seconds for stage in run)
    now, estimates = 0.0, list[Told]()
    for stage in run:
        clock(stage.pause)
        now += stage.pause
        whole.begin(stage.name, stage.total, stage.start)
        n_steps = 10 * len(stage.done)
        before = 0.0
        for step in range(1, n_steps + 1):
            clock(stage.seconds / n_steps)
            now += stage.seconds / n_steps
            share = float(np.interp(step / 10, range(len(stage.done) + 1), (0.0, *stage.done)))
            whole.advance((share - before) * (stage.total - stage.start))
            before = share
            if now >= 60 and at_end - now >= 30:
                left = whole.left()
                assert left is not None
                estimates.append(Told(stage.name, now, at_end - now, left / (at_end - now)))
        whole.end()
    return estimates


@pytest.fixture
def clock(monkeypatch):
    seconds = [1000.0]
    monkeypatch.setattr(outlook.time, "monotonic", lambda: seconds[0])

    def advance(n: float) -> None:
        seconds[0] += n

    return advance


def slowness(spent: float, done: float, of_all: float) -> float:
    return (spent + WEIGHT * of_all) / (done + WEIGHT)


def test_each_kind_of_work_has_its_own_slowness_and_that_of_all_until_it_is_measured(clock):
    whole = Outlook(STAGES)
    clock(35)  # downloads, which say nothing of what comes
    whole.begin("tokenise", 100, 0)
    assert whole.left() is None
    clock(20)
    whole.advance(100)
    whole.end()
    assert whole.left() == pytest.approx(2 * 380)
    clock(15)
    whole.begin("harvest", 1000, 0)
    clock(25)
    whole.advance(500)
    of_all = (20 + 25) / (10 + 50)
    model, other = slowness(25, 50, of_all), slowness(20, 10, of_all)
    assert model < of_all < other
    assert whole.left() == pytest.approx(model * (50 + 50) + of_all * 200 + other * 30)


def test_of_what_was_measured_the_last_minutes_count_most(clock):
    whole = Outlook([ExpectedStage("harvest", 1000.0, "model")])
    whole.begin("harvest", 1000, 0)
    for _ in range(200):
        clock(2)
        whole.advance(1)
    assert whole.left() == pytest.approx(2 * 800)
    for _ in range(200):  # twice as fast as expected now, as another program has ended
        clock(0.5)
        whole.advance(1)
    mean = (400 + 100) / 400 * 600
    assert 0.5 * 600 < whole.left() < 0.85 * mean


def test_restored_and_missing_stages_count_for_nothing(clock):
    whole = Outlook(STAGES)
    clock(10)
    whole.begin("training 2 SAEs", 100, 50)  # tokens and activations were there, and half of the training
    clock(20)
    whole.advance(10)
    assert whole.left() == pytest.approx(20 / 20 * (80 + 80))
    whole.end()
    whole.begin("harvest", None, 0)
    assert whole.left() == pytest.approx(20 / 100 * (50 + 30))


def test_a_stage_that_goes_on_has_the_seconds_of_its_rest(clock):
    """The second harvest of a run begins where that of its first look ended, with the units of what is left."""
    whole = Outlook([ExpectedStage("harvest", 50.0, "model", 600.0)])
    whole.begin("harvest", 1000, 400)
    clock(25)
    whole.advance(300)
    assert whole.left() == pytest.approx(25)
    again = Outlook([ExpectedStage("harvest", 50.0, "model", 600.0)])
    again.begin("harvest", 1000, 700)  # half of it was restored
    clock(25)
    again.advance(150)
    assert again.left() == pytest.approx(25)


def test_what_is_not_expected_changes_nothing(clock):
    whole = Outlook(STAGES)
    clock(10)
    whole.begin("tokenise", 10, 0)
    clock(10)
    whole.advance(10)
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


@pytest.mark.parametrize("name", RUNS)
def test_from_the_first_minute_on_a_recorded_run_is_told_within_a_factor_of_one_and_a_half(clock, name):
    config, run = RUNS[name]
    estimates = replay(config(), run, clock)
    assert estimates[0].after < 70
    assert estimates[-1].really_left < 40
    assert [row for row in estimates if not 0.7 < row.ratio < 1.5] == []


@pytest.mark.parametrize("name", RUNS)
def test_where_training_is_much_dearer_it_is_told_so_once_that_shows(clock, name):
    config, run = RUNS[name]
    estimates = replay(config(), dearer_training(run, 2.5), clock)
    began = next(row.after for row in estimates if row.stage.endswith(("control", "controls")))
    assert [row for row in estimates if not 0.53 < row.ratio < 1.5] == []
    assert [row for row in estimates if row.after > began + 60 and not 0.65 < row.ratio < 1.5] == []


def test_the_stages_of_the_demo_are_told_in_their_order_and_those_of_its_first_look_are_among_them():
    config = demo()
    first, whole, rest = first_look_stages(config, 86_016), expected_stages(config, 86_016), expected_stages(config, 0)
    assert whole[: len(first)] == first
    names = [stage.name for stage in (*first[:3], *whole[len(first) :])]
    assert [stage.name for stage in rest] == names
    harvests = [sum(stage.seconds for stage in stages if stage.name == "harvest") for stages in (whole, rest)]
    assert harvests[0] == pytest.approx(harvests[1])
    assert sum(stage.seconds for stage in first) < sum(stage.seconds for stage in whole) / 3
