"""The processes of one run: ranks 0 … n − 1, which share its work out and exchange small objects.

Place on the path: beside all of it. `rank_group.joined` connects the ranks; without it there is one rank, and every
function here returns at once. Only settings, fingerprints and records are exchanged, never activations or gradients.

Every rank calls `barrier`, `gathered`, `from_first`, `first_alone`, `agree` and `require_visible` in the same order.
A rank that fails says so to the others, and only the first to fail prints its line: ranks that then find the connection
closed end silently (`speaks`), and so do all where a process of ours has started them and one was killed.

Limits: the ranks share one run folder and one cache. A rank that hangs without ending is waited for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TypeVar

from monosemy.errors import UserError

T = TypeVar("T")
_FIRST_SECONDS = 1.0
"""How long another rank that fails waits for the first one, which may fail too."""

LAUNCHED = "MONOSEMY_LAUNCHED"
"""The environment variable that says that this process was started by another one of ours, which speaks for all."""


LOST = 3
"""The exit status of a process that was launched by ours and only found that another one is gone."""


class RankError(UserError):
    """Bad input, or an end, of a rank that the message names."""


class LostError(RankError):
    """Another rank has ended, or cannot be reached."""


class Group(Protocol):
    """The connection of this process with the other ranks (implemented by rank_group.GlooGroup).

    The first three raise RankError when a rank has ended.
    """

    rank: int
    size: int

    def barrier(self) -> None: ...
    def gathered(self, value: Any) -> list[Any]: ...
    def from_first(self, value: Any) -> Any: ...

    def fails_first(self) -> bool:
        """Tells the other ranks that this one ends by an error. Whether it is the first to do so."""
        ...

    def another_failed(self) -> bool: ...

    def absent(self) -> list[int]:
        """The ranks whose processes are gone."""
        ...

    def leave(self, *, failed: bool) -> None: ...


_group: Group | None = None


def enter(group: Group | None) -> None:
    """Makes this process a rank of a group, or (None) the only one again."""
    global _group
    _group = group


def rank() -> int:
    """The number of this process among those of the run; 0 where it is the only one."""
    return _group.rank if _group else 0


def n_ranks() -> int:
    """How many processes the run has."""
    return _group.size if _group else 1


def is_first() -> bool:
    """Whether this process writes what all share, and speaks for them."""
    return rank() == 0


def local_rank() -> int:
    """The number of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", rank())) if asked_for() else 0


def n_local_ranks() -> int:
    """How many processes of the run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", n_ranks())) if _group else 1


def asked_for() -> bool:
    """Whether the environment makes this process a rank of several."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def barrier() -> None:
    """Waits until every rank has come here. Raises RankError when one has ended."""
    if _group:
        _group.barrier()


def gathered(value: T) -> list[T]:
    """The values of all ranks, in their order."""
    return _group.gathered(value) if _group else [value]


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on every rank; the others wait for it."""
    value = make() if is_first() else None
    result: T = _group.from_first(value) if _group else value  # type: ignore[assignment]
    return result


@contextmanager
def first_alone() -> Iterator[None]:
    """Lets rank 0 pass the block before the others enter it, who then find what it has made."""
    if not is_first():
        barrier()
    yield
    if is_first():
        barrier()


def agree(what: str, values: Mapping[str, Any], fix: str) -> None:
    """Raises RankError, naming the rank and the first difference, unless all ranks have the same JSON values."""
    if _group is None:
        return
    from monosemy.config import first_difference_of

    everywhere = gathered(dict(values))
    for number, others in enumerate(everywhere):
        if difference := first_difference_of(everywhere[0], others):
            theirs, first = (repr(value) for value in (difference.here, difference.there))
            raise RankError(f"rank {number} has other {what}: {difference.name} {theirs}, but {first} at rank 0; {fix}")


def require_visible(visible: bool, place: str, fix: str) -> None:
    """Raises RankError, naming the rank, where what rank 0 has written is not there for another rank."""
    for number, there in enumerate(gathered(visible)):
        if not there:
            raise RankError(f"rank {number} does not see {place} of rank 0; {fix}")


def speaks(error: BaseException) -> str | None:
    """The line that this process prints for the error that ends it, with its rank; None where another rank speaks."""
    if not asked_for():
        return str(error)
    if not isinstance(error, RankError):
        _let_first_speak()
    line = str(error) if isinstance(error, RankError) else f"rank {os.environ['RANK']}: {error}"
    speaks_first = _group is None or _group.fails_first()
    return line if speaks_first and status_of(error) != LOST else None


def status_of(error: BaseException) -> int:
    """The exit status for an error: 2, or `LOST`, since the launcher tells more of a rank that was killed."""
    return LOST if isinstance(error, LostError) and LAUNCHED in os.environ else 2


def _let_first_speak() -> None:
    """Gives rank 0 the time to fail by the same error, because it removes what it has written of a refused run."""
    ends = time.monotonic() + _FIRST_SECONDS
    while rank() > 0 and not another_failed() and time.monotonic() < ends:
        time.sleep(0.02)


def another_failed() -> bool:
    """Whether a rank has said that it failed; asked now and then where nothing else is exchanged."""
    return _group is not None and _group.another_failed()


def absent() -> list[int]:
    """The ranks whose processes do not answer; asked where an exchange has failed."""
    return _group.absent() if _group else []


def speaks_of_interruption() -> bool:
    """Whether this process tells the user that the work was interrupted, and not another one."""
    return _group is None or (is_first() and LAUNCHED not in os.environ and not another_failed())


def end(status: int) -> NoReturn:
    """Ends this process with an exit status, after what it has printed; the others learn of it."""
    if _group is None:
        sys.exit(status)
    _group.leave(failed=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by an exception: threads of a broken group would abort the interpreter on its way out.
    os._exit(status)
