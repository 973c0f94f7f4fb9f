"""Runs a random sample of each module's mutants against the module's own unit tests.

One process at a time: the parent loads Python's slow modules once, and every mutant is a fork of it that puts the fault
in place and runs the tests that reach the faulty function, the quickest first, until one fails. Which tests those are
is measured beforehand, by a run of the files under a profile function. The parent never runs a test: torch's autograd
does not work in a fork of a process that has used it.

Run from the repository, in a copy of the tree or not (no file is changed):
    python -m research.mutation.run --log mutants.jsonl [--rooms saes evals …] [--draw 8] [--seconds 1500]
    python -m research.mutation.run --log mutants.jsonl --again
    python -m research.mutation.run --log mutants.jsonl --record

The log has one line a mutant; a run that was stopped goes on after it. `--again` tries the survivors once more, after
tests were written, and adds their lines.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from research.mutation.mutants import Mutant, live_function, mutants_of, put_in_place
from research.mutation.readings import READINGS
from research.mutation.tests_of import TESTS
from research.records import record_path, write_record

ROOT = Path(__file__).parents[2]
SEED = 0
ALIVE = ("survived", "unreached")
"""Outcomes of mutants that no test noticed."""
WITHOUT = "not kill and not planted"
"""Tests left out: those that start and kill processes, which a fault in this process does not reach, and training on
planted data, which takes too long to be run for every mutant."""
SECONDS_OF_TESTS = 25.0
"""Tests of a mutant whose own durations add up to more are left out, the slowest first; the log says how many ran."""


@dataclass
class Reach:
    """Which tests reach which functions, and how long each test takes."""

    functions: dict[str, list[str]]
    """Module and function → the tests that reach it."""
    seconds: dict[str, float]

    def tests(self, mutant: Mutant) -> tuple[list[str], int]:
        """The tests to run for this fault, the quickest first, and how many reach its function."""
        reaching = sorted(
            self.functions.get(f"{mutant.module} {mutant.function}", []), key=lambda test: self.seconds[test]
        )
        tests, total = [], 0.0
        for test in reaching:
            total += self.seconds[test]
            if tests and total > SECONDS_OF_TESTS:
                break
            tests.append(test)
        return tests, len(reaching)


class Watch:
    """A pytest plugin that writes down which of the functions each test reaches, fixtures included."""

    def __init__(self, names: Mapping[Any, str]) -> None:
        self.names = names
        self.reached: dict[str, set[str]] = {}
        self.of_fixtures: set[str] = set()
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.current: set[str] = set()

    def _profile(self, frame: Any, event: str, _: Any) -> None:
        if event == "call" and (name := self.names.get(frame.f_code)) is not None:
            self.current.add(name)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.current = self.of_fixtures
        sys.setprofile(self._profile)

    def pytest_runtest_call(self, item: Any) -> None:
        self.current = self.reached.setdefault(item.nodeid, set())

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call":
            self.current = self.of_fixtures


def in_fork(work: Callable[[], Any], seconds: float) -> Any:
    """The JSON value that `work` returns in a child process; None where it takes longer, "crashed" where it dies."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reader)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            os.write(writer, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.02)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        return None
    with os.fdopen(reader, "rb") as answer:
        content = answer.read()
    return json.loads(content) if content else "crashed"


def pytest_in_process(tests: Sequence[str], *options: str, plugins: Sequence[object] = ()) -> int:
    import pytest

    return int(pytest.main(["-q", "-p", "no:cacheprovider", *options, *tests], plugins=list(plugins)))


def measured_reach(files: Sequence[str], mutants: Sequence[Mutant]) -> Reach:
    """Runs the test files once, without a fault. Raises SystemExit when one of their tests fails."""

    def work() -> Any:
        functions = {(mutant.module, mutant.function) for mutant in mutants}
        watch = Watch({live_function(*function).__code__: " ".join(function) for function in functions})
        pytest_in_process(files, "-k", WITHOUT, plugins=[watch])
        sys.setprofile(None)
        tests = {test: sorted(names | watch.of_fixtures) for test, names in watch.reached.items()}
        return {"tests": tests, "seconds": watch.seconds, "failed": watch.failed}

    # A pipe holds little, so the answer goes through a file.
    path = Path(tempfile.gettempdir()) / f"reach-{os.getpid()}.json"
    in_fork(lambda: path.write_text(json.dumps(work())), 3600)
    answer = json.loads(path.read_text())
    path.unlink()
    if answer["failed"]:
        raise SystemExit(f"without a fault, these fail: {', '.join(answer['failed'])}")
    functions: dict[str, list[str]] = {}
    for test, names in answer["tests"].items():
        for name in names:
            functions.setdefault(name, []).append(test)
    return Reach(functions, answer["seconds"])


