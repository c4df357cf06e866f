"""From a flow to straight-line code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from dnnfem.kernels.program import Block, Program, Stage
from dnnfem.records import Array, Index
from dnnfem.spaces.fields import AffineMap
from dnnfem.spaces.meshes import SAME
from dnnfem.spaces.opaque import OpaqueMap
from dnnfem.spaces.schemes import SCHEMES, Row

if TYPE_CHECKING:
    from dnnfem.spaces.flow import FlowSpace

Parts = tuple[tuple[int, float], ...]
"""What theta is at one time: numbers of cells or nodes, with factors."""


@dataclass(frozen=True, eq=False)
class Unrolled:
    """The program of a flow, and the registers that its states are.

    Attributes
    ----------
    program : Program
    states : tuple of int
        Register of ``z_0, ..., z_M``.
    """

    program: Program
    states: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Code:
    """A program in the making: registers, stages, blocks, and how their weights come from the coefficients."""

    dim: int
    widths: list[int]
    stages: list[Stage] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    entries: list[tuple[Array, Index, Index]] = field(default_factory=list)
    offsets: list[Array] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])

    @property
    def top(self) -> int:
        """The register that was written last."""
        return len(self.widths) - 1

    @property
    def weights(self) -> int:
        """Number of weights so far."""
        return self.ends[-1]

    def stage(
        self, block: int, reads: int, activation: str, scale: float = 1.0, carry: Sequence[tuple[int, float]] = ()
    ) -> int:
        """Append a stage; return the register that it writes."""
        self.widths.append(self.blocks[block].rows)
        self.stages.append(Stage(self.top, reads, block, activation, scale, tuple(carry)))
        return self.top

    def place(
        self, maps: Sequence[AffineMap | OpaqueMap], matrices: Sequence[tuple[float, int, sp.csr_array]], offset: Array
    ) -> int:
        """Append the blocks of some maps, with weights ``sum factor matrix x[start:] + offset``; return the first."""
        begin, first = self.weights, len(self.blocks)
        for factor, start, matrix in matrices:
            coordinates = matrix.tocoo()
            self.entries.append((factor * coordinates.data, begin + coordinates.row, start + coordinates.col))
        self.offsets.append(offset)
        self.ends.append(begin + len(offset))
        for part in maps:
            opaque = part.map if isinstance(part, OpaqueMap) else None
            self.blocks.append(Block(part.rows, part.columns, begin, part.bias, opaque))
            begin = self.blocks[-1].stop
        return first

    def program(self) -> Program:
        """Return what has been made."""
        offset = np.concatenate(self.offsets)
        values, rows, columns = (np.concatenate([entry[k] for entry in self.entries]) for k in range(3))
        embedding = sp.csr_array(sp.coo_array((values, (rows, columns)), shape=(offset.size, self.dim)))
        return Program(tuple(self.widths), tuple(self.stages), tuple(self.blocks), embedding, offset)


@dataclass(frozen=True, eq=False)
class _Flow:
    """A flow whose steps are being unrolled; weights that are used again are placed once."""

    space: FlowSpace
    code: _Code
    placed: dict[Parts, int] = field(default_factory=dict)

    @cached_property
    def maps(self) -> tuple[AffineMap | OpaqueMap, ...]:
        return self.space.field.maps(self.space.width)

    @cached_property
    def embedding(self) -> tuple[sp.csr_array, Array]:
        return self.space.field.embedding(self.space.width)

    def parts(self, step: int, abscissa: float) -> Parts:
        """Return what theta is at a place of a step: always that of the step's own cell."""
        cell = int(self.space.parents[step])
        if self.space.degree == 0:
            return ((cell, 1.0),)
        begin, end = self.space.weight_mesh[cell : cell + 2]
        low, high = self.space.state_mesh[step : step + 2]
        place = (low + abscissa * (high - low) - begin) / (end - begin)
        if place < SAME or place > 1.0 - SAME:
            return ((cell + (place > 0.5), 1.0),)
        return (cell, 1.0 - place), (cell + 1, place)

    def _length(self, step: int) -> float:
        begin, end = self.space.state_mesh[step : step + 2]
        return end - begin

    def blocks(self, step: int, abscissa: float) -> int:
        """Return the first block of the field's maps at a place of a step."""
        parts = self.parts(step, abscissa)
        if parts not in self.placed:
            space, (matrix, offset) = self.space, self.embedding
            matrices = [(factor, space.theta_start + place * space.size, matrix) for place, factor in parts]
            self.placed[parts] = self.code.place(self.maps, matrices, offset)
        return self.placed[parts]

    def advance(
        self,
        step: int,
        state: int,
        rows: Sequence[Row],
        begin: float = 0.0,
        part: float = 1.0,
        subtract: int | None = None,
    ) -> int:
        """Append a step of the scheme, over a `part` of a step from `begin` on; return the register of its end.

        What is returned is the difference to the register `subtract` if there is one.
        """
        registers, size = [state], self._length(step) * part
        for number, row in enumerate(rows):
            block = self.blocks(step, begin + part * row.abscissa)
            top = registers[row.reads]
            for inner, own in enumerate(self.maps[:-1]):
                top = self.code.stage(block + inner, top, own.activation)
            carry = [(registers[j], factor) for j, factor in row.carry]
            if subtract is not None and number == len(rows) - 1:
                carry.append((subtract, -1.0))
            last = len(self.maps) - 1
            registers.append(self.code.stage(block + last, top, self.maps[last].activation, size * row.scale, carry))
        return registers[-1]

    def corrected(self, step: int, state: int, end: int) -> int:
        """Append the local defect of a step, times a coefficient of its own, to the `end` of the step."""
        scheme, width = SCHEMES[self.space.scheme], self.space.width
        half = self.advance(step, state, scheme.rows, 0.0, 0.5)
        difference = self.advance(step, half, scheme.rows, 0.5, 0.5, subtract=end)
        diagonal = sp.csr_array(np.eye(width).reshape(-1, 1))
        scale = AffineMap(width, width, "identity", bias=False)
        block = self.code.place([scale], [(1.0, self.space.dim + step, diagonal)], np.zeros(width * width))
        return self.code.stage(block, difference, "identity", 1.0 / (1.0 - 0.5**scheme.order), [(end, 1.0)])


