"""A program in the form in which the sweeps read it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dnnfem.kernels import jets
from dnnfem.kernels.compiled import pointwise
from dnnfem.kernels.compiled.tables import (
    ACTIVATION,
    BIAS,
    BLOCKS,
    CARRY,
    CARRY_END,
    CLOSED,
    COLUMNS,
    FRESH,
    FRESH_END,
    IN,
    INNER,
    KEPT,
    LANES,
    LARGE,
    MATRIX,
    OPEN,
    OUT,
    READY,
    ROWS,
    SINGLES,
    SUMS,
    TILES,
    WIDTH,
    Code,
)
from dnnfem.kernels.components import Component, closure, order, places
from dnnfem.kernels.program import ACTIVATIONS, Program
from dnnfem.records import Index


@lru_cache(maxsize=8)
def flattened(program: Program, components: tuple[Component, ...] = ((),)) -> Code:
    """Flatten a program that carries jets from which some components are read.

    The last few are remembered, as small batches are placed one after another.
    """
    carried, reads = closure(components), places(components)
    several, highest = len(carried) > 1, max(map(order, carried))
    first = np.concatenate([[0], np.cumsum(program.widths)])
    stages = np.zeros((len(program.stages), READY + 1), dtype=np.int64)
    ready = np.full(int(first[-1]), -1, dtype=np.int64)
    carry: list[int] = []
    factors: list[float] = []
    readers = [[-1] for _ in program.widths]
    kept = sums = 0
    for number, (row, stage) in enumerate(zip(stages, program.stages, strict=True)):
        block, is_open = program.blocks[stage.block], stage.activation not in CLOSED
        row[IN], row[OUT] = first[stage.input], first[stage.output]
        row[COLUMNS], row[ROWS] = block.columns, block.rows
        row[MATRIX], row[BIAS] = block.start, block.bias_start if block.bias else -1
        row[ACTIVATION], row[OPEN] = ACTIVATIONS.index(stage.activation), is_open
        row[CARRY], row[CARRY_END] = len(carry), len(carry) + len(stage.carry)
        carry += [int(first[j]) for j, _ in stage.carry]
        factors += [a for _, a in stage.carry]
        row[INNER], row[SUMS], row[KEPT] = stage.input != 0, sums, kept
        row[READY] = not several and not stage.carry and (is_open or stage.scale == 1.0)
        if row[READY]:
            ready[row[OUT]] = kept
        # The biases take whole vectors too, so that all sums begin with a cache line.
        sums += block.rows * WIDTH * -(-block.columns // WIDTH) + LANES * -(-block.rows // LANES)
        kept += block.rows * (highest + 3 if is_open else 1)
        for j in (stage.input, *(j for j, _ in stage.carry)):
            readers[j].append(number)
    fresh: list[list[int]] = [[] for _ in range(len(stages) + 1)]
    for j, found in enumerate(readers[:-1]):
        fresh[found[-1]].append(j)
    stages[:, FRESH_END] = np.cumsum([len(found) for found in fresh[:-1]])
    stages[1:, FRESH] = stages[:-1, FRESH_END]
    axes = [c[0] if isinstance(c, tuple) and len(c) == 1 else -1 for c in carried]
    duals = _duals(program, carried, frozenset(reads))
    flows = _flows(program, carried, duals)
    work = len(carried) * (BLOCKS * int(first[-1]) + SINGLES * WIDTH * -(-max(program.widths) // WIDTH))
    tile = TILES[0] if 8 * TILES[0] * work <= LARGE else TILES[1]
    return Code(
        stages,
        np.array([s.scale for s in program.stages], dtype=np.float64),
        np.array(carry, dtype=np.int64),
        np.array(factors, dtype=np.float64),
        np.array([(first[j], first[j + 1]) for found in fresh for j in found], dtype=np.int64).reshape(-1, 2),
        ready,
        program.inputs,
        int(first[-1]),
        kept + (len(carried) - 1) * int(first[-1]),
        tile,
        sums,
        len(carried),
        highest,
        np.array(reads, dtype=np.int64),
        np.array(axes, dtype=np.int64),
        flows,
        _terms(flows, axes, program.inputs),
        _functions(program, carried, duals),
        tile * work,
    )


def _duals(program: Program, carried: tuple[Component, ...], reads: frozenset[int]) -> list[frozenset[int]]:
    """Return, per register, the components whose cotangents can differ from zero."""
    duals: list[frozenset[int]] = [frozenset() for _ in program.widths]
    duals[-1] = reads
    for stage in reversed(program.stages):
        found = duals[stage.output]
        duals[stage.input] |= _argument(stage.activation, carried, found)
        for j, _ in stage.carry:
            duals[j] |= found
    return duals


def _argument(activation: str, carried: tuple[Component, ...], duals: frozenset[int]) -> frozenset[int]:
    """Return the components of an argument whose cotangents can differ from zero, from those of the value."""
    return duals if activation == "identity" else jets.live(carried, duals)


def _flows(program: Program, carried: tuple[Component, ...], duals: list[frozenset[int]]) -> Index:
    """Return which components of the inputs and of the cotangents of the arguments can differ from zero."""
    flows = np.ones((len(program.stages), len(carried), 2), dtype=np.int64)
    for flow, stage in zip(flows, program.stages, strict=True):
        argument = _argument(stage.activation, carried, duals[stage.output])
        flow[:, 1] = [c in argument for c in range(len(carried))]
        if stage.input == 0:
            flow[:, 0] = [order(component) < 2 for component in carried]
    return flows


def _terms(flows: Index, axes: list[int], inputs: int) -> Index:
    """Return the components that derivatives in weights are sums over."""
    lists = [np.flatnonzero(flow.all(axis=1)).tolist() for flow in flows]
    lists += [[0, *(c for c, axis in enumerate(axes) if axis == i)] for i in range(inputs)]
    lists.append([0])
    terms = np.zeros((len(lists), len(axes) + 1), dtype=np.int64)
    for row, found in zip(terms, lists, strict=True):
        row[: len(found) + 1] = len(found), *found
    return terms.ravel()


def _functions(program: Program, carried: tuple[Component, ...], duals: list[frozenset[int]]) -> Index:
    """Return the addresses of the machine code for the activation of each stage."""
    # What nobody reads has the cotangent zero, and gets it by the same code.
    rows = [pointwise.functions(carried, duals[s.output] or duals[-1], s.activation) for s in program.stages]
    return np.array(rows, dtype=np.int64).reshape(-1, len(jets.KINDS))
