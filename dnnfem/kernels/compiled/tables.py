"""Programs as flat arrays, the form in which the sweeps read them, and the choice of columns of a system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding

from dnnfem.kernels import jets
from dnnfem.kernels.components import Component
from dnnfem.kernels.program import ACTIVATIONS, Program
from dnnfem.records import Array, Index

LANES = 8 if binding.get_host_cpu_features().get("avx512f", False) else 4
"""Numbers in one vector."""

VECTORS = 4
"""Most vectors in a row of a block of sums."""

WIDTH = LANES * VECTORS
"""Columns of a panel of sums."""

TILE = 64
"""Samples of a tile, a multiple of `WIDTH`."""

BLOCKS, SINGLES = 4, 6
"""Blocks of all registers that products with second derivatives work on, besides what is kept, and of single ones."""

CLOSED = ("identity", "tanh", "relu", "sigmoid")
"""Activations whose derivatives follow from their values: only these are kept.  Of others, derivatives are too."""

INTERNAL: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
"""Options of functions that only compiled functions call: the way in from Python is not compiled."""

IN, OUT, COLUMNS, ROWS, MATRIX, BIAS, ACTIVATION, CARRY, CARRY_END, FRESH, FRESH_END, INNER, SUMS, KEPT, OPEN, READY = (
    range(16)
)
"""Columns of `Code.stages`."""


class Code(NamedTuple):
    """A program for the sweeps; registers are addressed by their first row in the block of all registers.

    Where a register carries several components of a jet there is a block of all registers for each.

    Attributes
    ----------
    stages : int array, shape (stages, 16)
        - IN, OUT: first row of the input and of the output register; COLUMNS, ROWS: their widths;
        - MATRIX, BIAS: first weight of the matrix, first bias or -1;
        - ACTIVATION: its number; OPEN: 1 if it is not in `CLOSED`;
        - CARRY, CARRY_END: range of the carry terms;
        - FRESH, FRESH_END: range of the registers that no later stage reads: a reverse sweep meets them here first;
        - INNER: 1 if the input register depends on the coefficients (register 0 does not);
        - SUMS: where its sums begin;
        - KEPT: where what is kept of the output begins, a row for each of its own; READY: 1 if this is the register.
    scales : array, shape (stages,)
        ``h``.
    carry : int array, shape (terms,)
        First rows of the registers that are carried over.
    factors : array, shape (terms,)
        Their factors.
    fresh : int array, shape (registers, 2)
        First and last row of the registers that are met first, those of no stage at the end.
    places : int array, shape (rows,)
        For the first row of a register that is READY: where it is kept; for others -1.
    inputs, rows, kept : int
        Rows of register 0, of all registers together, and of what is kept: that of the values, then a block of all
        registers for each other component.
    tile : int
        Samples of a tile; a register of a tile is a contiguous block (width, tile).
    sums : int
        Numbers in the sums of derivatives in the weights.  Those of a stage are panels (rows, WIDTH) of columns, the
        last of them filled up, then the biases.
    components, order : int
        Number of components of the jet, and the highest order among them.
    reads : int array
        The components that the law reads.
    axes : int array, shape (components,)
        The input with respect to which a component is the first derivative, -1 for others.
    operations, coefficients, lists, strip, work
        See `dnnfem.kernels.jets.Rules`; numbers that these work on.
    """

    stages: Index
    scales: Array
    carry: Index
    factors: Array
    fresh: Index
    places: Index
    inputs: int
    rows: int
    kept: int
    tile: int
    sums: int
    components: int
    order: int
    reads: Index
    axes: Index
    operations: Index
    coefficients: Array
    lists: Index
    strip: int
    work: int


@lru_cache(maxsize=8)
def flattened(program: Program, components: tuple[Component, ...] = ((),)) -> Code:
    """Flatten a program that carries jets from which some components are read.

    The last few are remembered, as small batches are placed one after another.
    """
    rules = jets.rules(components, TILE)
    several = len(rules.components) > 1
    first = np.concatenate([[0], np.cumsum(program.widths)])
    stages = np.zeros((len(program.stages), READY + 1), dtype=np.int64)
    places = np.full(int(first[-1]), -1, dtype=np.int64)
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
            places[row[OUT]] = kept
        # The biases take whole vectors too, so that all sums begin with a cache line.
        sums += block.rows * WIDTH * -(-block.columns // WIDTH) + LANES * -(-block.rows // LANES)
        kept += block.rows * (rules.order + 3 if is_open else 1)
        for j in (stage.input, *(j for j, _ in stage.carry)):
            readers[j].append(number)
    fresh = [[j for j, found in enumerate(readers[:-1]) if found[-1] == s] for s in [*range(len(stages)), -1]]
    stages[:, FRESH_END] = np.cumsum([len(found) for found in fresh[:-1]])
    stages[1:, FRESH] = stages[:-1, FRESH_END]
    return Code(
        stages,
        np.array([s.scale for s in program.stages], dtype=np.float64),
        np.array(carry, dtype=np.int64),
        np.array(factors, dtype=np.float64),
        np.array([(first[j], first[j + 1]) for found in fresh for j in found], dtype=np.int64).reshape(-1, 2),
        places,
        program.inputs,
        int(first[-1]),
        kept + (len(rules.components) - 1) * int(first[-1]),
        TILE,
        sums,
        len(rules.components),
        rules.order,
        rules.reads,
        np.array([c[0] if isinstance(c, tuple) and len(c) == 1 else -1 for c in rules.components], dtype=np.int64),
        rules.operations,
        rules.coefficients,
        rules.lists,
        rules.strip,
        rules.rows * (rules.strip + 2) if several else 0,
    )


@dataclass(frozen=True, eq=False)
class Selection:
    """Columns of a system: which weights they need and how far the reverse sweep has to go.

    Attributes
    ----------
    size : int
        Number of columns.
    needs : int array, shape (stages, 2)
        Per stage: whether weights of it are needed, and whether the cotangent of its input register is.
    first : int
        The earliest stage that is needed.
    position : int array, shape (weights,)
        Row that the derivative in a weight is written to, -1 if it is not needed.
    direct : bool
        Whether these rows are the columns of the system.  If not, because the embedding mixes weights or
        because several stages share them, they are summed in a buffer of `buffered` rows first.
    start, index, factor : arrays
        For the other case, the map from rows of the buffer to columns as CSR arrays.
    empty : int array
        Columns that no stage depends on.
    """

    size: int
    needs: Index
    first: int
    position: Index
    direct: bool
    buffered: int
    start: Index
    index: Index
    factor: Array
    empty: Index

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What the sweep for a system takes."""
        return (
            self.needs, self.first, self.position, self.direct, self.buffered, self.start, self.index, self.factor
        )  # fmt: skip

    @classmethod
    def of(cls, program: Program, columns: Index | None) -> Selection:
        """Choose `columns` (default all) of the coefficients."""
        chosen = np.arange(program.dim) if columns is None else np.arange(program.dim)[columns]
        used = np.zeros(program.embedding.shape[0], dtype=np.int64)
        for stage in program.stages:
            block = program.blocks[stage.block]
            used[block.start : block.stop] += 1
        position = np.full(used.size, -1, dtype=np.int64)
        if program.is_identity and used.max(initial=0) <= 1 and np.unique(chosen).size == chosen.size:
            position[chosen] = np.arange(chosen.size)
            start, index, factor = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
            direct, buffered, empty = True, 0, np.flatnonzero(used[chosen] == 0)
        else:
            # Both the rows of the buffer and the entries of the map stay in order, so that sums do too.
            map_ = program.embedding.tocsc()[:, chosen].tocsc()
            needed = np.unique(map_.indices)
            position[needed] = np.arange(needed.size)
            start, factor = map_.indptr.astype(np.int64), map_.data.astype(np.float64)
            index = position[map_.indices].astype(np.int64)
            direct, buffered, empty = False, int(needed.size), np.zeros(0, dtype=np.int64)
        needs = _needs(program, lambda begin, end: bool((position[begin:end] >= 0).any()))
        return cls(
            int(chosen.size),
            needs,
            int(np.argmax(needs[:, 0])) if needs[:, 0].any() else len(program.stages),
            position,
            direct,
            buffered,
            start,
            index,
            factor,
            empty.astype(np.int64),
        )


def _needs(program: Program, wanted: Callable[[int, int], bool]) -> Index:
    """Return, per stage, whether its weights and whether the cotangent of its input are needed."""
    needs = np.zeros((len(program.stages), 2), dtype=np.int64)
    register = [False]
    for number, stage in enumerate(program.stages):
        block = program.blocks[stage.block]
        needs[number] = wanted(block.start, block.stop), register[stage.input]
        register.append(bool(needs[number].any()) or any(register[j] for j, _ in stage.carry))
    return needs
