"""Programs as flat arrays, the form in which the sweeps read them, and the choice of columns of a system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding

from dnnfem.kernels.program import Program
from dnnfem.records import Array, Index

LANES = 8 if binding.get_host_cpu_features().get("avx512f", False) else 4
"""Numbers in one vector."""

VECTORS = 4
"""Most vectors in a row of a block of sums."""

WIDTH = LANES * VECTORS
"""Columns of a panel of sums."""

TILES, LARGE = (64, 8 * LANES), 2**20
"""Samples of a tile, multiples of eight vectors: the second number if a product with the first one would work on more
bytes than `LARGE`, about what the second-level cache holds; for small networks calls count."""

BLOCKS, SINGLES = 4, 4
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
    flows : int array, shape (stages, components, 2)
        Whether a component of the input of a stage can differ from zero, and whether the cotangent of its argument can.
    terms : int array, shape ((stages + inputs + 1) * (components + 1),)
        For each stage, how many components of input and argument can both differ from zero, and which these are; then
        the same for the columns of the input register, which are their own first derivatives, and for a bias.
    functions : int array, shape (stages, 5)
        Addresses of what the activation does, see `dnnfem.kernels.compiled.pointwise`.
    work : int
        Numbers that a thread works on: registers of a tile, and work for single registers besides.
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
    flows: Index
    terms: Index
    functions: Index
    work: int


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
        places = program.places
        if places is not None and used.max(initial=0) <= 1 and np.unique(chosen).size == chosen.size:
            position[places[chosen]] = np.arange(chosen.size)
            start, index, factor = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
            direct, buffered, empty = True, 0, np.flatnonzero(used[places[chosen]] == 0)
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
