"""Compiled circuits, their passes, benches and exact effects, made once for all tests of one process."""

from __future__ import annotations

from functools import cache

from numpy import ndarray

from monosemy.circuits.heads.agreement import labels_of
from monosemy.circuits.heads.contrast import Contrast, read_contrast
from monosemy.circuits.heads.methods import Bench
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from monosemy.circuits.heads.patching import exhaustive_patching
from monosemy.circuits.heads.scores import HeadScores
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


@cache
def measured_circuit(name: str) -> tuple[CompiledCircuit, Contrast, HeadScores, ndarray]:
    """(circuit, contrast, exhaustive patching, labels of the true heads), on 16 prompts."""
    planted = compile_circuit(name, seed=0, n_examples=16)
    contrast = read_contrast(AttentionOnlyHeads(planted.model), planted.data.positives, planted.data.metric)
    labels = labels_of(planted.heads, planted.model.n_layers, planted.model.n_heads)
    return planted, contrast, exhaustive_patching(contrast), labels


def indices(name: str, heads) -> list[int]:
    return [layer * circuit(name).model.n_heads + head for layer, head in heads]
