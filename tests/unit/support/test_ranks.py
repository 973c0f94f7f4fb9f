"""Ranks as real processes: what they exchange, and the one line that says which of them failed, and why."""

from __future__ import annotations

import signal
import socket
import time

import pytest
from rank_processes import ended, free_port, start_ranks

from monosemy.support import ranks


def test_one_process_is_the_first_of_one_and_waits_for_nobody():
    assert (ranks.rank(), ranks.n_ranks(), ranks.is_first()) == (0, 1, True)
    assert ranks.gathered("own") == ["own"]
    assert ranks.from_first(lambda: 3) == 3
    ranks.barrier()
    ranks.agree("settings", {"a": 1}, "")
    assert not ranks.another_failed()


EXCHANGE = """
print(ranks.gathered(10 * ranks.rank()), ranks.from_first(lambda: f"from {ranks.rank()}"))
ranks.agree("settings", {"a": {"b": 1}}, "")
"""


def test_values_of_all_ranks_come_in_their_order_and_those_of_the_first_everywhere():
    for rank in ended(start_ranks(EXCHANGE, 3)):
        assert rank == (0, "[0, 10, 20] from 0\n", [])


SUM = """
import torch, torch.distributed
from monosemy.support import rank_group
try:
    torch.distributed.all_reduce(torch.zeros(1))
except RuntimeError as error:  # as pipeline/wide.py does; torch names nobody here
    raise rank_group.ended(error) from None
"""

FAULTS = {
    "an error": (
        "if rank == 1: raise UserError('the disk is full')\nranks.barrier()",
        "rank 1: the disk is full",
    ),
    "an error of the first": (
        "if rank == 0: raise UserError('no model')\nranks.barrier()",
        "rank 0: no model",
    ),
    "killed": (
        "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nranks.barrier()",
        "rank 1 was killed or cannot be reached; run the same command to continue",
    ),
    "killed within an exchange": (
        "if rank == 1: ranks.barrier()\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nranks.gathered(0)",
        "rank 1 was killed or cannot be reached; run the same command to continue",
    ),
    "killed, one of four, while another computes": (
        "import time\nranks.barrier()\nif rank == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        # which for longer than anyone waits for an answer, and without letting another thread run
        f"if rank == 3: import ctypes; ctypes.PyDLL(None).sleep(20)\n{SUM}",
        "rank 2 was killed or cannot be reached; run the same command to continue",
    ),
    "killed, the first of three": (
        "if rank == 0: ranks.barrier()\nif rank == 0: os.kill(os.getpid(), signal.SIGKILL)\nranks.gathered(0)",
        "rank 0 was killed or cannot be reached; run the same command to continue",
    ),
    "other settings": (
        "ranks.agree('settings', {'training': {'batch_tokens': 512 + rank // 2}}, 'give every rank the same command')",
        "rank 2 has other settings: training.batch_tokens 513, but 512 at rank 0; give every rank the same command",
    ),
    "another place": (
        "ranks.require_visible(rank < 1, 'the run folder runs/a', 'share it')",
        "rank 1 does not see the run folder runs/a of rank 0; share it",
    ),
    "other versions": (
        "pass",
        "rank 1 has other versions: torch '2.8', but '2.7' at rank 0; install the same versions everywhere",
    ),
}


SIZES = {"other settings": 3, "killed, one of four, while another computes": 4, "killed, the first of three": 3}
"""Of the groups with more than two ranks."""


def test_every_fault_is_one_line_of_one_rank():
    for fault, (body, line) in FAULTS.items():
        ends = ended(start_ranks(body, SIZES.get(fault, 2), fault))
        assert [line for rank in ends for line in rank.errors] == [f"error: {line}"], fault
        killed = -signal.SIGKILL if fault.startswith("killed") else 2
        assert {rank.status for rank in ends} == {2, killed}, fault