def outcome(mutant: Mutant, tests: Sequence[str], seconds: float) -> str:
    """killed, timeout, crashed, survived, or invalid where the fault cannot be put in place."""
    if not tests:
        return "unreached"

    def work() -> str:
        try:
            put_in_place(ROOT, mutant)
        except (ValueError, SyntaxError):
            return "invalid"
        return "survived" if pytest_in_process(tests, "-x", "--no-header") == 0 else "killed"

    return in_fork(work, seconds) or "timeout"


def drawn(module: str, n_drawn: int) -> list[Mutant]:
    """A random sample of a module's mutants, one of each kind in turn, so that no kind fills it."""
    generator = random.Random(f"{SEED} {module}")
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in mutants_of(ROOT, module):
        by_kind.setdefault(mutant.kind, []).append(mutant)
    for mutants in by_kind.values():
        generator.shuffle(mutants)
    sample: list[Mutant] = []
    while len(sample) < n_drawn and any(by_kind.values()):
        for kind in sorted(by_kind):
            if by_kind[kind] and len(sample) < n_drawn:
                sample.append(by_kind[kind].pop())
    return sample


def run(modules: Sequence[str], log: Path, n_drawn: int, seconds: float, *, again: bool = False) -> None:
    lines = logged(log)
    finished = {line["key"] for line in lines}
    survivors = {line["key"] for line in lines if line["outcome"] in ALIVE}
    started = time.monotonic()
    pytest_in_process(sorted({file for module in modules for file in TESTS[module]}), "--collect-only", "-q")
    for files in dict.fromkeys(TESTS[module] for module in modules):
        samples = [drawn(module, n_drawn) for module in modules if TESTS[module] == files]
        sample = [
            mutant
            for mutants in samples
            for mutant in mutants
            if (mutant.key in survivors if again else mutant.key not in finished)
        ]
        if not sample or time.monotonic() - started > seconds:
            continue
        reach = measured_reach(files, sample)
        for mutant in sample:
            if time.monotonic() - started > seconds:
                return
            try_mutant(mutant, reach, log)


def try_mutant(mutant: Mutant, reach: Reach, log: Path) -> None:
    tests, n_reaching = reach.tests(mutant)
    started = time.monotonic()
    # Five times what the tests take without the fault, and time to load compiled kernels on a busy machine.
    state = outcome(mutant, tests, 60 + 5 * sum(reach.seconds[test] for test in tests))
    fields = {name: value for name, value in asdict(mutant).items() if name != "path"}
    line = {"key": mutant.key, **fields, "outcome": state, "n_tests": len(tests), "n_reaching": n_reaching}
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"seconds": round(time.monotonic() - started, 1)}) + "\n")
    where = f"{mutant.module}:{mutant.line} {mutant.function}"
    print(f"{state:9} {where} {mutant.before[:50]} → {mutant.after[:50]}", flush=True)


def logged(log: Path) -> list[dict[str, Any]]:
    """The log's lines, one a mutant: as first tried, and under `again` the outcome of its last try."""
    if not log.exists():
        return []
    lines: dict[str, dict[str, Any]] = {}
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        lines.setdefault(line["key"], line)["again"] = line["outcome"]
    return list(lines.values())


def record_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the README's tables need: counts by module, and the survivors with what is to be said about them."""
    modules = []
    for module in sorted({line["module"] for line in lines}):
        own = [line for line in lines if line["module"] == module and line["outcome"] != "invalid"]
        alive, alive_again = (sum(line[field] in ALIVE for line in own) for field in ("outcome", "again"))
        counts = {"drawn": len(own), "killed": len(own) - alive, "killed_again": len(own) - alive_again}
        modules.append({"module": module, "mutants": len(mutants_of(ROOT, module)), **counts})
    names = ("module", "function", "before", "after", "again")
    survivors = [
        {
            **{name: line[name] for name in names},
            "reading": READINGS.get((line["module"], line["function"], line["after"]), "not looked at"),
        }
        for line in lines
        if line["outcome"] in ALIVE
    ]
    return {"seed": SEED, "modules": modules, "survivors": survivors}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m research.mutation.run", description=__doc__)
    parser.add_argument("--log", type=Path, required=True, help="one JSON line a mutant")
    parser.add_argument("--rooms", nargs="*", default=["saes", "evals", "training", "kernels", "steering", "jacobian"])
    parser.add_argument("--draw", type=int, default=8, help="mutants of each module")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no mutant after this time")
    parser.add_argument("--record", nargs="?", const="mutation", help="write the record of this name, run nothing")
    parser.add_argument("--again", action="store_true", help="try the log's survivors once more")
    flags = parser.parse_args()
    if flags.record:
        write_record(record_path("mutation", flags.record), record_of(logged(flags.log)))
        return
    modules = [module for room in flags.rooms for module in TESTS if f"/{room}/" in module]
    run(modules, flags.log, flags.draw, flags.seconds, again=flags.again)


if __name__ == "__main__":
    main()
