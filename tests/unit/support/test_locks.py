"""Locks between processes: who is refused, who waits, and what a kill leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monosemy.errors import UserError
from monosemy.support.locks import LockedError, acquire, waiting_for

HOLDER = """
import sys, time
from pathlib import Path
from monosemy.support.locks import acquire
lock = acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def second_process(path: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the lock at `path`; killed at the end, if it still runs."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_the_refusal_names_the_process_that_holds_the_lock(tmp_path: Path):
    path = tmp_path / "new" / ".lock"
    with second_process(path) as holder:
        for _ in range(2):  # a refusal leaves the holder's number where it is
            with pytest.raises(LockedError) as refusal:
                acquire(path)
            assert (refusal.value.holder, refusal.value.held_here) == (str(holder.pid), False)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        acquire(path).release()


def test_a_lock_held_by_this_process_is_refused_and_free_after_release(tmp_path: Path):
    lock = acquire(tmp_path / ".lock")
    with pytest.raises(LockedError) as refusal:
        acquire(tmp_path / ".lock")
    assert refusal.value.held_here
    lock.release()
    lock.release()  # twice is harmless
    acquire(tmp_path / ".lock").release()
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_who_waits_goes_on_when_the_holder_is_killed(tmp_path: Path):
    entered = threading.Event()

    def wait() -> None:
        with waiting_for(tmp_path / ".lock", tmp_path / "final"):
            entered.set()

    with second_process(tmp_path / ".lock") as holder:
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not entered.wait(0.5)
        holder.kill()
        assert entered.wait(30)
        waiter.join()


def test_threads_of_one_process_exclude_each_other(tmp_path: Path):
    inside, together = 0, []

    def enter() -> None:
        nonlocal inside
        for _ in range(20):
            with waiting_for(tmp_path / ".lock", tmp_path / "final"):
                inside += 1
                together.append(inside)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1] * 80


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for attempt in (acquire, lambda path: waiting_for(path, path.parent / "final").__enter__()):
        with pytest.raises(UserError, match=r"a file of that name is in the way|a part of the path is a file"):
            attempt(tmp_path / "file" / ".lock")