def test_a_fault_of_all_is_told_by_the_first_which_clears_up_before(tmp_path):
    both = "import time; from pathlib import Path; time.sleep(0.3 * (rank == 0)); raise UserError('too wide')"
    assert [rank.errors for rank in ended(start_ranks(both, 2))] == [["error: rank 0: too wide"], []]


def test_where_a_launcher_tells_of_a_killed_rank_the_others_are_silent(monkeypatch):
    monkeypatch.setenv(ranks.LAUNCHED, "1")
    assert [(rank.status, rank.errors) for rank in ended(start_ranks(FAULTS["killed"][0], 2))] == [
        (2, []),
        (-signal.SIGKILL, []),
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MONOSEMY_RENDEZVOUS_SECONDS", "abc"),
        ("MASTER_PORT", "http"),
        ("RANK", "x"),
        ("RANK", "2"),
        ("WORLD_SIZE", "two"),
    ],
)
def test_a_variable_that_is_no_number_is_one_line(variable, value, monkeypatch):
    from monosemy.support.rank_group import connect

    for name, text in {"RANK": "0", "WORLD_SIZE": "2", variable: value}.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(
        ranks.RankError, match=f"{variable} is '{value}', but must be a whole number from [0-2] to .*e\\.g\\."
    ):
        connect()


def test_a_rendezvous_that_never_comes_names_who_is_missing(monkeypatch):
    monkeypatch.setenv("MONOSEMY_RENDEZVOUS_SECONDS", "2")
    first, second = (start_ranks("pass", 3, only=rank)[0] for rank in (0, 1))
    (host,), (guest,) = ended([first]), ended([second])
    assert host.status == guest.status == 2
    (line,) = host.errors
    assert line.startswith("error: rank 0: ranks 1, 2 did not come within 2.0 s at 127.0.0.1:")
    (line,) = guest.errors
    assert line.startswith("error: rank 1: rank 0 does not answer at 127.0.0.1:")


def test_a_port_in_use_is_named_by_every_rank(monkeypatch):
    monkeypatch.setenv("MONOSEMY_RENDEZVOUS_SECONDS", "2")
    with socket.socket() as server:
        port = free_port()
        server.bind(("", port))
        server.listen()
        ends = ended(start_ranks("pass", 2, port=port))
    assert [rank.status for rank in ends] == [2, 2]
    assert [rank.errors for rank in ends] == [
        [f"error: rank 0: port {port} is in use; set MASTER_PORT to a free one for all ranks"],
        [
            f"error: rank 1: another program than rank 0 listens at 127.0.0.1:{port}; "
            "set MASTER_PORT to a free one for all ranks"
        ],
    ]


WAITING = """
import time
from pathlib import Path
Path(sys.argv[1], f"rank-{rank}").touch()
while not Path(sys.argv[1], "over").exists():
    time.sleep(0.01)
print(ranks.gathered(rank))
"""


def test_the_port_of_another_run_is_named_and_that_run_goes_on(tmp_path):
    port = free_port()
    first_run = start_ranks(WAITING, 2, str(tmp_path), port=port)
    while len(list(tmp_path.iterdir())) < 2 and all(rank.poll() is None for rank in first_run):
        time.sleep(0.01)
    ends = ended(start_ranks("pass", 2, port=port))
    (tmp_path / "over").touch()
    assert ended(first_run) == [(0, "[0, 1]\n", [])] * 2
    assert [rank.errors for rank in ends] == [
        [f"error: rank 0: port {port} is in use; set MASTER_PORT to a free one for all ranks"],
        [
            f"error: rank 1: another rank 1 has come to 127.0.0.1:{port} before, perhaps of another run; "
            "set MASTER_PORT to a free one for all ranks"
        ],
    ]


@pytest.mark.parametrize(("words", "error"), [(["--processes", "0"], "at least 1"), (["--processes", "two"], "whole")])
def test_the_number_of_processes_has_a_range(words, error, capsys):
    from monosemy.cli import main

    with pytest.raises(SystemExit):
        main(["train", "quick", *words])
    assert "--processes" in (line := capsys.readouterr().err)
    assert error in line
    assert line.count("\n") == 1
