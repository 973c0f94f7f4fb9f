"""Compiled circuits, their passes and benches, made once for all tests of one process."""

from __future__ import annotations

from functools import cache

from monosemy.circuits.heads.contrast import Contrast, read_contrast
from monosemy.circuits.heads.methods import Bench
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from research.heads.compiled import CompiledCircuit, compile_circuit


@cache
def circuit(name: str) -> CompiledCircuit:
    return compile_circuit(name, seed=0, n_examples=32)


@cache
def contrast(name: str, n: int = 8) -> Contrast:
    planted = circuit(name)
    return read_contrast(AttentionOnlyHeads(planted.model), planted.data.positives[:n], planted.data.metric)


@cache
def bench(name: str) -> Bench:
    return Bench(AttentionOnlyHeads(circuit(name).model), circuit(name).data, 8)


def indices(name: str, heads) -> list[int]:
    return [layer * circuit(name).model.n_heads + head for layer, head in heads]
