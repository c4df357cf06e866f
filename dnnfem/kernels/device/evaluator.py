"""Evaluator of the device backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dnnfem.kernels.components import Component, check
from dnnfem.kernels.device import rows
from dnnfem.kernels.device.graphs import Graphs
from dnnfem.kernels.device.linearization import DeviceLinearization
from dnnfem.kernels.device.outputs import MOST, Outputs
from dnnfem.kernels.device.place import Place, array
from dnnfem.kernels.device.pointwise import Tensor
from dnnfem.kernels.device.samples import Chunks, Samples
from dnnfem.kernels.device.sweeps import Code, forward, placed
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import MEMORY, Ansatz, Law, PlacedPoints
from dnnfem.kernels.recent import Recent
from dnnfem.records import Array, Index


@dataclass(frozen=True, eq=False)
class DeviceEvaluator:
    """See `dnnfem.kernels.protocol.Evaluator`.

    Parameters
    ----------
    program, quadrature, ansatz, law
        What is placed.
    place : Place
        Where, and in which type.
    memory : int or None
        Bytes that one linearization may keep, samples among them; None: a fourth of what is free on a GPU, as solvers
        compare several.  What does not fit is computed again, with the same bits.
    capture : bool
        Whether products of small networks may be captured as CUDA graphs; on a CPU there are none.
    """

    program: Program
    quadrature: PlacedPoints
    ansatz: Ansatz
    law: Law
    place: Place
    memory: int | None = None
    capture: bool = True
    graphs: Graphs = field(default_factory=Graphs, init=False, repr=False)
    _samples: dict[int, Samples] = field(default_factory=dict, init=False, repr=False)
    grams: Recent[Array] = field(default_factory=lambda: Recent(2), init=False, repr=False)
    _selections: Recent[rows.Selection] = field(default_factory=lambda: Recent(4), init=False, repr=False)

    def __post_init__(self) -> None:
        check(self.law.components, self.program.inputs)
        if self.quadrature.points.shape[1] != self.program.inputs:
            raise ValueError(
                f"quadrature: got points of shape {self.quadrature.points.shape}, expected (m, {self.program.inputs})"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # What is on the device stays there: it is computed again where this is read.
        placed = (self.program, self.quadrature, self.ansatz, self.law, self.place, self.memory, self.capture)
        return DeviceEvaluator, placed

    @cached_property
    def outputs(self) -> Outputs:
        """Ansatz and law on the device, with the program that carries the jet they read."""
        return self.read_by(self.law.components)

    def read_by(self, components: Sequence[Component]) -> Outputs:
        """Return ansatz and law for a user's jet with some components."""
        code = Code.of(self.program, self.ansatz.reads(components))
        return Outputs(code, self.place.placed(self.ansatz), self.place.placed(self.law))

    @property
    def code(self) -> Code:
        """The program."""
        return self.outputs.code

    @cached_property
    def chunks(self) -> Chunks:
        """The samples."""
        q, size = self.quadrature, self.outputs.shape[0] * self.program.outputs
        memory = self.memory
        if memory is None and self.place.is_gpu:
            memory = torch.cuda.mem_get_info(self.place.device)[0] // 4
        elif memory is None:
            memory = max(MEMORY, (q.points.nbytes + q.data.nbytes) // 2)
        width = torch.empty(0, dtype=self.place.dtype).element_size()
        kept = width * (self.code.kept + self.program.inputs + size**2 * (size <= MOST))
        law = 8 * (6 * size + self.program.inputs + q.data.shape[1] + 1)
        return Chunks(q, self.outputs.ansatz, self.law.components, self.place, kept + law, memory)

    def samples(self, number: int) -> Samples:
        """Return a chunk; those that are held are brought to the device once."""
        if number in self._samples:
            return self._samples[number]
        samples = self.chunks.samples(number)
        if number < self.chunks.held:
            self._samples[number] = samples
        return samples

    def weights(self, x: Array) -> Tensor:
        """Return the weights that belong to coefficients."""
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (self.program.dim,):
            raise ValueError(f"x: got shape {x.shape}, expected {(self.program.dim,)}")
        return self.place.tensor(self.program.weights(x)).to(self.place.dtype)

    def selection(self, columns: Index | None) -> rows.Selection:
        """Return what the columns of a system depend on; the last few are remembered."""
        chosen = None if columns is None else np.arange(self.program.dim)[columns]
        key = b"all" if chosen is None else chosen.tobytes()
        return self._selections(key, lambda: rows.Selection.of(self.program, chosen, self.place))

    def _laws(self, x: Array) -> Iterator[tuple[Samples, Any]]:
        """Yield samples and the law there, chunk by chunk."""
        weights = self.weights(x)
        for number in range(self.chunks.count):
            samples = self.samples(number)
            registers, _ = forward(self.code, weights, placed(self.code, samples.reference))
            yield samples, self.outputs.at(samples, registers[-1])

    def value(self, x: Array) -> float:
        """Return ``sum_q w_q L``."""
        with self.place.arithmetic():
            total = self.place.zeros()
            for samples, here in self._laws(x):
                total = total + torch.sum(samples.weights * here.density)
            return float(total)

    def cellwise(self, x: Array) -> Array:
        """Return the sums of ``w L`` per cell."""
        values, cells = self.samplewise(x), self.quadrature.cells
        return values if cells is None else np.bincount(cells, weights=values).astype(np.float64)

    def samplewise(self, x: Array) -> Array:
        """Return ``w L`` at every point."""
        with self.place.arithmetic():
            return array(torch.cat([samples.weights * here.density for samples, here in self._laws(x)]))

    def left_out(self, x: Array, root: Array, exact: bool) -> LeftOut:
        """Return every sample as the network without it sees it."""
        with self.place.arithmetic():
            return rows.left_out(self.linearize(x), self.place.tensor(root), exact)

    def jet(self, x: Array, points: Array, components: Sequence[Component]) -> Array:
        """Return the user's jet at any points, shape (components, outputs, m).

        Raises
        ------
        ValueError
            If `components` asks for derivatives of too high an order or in other inputs.
        """
        check(components, self.program.inputs)
        outputs, weights, parts = self.read_by(components), self.weights(x), []
        with self.place.arithmetic():
            for start in range(0, len(points), self.chunks.step):
                part = self.place.tensor(points[start : start + self.chunks.step])
                samples = self.chunks.of(part, part[:, :0], part[:, 0], components)
                registers, _ = forward(outputs.code, weights, placed(outputs.code, samples.reference))
                parts.append(array(outputs.jet(samples, registers[-1])))
        return np.concatenate(parts, axis=2) if parts else np.empty((len(components), self.program.outputs, 0))

    def linearize(self, x: Array) -> DeviceLinearization:
        """Return the linearization at `x`; it computes when it is asked."""
        x = self.place.copied(x)
        return DeviceLinearization(self, x, self.weights(x))
