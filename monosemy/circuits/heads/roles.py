"""Says in words what a circuit's task is and what each of its heads does.

Place on the path: `Circuit` → [task in a sentence, an example, a role for every head] → page, terminal.

A head's role is read off the measured edges, of which only those count whose 95% interval excludes 0: whether it writes
to the output, and which heads it feeds, or is fed by, through which of queries, keys and values. Where a paper reports
a circuit of this task in this model, its name for the head's group comes first.
Limits: at most `MOST` edges are named each way, the strongest; a head of which no edge stands out has no role here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monosemy.circuits.heads.task import OUTPUT, Edge, Head

if TYPE_CHECKING:
    from monosemy.circuits.heads.circuit import Circuit

MOST = 2
CHANNELS = {"q": "queries", "k": "keys", "v": "values", "": ""}
ABOUT = {
    "ioi": "Two people are named and one of them acts again: whom does the action reach? The model must say the other.",
    "greater-than": "A span of years begins in one year of a century: the year in which it ends must be a later one.",
    "docstring": "A Python function's arguments are described in order: which argument is described next?",
    "induction": "Random words come, then some of them again: what followed the last one the first time?",
    "subject-verb": "The verb must agree in number with its subject, not with a noun that stands between them.",
}
"""The task of each name, whose variants (`greater-than-tens`) begin with it."""


def about(circuit: Circuit) -> str:
    """A sentence on what the task asks; for a file of somebody's own prompts, that it is one."""
    names = [name for name in ABOUT if f"{circuit.task.name}-".startswith(f"{name}-")]
    return ABOUT[max(names, key=len)] if names else "Prompts of your own, with the answers that their file gives."


def example_rows(circuit: Circuit) -> list[tuple[str, str]]:
    """(what, text) of the task's first prompt: the prompt, its answers, wrong answers, and the counterpart.

    Empty for a task of symbols, whose prompts have no text.
    """
    example = circuit.task.positives[0]
    if not example.text:
        return []
    rows = [("Prompt", example.text)]
    for name, words in (("Right answers", example.answer_texts), ("Wrong answers", example.wrong_texts)):
        if words:
            more = f" and {len(words) - 8} more" if len(words) > 8 else ""
            rows.append((name, ", ".join(f"“{word.strip()}”" for word in words[:8]) + more))
    return [*rows, ("Counterpart", example.corrupted_text)]


def role_of(circuit: Circuit, index: int) -> str:
    """What a head does, such as `name mover (reported); writes to the output; fed by 7.3 and 7.9 (queries)`."""
    head = (index // circuit.n_heads, index % circuit.n_heads)
    parts = [f"{name} (reported)" for name in _reported(circuit, head)]
    edges = _clear_edges(circuit)
    if any(edge.sender == head and edge.receiver == OUTPUT for edge in edges):
        parts.append("writes to the output")
    if text := _listed([edge for edge in edges if edge.sender == head and edge.receiver != OUTPUT], receivers=True):
        parts.append(f"feeds {text}")
    if text := _listed([edge for edge in edges if edge.receiver == head and not isinstance(edge.sender, str)]):
        parts.append(f"fed by {text}")
    return "; ".join(parts)


def _reported(circuit: Circuit, head: Head) -> list[str]:
    """The names of the groups that the usual reported circuit puts the head in."""
    if not circuit.published:
        return []
    groups = circuit.published[0].groups
    return [name for name, heads in groups.items() if head in heads and name != "heads"]


def _clear_edges(circuit: Circuit) -> list[Edge]:
    """The measured edges whose interval excludes 0, strongest first."""
    measured = circuit.edges
    if measured is None or measured.intervals is None:
        return []
    clear = ((measured.intervals[:, 0] > 0) | (measured.intervals[:, 1] < 0)).tolist()
    order = measured.importance.argsort(descending=True, stable=True).tolist()
    return [measured.edges[i] for i in order if clear[i]]


def _listed(edges: list[Edge], *, receivers: bool = False) -> str:
    """The other ends of the first `MOST` edges: `9.9 (queries) and 9.6 (queries, values)`."""
    channels: dict[str, list[str]] = {}
    for edge in edges:
        other = edge.receiver if receivers else edge.sender
        name = other if isinstance(other, str) else f"{other[0]}.{other[1]}"
        channels.setdefault(name, []).append(CHANNELS[edge.channel])
    named = [f"{name} ({', '.join(ways)})" if any(ways) else name for name, ways in list(channels.items())[:MOST]]
    more = len(channels) - len(named)
    return " and ".join(named) + (f" and {more} more" if more > 0 else "")
