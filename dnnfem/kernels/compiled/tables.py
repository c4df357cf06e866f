"""Programs as flat arrays, the form in which the sweeps read them, and the choice of columns of a system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dnnfem.kernels.program import ACTIVATIONS, Program
from dnnfem.records import Array, Index

TILE = 64
"""Samples that one tile holds; a register of a tile is a contiguous block (width, TILE)."""

INTERNAL: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
"""Options of functions that only compiled functions call: the way in from Python is not compiled."""

IN, OUT, COLUMNS, ROWS, MATRIX, BIAS, ACTIVATION, CARRY, CARRY_END, INNER = range(10)
"""Columns of `Tables.stages`."""


@dataclass(frozen=True, eq=False)
class Tables:
    """A program for the sweeps; registers are addressed by their first row in the block of all registers.

    Attributes
    ----------
    stages : int array, shape (stages, 10)
        First row of the input and of the output register, their widths, first weight of the matrix, first
        bias (-1 if there is none), number of the activation, range of the carry terms, and 1 if the input
        register depends on the coefficients (register 0 does not).
    scales : array, shape (stages,)
        ``h``.
    carry : int array, shape (terms,)
        First rows of the registers that are carried over.
    factors : array, shape (terms,)
        Their factors.
    rows : int
        Rows of all registers together.
    """

    stages: Index
    scales: Array
    carry: Index
    factors: Array
    rows: int

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, program: Program) -> Tables:
        """Flatten a program; the last few are remembered, as small batches are placed one after another."""
        first = np.concatenate([[0], np.cumsum(program.widths)])
        stages = np.zeros((len(program.stages), 10), dtype=np.int64)
        carry: list[int] = []
        factors: list[float] = []
        for row, stage in zip(stages, program.stages, strict=True):
            block = program.blocks[stage.block]
            begin = len(carry)
            carry += [int(first[j]) for j, _ in stage.carry]
            factors += [a for _, a in stage.carry]
            row[IN], row[OUT] = first[stage.input], first[stage.output]
            row[COLUMNS], row[ROWS] = block.columns, block.rows
            row[MATRIX], row[BIAS] = block.start, block.bias_start if block.bias else -1
            row[ACTIVATION] = ACTIVATIONS.index(stage.activation)
            row[CARRY], row[CARRY_END] = begin, len(carry)
            row[INNER] = stage.input != 0
        return cls(
            stages,
            np.array([s.scale for s in program.stages], dtype=np.float64),
            np.array(carry, dtype=np.int64),
            np.array(factors, dtype=np.float64),
            int(first[-1]),
        )

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What every sweep takes first."""
        return self.stages, self.scales, self.carry, self.factors


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