def unrolled(space: FlowSpace, defects: bool = False) -> Unrolled:
    """Return the program of a flow.

    With `defects` it has one more coefficient ``e_k`` per step, at the end, and computes
    ``z_{k+1} = F_k(z_k) + e_k d_k``, with the local defect ``d_k`` of the scheme of order ``p``: what two steps of half
    the size say, minus what one step says, over ``1 - 2^-p``.  The derivative of a functional with respect to ``e_k``
    at zero is then its cotangent times the defect, summed over the quadrature: what goal-oriented estimates need.
    """
    code = _Code(space.dim + (space.steps if defects else 0), [space.inputs])
    flow, encoder = _Flow(space, code), AffineMap(space.width, space.inputs, "identity")
    if space.theta_start:
        code.place([encoder], [(1.0, 0, _unit(encoder.size))], np.zeros(encoder.size))
    else:
        # Its weights are fixed and come last, so that those that are coefficients are the first ones.
        code.blocks.append(Block(space.width, space.inputs, 0))
    states = [code.stage(0, 0, "identity")]
    for step in range(space.steps):
        end = flow.advance(step, states[-1], SCHEMES[space.scheme].rows)
        states.append(flow.corrected(step, states[-1], end) if defects else end)
    decoder = AffineMap(space.outputs, space.width, "identity")
    last = code.place([decoder], [(1.0, space.theta_stop, _unit(decoder.size))], np.zeros(decoder.size))
    code.stage(last, states[-1], "identity")
    if not space.theta_start:
        code.blocks[0] = Block(space.width, space.inputs, code.weights)
        code.offsets.append(np.concatenate([part.ravel() for part in _fixed_encoder(space)]))
    return Unrolled(code.program(), tuple(states))


@dataclass(frozen=True)
class WithDefects:
    """A flow with one more coefficient per step, at the end: the factor of its local defect, see `unrolled`."""

    space: FlowSpace

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.space.inputs

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.space.outputs

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim + self.space.steps

    @property
    def condensable(self) -> Index:
        """Coefficients of the decoder."""
        return self.space.condensable

    @cached_property
    def program(self) -> Program:
        """The code of the steps with their defects."""
        return unrolled(self.space, defects=True).program

    def initial(self, seed: int = 0) -> Array:
        """Return the starting point of the flow, with zero factors."""
        return self.extended(self.space.initial(seed))

    def extended(self, x: Array) -> Array:
        """Return coefficients of the flow with zero factors: the same network."""
        return np.append(x, np.zeros(self.space.steps))

    def attributes(self) -> dict[str, Any]:
        """Return plain data; it is not rebuilt from an archive."""
        return {**self.space.attributes(), "kind": "flow with defects"}


def _fixed_encoder(space: FlowSpace) -> tuple[Array, Array]:
    """Return ``E`` and ``e`` of an encoder that is not trained."""
    if isinstance(space.encoder, str):
        return np.eye(space.width, space.inputs), np.zeros(space.width)
    array = np.array(space.encoder)
    bias = array[:, space.inputs] if array.shape[1] > space.inputs else np.zeros(space.width)
    return array[:, : space.inputs], bias


def _unit(size: int) -> sp.csr_array:
    return sp.csr_array(sp.eye_array(size))
