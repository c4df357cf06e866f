"""Linearization of the device backend: what runs between the sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dnnfem.kernels.device import rows
from dnnfem.kernels.device.least_squares import DeviceLeastSquares
from dnnfem.kernels.device.place import array
from dnnfem.kernels.device.pointwise import Tensor
from dnnfem.kernels.device.tape import Tape
from dnnfem.kernels.gram import remembered
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.program import as_columns
from dnnfem.records import Array, Index

if TYPE_CHECKING:
    from dnnfem.kernels.device.evaluator import DeviceEvaluator

DIRECTIONS = 2**26
"""Bytes that the tangents of all directions of a block may take."""


@dataclass(frozen=True, eq=False)
class DeviceLinearization:
    """See `dnnfem.kernels.protocol.Linearization`.

    Attributes
    ----------
    evaluator : DeviceEvaluator
    x : array, shape (dim,)
        The point, primal.
    weights : tensor, shape (weights,)
        The weights that belong to it.
    """

    evaluator: DeviceEvaluator
    x: Array
    weights: Tensor
    _tapes: dict[int, Tape] = field(default_factory=dict, init=False, repr=False)
    _grams: dict[bool, Array] = field(default_factory=dict, init=False, repr=False)

    def tapes(self) -> Iterator[Tape]:
        """Yield the forward sweep chunk by chunk; those that are held are computed once."""
        for number in range(self.evaluator.chunks.count):
            yield self._tape(number)

    def _tape(self, number: int) -> Tape:
        if number in self._tapes:
            return self._tapes[number]
        e = self.evaluator
        tape = Tape.of(e, self.weights, e.samples(number))
        if number < e.chunks.held:
            self._tapes[number] = tape
        return tape

    @cached_property
    def value(self) -> float:
        """``J(x)``."""
        with self.evaluator.place.arithmetic():
            total = self.evaluator.place.zeros()
            for tape in self.tapes():
                total = total + torch.sum(tape.samples.weights * tape.law.density)
            return float(total)

    def _summed(self, sums: Callable[[Tape], Tensor], count: int) -> Array:
        """Add up the sums of all chunks in their order; return dual vectors as columns, shape (dim, count)."""
        with self.evaluator.place.arithmetic():
            total = self.evaluator.place.zeros(count, len(self.weights))
            for tape in self.tapes():
                total += sums(tape)
            return np.asarray(self.evaluator.program.restrict(array(total).T))

    @cached_property
    def derivative(self) -> Array:
        """``J'(x)``, dual, shape (dim,)."""
        return self._summed(lambda tape: tape.recorded[0], 1)[:, 0]

    def _products(self, v: Array, exact: bool) -> Array:
        """Return products with directions v (dim,) or (dim, k), dual."""
        e, columns = self.evaluator, as_columns(v, self.x.size)
        each = e.chunks.bytes * min(e.chunks.step, e.chunks.size)
        count = max(1, DIRECTIONS // each)

        def block(start: int) -> Array:
            part = e.program.directions(columns[:, start : start + count])
            directions = e.place.tensor(part.T).to(e.place.dtype)
            return self._summed(partial(Tape.product, direction=directions, exact=exact), len(directions))

        blocks = [block(start) for start in range(0, columns.shape[1], count)]
        # Long vectors are not copied once more.
        result = blocks[0] if len(blocks) == 1 else np.concatenate([np.empty((self.x.size, 0)), *blocks], axis=1)
        return result.reshape(np.shape(v))

    def hessian(self, v: Array) -> Array:
        """Return ``J''(x) v``, dual, for v of shape (dim,) or (dim, k)."""
        return self._products(v, True)

    def curvature(self, v: Array) -> Array:
        """Return ``sum_q w T^T C T v``, dual, for v of shape (dim,) or (dim, k)."""
        return self._products(v, False)

    @cached_property
    def moments(self) -> tuple[Array, ...]:
        """``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
        return rows.moments(self)

    def curvature_along(self, directions: Mapping[int, tuple[Array, Array]]) -> Array | None:
        """Return ``<C d_i, d_j>`` for directions of rank one of the weights of stages."""
        with self.evaluator.place.arithmetic():
            return rows.curvature_along(self, directions)

    def residual(self) -> Tensor | None:
        """Return ``sqrt(w) r``, residuals running slower than samples, on the device; None but for residuals."""
        if self.evaluator.law.kind != "residual":
            return None
        with self.evaluator.place.arithmetic():
            return rows.residual(self)

    def pull(self, residual: Any) -> Array:
        """Return ``A^T residual`` for a vector of the rows of `system`, dual, shape (dim,)."""
        e = self.evaluator
        parts = iter(rows.parts(self, e.place.tensor(residual)))
        return self._summed(lambda tape: tape.sums(rows.cotangents(tape, next(parts)))[0], 1)[:, 0]

    def mixed(self, other: DeviceLinearization) -> Array | None:
        """Return ``A^T r(y)``, dual, with the residual of a linearization at ``y``; None for a loss law."""
        residual = other.residual()
        return None if residual is None else self.pull(residual)

    def system(self, columns: Index | None = None) -> DeviceLeastSquares | DenseLeastSquares | None:
        """Return the rows ``sqrt(w) r' dU/dx``, residuals slower than samples, in the coefficients `columns`.

        Where there are many they are compressed, see `dnnfem.kernels.device.rows`.
        """
        with self.evaluator.place.arithmetic():
            return rows.system(self, columns)

    def gram(self, single: bool = False) -> Array:
        """Return ``sum_q w T^T C T``, shape (dim, dim); with `single` from products of rows in single precision."""
        if single not in self._grams:
            self._grams[single] = remembered(self.evaluator.grams, self, partial(rows.gram, self), single)
        return self._grams[single]
