"""Compiled circuits, their passes and benches, made once for all tests of one process."""

from __future__ import annotations

from functools import cache

from monosemy.circuits.compiled import CompiledCircuit, compile_circuit
from monosemy.circuits.contrast import Contrast, read_contrast
from monosemy.circuits.heads import AttentionOnlyHeads
from monosemy.circuits.methods import Bench


@cache
def circuit(name: str) -> CompiledCircuit:
    return compile_circuit(name, seed=0, n_examples=32)


@cache
def contrast(name: str, n: int = 8) -> Contrast:
    found = circuit(name)
    return read_contrast(AttentionOnlyHeads(found.model), found.data.positives[:n], found.data.metric)


@cache
def bench(name: str) -> Bench:
    return Bench(AttentionOnlyHeads(circuit(name).model), circuit(name).data, 8)


def indices(name: str, heads) -> list[int]:
    return [layer * circuit(name).model.n_heads + head for layer, head in heads]
