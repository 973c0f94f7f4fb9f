"""What a long stage shows, on a terminal and in a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from monosemy.support import progress

STAGE = """
import time
from monosemy.support import progress
class Clock:  # a busy machine takes no longer
    now = 0.0
    def monotonic(self):
        return self.now
clock = progress.time = Clock()
progress.PLAIN_INTERVAL_SECONDS = 0.1
with progress.stage("harvest", total=3000, unit="tokens") as bar:
    for _ in range(15):
        time.sleep(0.03)
        clock.now += 0.03
        bar.advance(200)
        bar.note("loss 1.25")
print("result")
"""


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.delenv("MONOSEMY_QUIET", raising=False)


def test_log_has_a_line_now_and_then_and_one_at_the_end():
    done = subprocess.run([sys.executable, "-c", STAGE], capture_output=True, text=True, check=True)
    assert done.stdout == "result\n"
    lines = done.stderr.splitlines()
    assert len(lines) >= 3
    between = r"harvest: [\d,]+/3,000 tokens \(\d+%\), [\d,]+ tokens/s, [\d.]+ s left(, loss 1\.25)?"
    assert all(re.fullmatch(between, line) for line in lines[:-1])
    last = r"harvest: 3,000/3,000 tokens \(100%\), [\d,]+ tokens/s, took [\d.]+ s, loss 1\.25"
    assert re.fullmatch(last, lines[-1])
    assert "\x1b" not in done.stderr


def test_log_of_a_short_stage_has_one_line():
    seldom = STAGE.replace("progress.PLAIN_INTERVAL_SECONDS = 0.1", "")
    done = subprocess.run([sys.executable, "-c", seldom], capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1


def test_quiet_says_nothing():
    environment = {**os.environ, "MONOSEMY_QUIET": "1"}
    done = subprocess.run([sys.executable, "-c", STAGE], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("result\n", "")


def on_terminal(program: str, **variables: str) -> str:
    """What the program shows on a real (pseudo-)terminal of 120 columns."""
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **variables}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=side, stderr=side, env=environment)
    os.close(side)
    output = b""
    try:
        while block := os.read(main, 65536):
            output += block
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(main)
    assert process.wait() == 0
    return output.decode()


def test_terminal_has_a_bar_with_rate_and_time_left():
    drawn = STAGE.replace('bar.note("loss 1.25")', 'bar.note("loss 1.25"); bar.bar.display.refresh()')
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_terminal(drawn))
    assert "━" in output
    assert re.search(r"[\d,]+/3,000 tokens \(\d+%\) +[\d,]+ tokens/s +[\d.]+ s +[\d.]+ s left +loss 1\.25", output)
    assert "3,000/3,000 tokens (100%)" in output


def test_dumb_terminal_gets_plain_lines():
    assert "\x1b" not in on_terminal(STAGE, TERM="dumb")


def test_failure_inside_a_terminal_stage_restores_the_terminal():
    program = STAGE.replace('bar.note("loss 1.25")', "raise SystemExit(0)")
    output = on_terminal(program)
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full is Linux's")
def test_full_disk_under_the_log_does_not_end_the_work():
    with open("/dev/full", "w") as log:
        done = subprocess.run([sys.executable, "-c", STAGE], stdout=subprocess.PIPE, stderr=log, text=True)
    assert done.stdout == "result\n"


def test_closed_log_does_not_end_the_work():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", STAGE], stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert done.stdout == "result\n"


def test_terminal_that_hangs_up_does_not_end_the_work():
    main, side = pty.openpty()
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + STAGE
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(side)
    os.read(main, 1)  # the first drawing has come
    os.close(main)
    assert process.communicate(timeout=60)[0] == "result\n"


def test_failures_of_the_work_itself_are_not_hidden():
    with pytest.raises(ZeroDivisionError), progress.stage("divide"):
        _ = 1 / 0


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)

    def spend(self, bar, seconds: float, n: float) -> None:
        self.now += seconds
        bar.advance(n)


def test_rate_counts_only_what_was_done_here(capsys, monkeypatch):
    """A resumed stage: 900 of 1000 were done by an earlier process."""
    clock = Clock(monkeypatch)
    bar = progress._Plain("train", 1000, "steps", 900, stream=sys.stderr, interval=1e9)
    for _ in range(5):
        clock.spend(bar, 2, 10)
    bar.print_line(finished=False)
    assert capsys.readouterr().err == "train: 950/1,000 steps (95%), 5 steps/s, 10 s left\n"
    bar.print_line(finished=True)
    assert capsys.readouterr().err == "train: 950/1,000 steps (95%), 5 steps/s, took 10 s\n"


def test_no_time_left_is_promised_from_a_first_step_that_compiles(capsys, monkeypatch):
    """A minute of compiling, then a step a second: nothing is said until steps have shown how fast they go."""
    clock = Clock(monkeypatch)
    bar = progress._Plain("training", 600, "steps", 0, stream=sys.stderr, interval=0)
    clock.spend(bar, 60, 1)
    clock.spend(bar, 1, 1)
    clock.spend(bar, 1, 1)
    clock.spend(bar, 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 1/600 steps (0%)"
    assert lines[1] == "training: 2/600 steps (0%)"
    assert lines[2] == "training: 3/600 steps (0%), 1 steps/s, 9 min 57 s left"
    assert lines[3] == "training: 4/600 steps (1%), 1 steps/s, 9 min 56 s left"


@pytest.mark.parametrize("n", [3, 40, 1000, 5000])
def test_the_rate_follows_the_later_half_of_the_work(monkeypatch, n):
    """Slow for the first half of the time, ten times as fast in the second; from few marks whatever the length."""
    clock, rate = Clock(monkeypatch), progress._Rate()
    done = 0.0
    for i in range(2 * n):
        clock.now += 1
        done += 1 if i < n else 10
        rate.observe(done)
    assert len(rate.marks) <= progress._Rate.MARKS
    assert rate.per_second() == pytest.approx(10, rel=0.15 if n > 3 else 0.5)


def test_unknown_total(capsys):
    with progress.stage("count", unit="documents") as bar:
        bar.advance(3)
    assert re.fullmatch(r"count: 3 documents, .* documents/s, took [\d.]+ s\n", capsys.readouterr().err)


def test_import_is_light():
    program = (
        "import sys, monosemy.support.progress; print([m for m in ('rich', 'torch', 'numpy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
