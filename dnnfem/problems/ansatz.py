"""Affine maps between the user's coordinates and units and the network's reference function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from dnnfem.kernels.components import Component, Laplacian, squares
from dnnfem.quadrature import row_blocks
from dnnfem.records import Array


def _bounds(array: Array) -> tuple[Array, Array]:
    """Return the least and the greatest value of each column."""
    bounds = []
    for rows in row_blocks(array):
        # Column by column is several times faster than row by row.
        columns = np.ascontiguousarray(array[rows].T, dtype=np.float64)
        bounds.append((columns.min(axis=1), columns.max(axis=1)))
    low, high = zip(*bounds, strict=True)
    return np.min(low, axis=0), np.max(high, axis=0)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``jet -> factors * jet + shift``, the shift in the components `values`; see `dnnfem.kernels.protocol.JetMap`."""

    factors: Array
    shift: Array
    values: tuple[int, ...]

    def jet(self, jet: Array) -> Array:
        """Return the user's jet, shape (components, outputs, m)."""
        result = self.factors * jet
        for number in self.values:
            result[number] += self.shift
        return result

    def tangent(self, jet: Array) -> Array:
        """Apply the linear part of `jet`, which is its own transpose."""
        return self.factors * jet

    cotangent = tangent


@dataclass(frozen=True, eq=False)
class AffineAnsatz:
    """``u(p) = output_shift + output_scale * N((p - input_shift) / input_scale)``.

    The arrays may be those of any library; a backend replaces them by its own.

    Parameters
    ----------
    input_shift, input_scale : array, shape (d,)
        Where a scale is infinite the network reads 0, and every derivative in that input is 0.
    output_shift, output_scale : array, shape (outputs,)
    """

    input_shift: Array
    input_scale: Array
    output_shift: Array
    output_scale: Array

    @classmethod
    def fitted(cls, points: Array, targets: Array, weights: Array) -> AffineAnsatz:
        """Map the bounding box of the points to [-1, 1]^d and the targets to mean 0 and deviation 1.

        A constant feature gets an infinite scale: nothing is known of other values of it, so every value is mapped to
        0.  A constant target is mapped to 0 with scale one.
        """
        low, high = _bounds(points)
        # Halved before the sum: the middle of two huge numbers must not overflow.
        middle, half = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
        least, greatest = _bounds(targets)
        blocks, total = list(row_blocks(targets)), np.sum(weights)
        mean = (
            sum((np.sum(weights[rows, None] * targets[rows], axis=0) for rows in blocks), np.zeros(len(least))) / total
        )
        mean = np.clip(mean, least, greatest)
        largest = np.maximum(greatest - mean, mean - least)
        unit = np.where(largest > 0, largest, 1.0)
        squares = (np.sum(weights[rows, None] * ((targets[rows] - mean) / unit) ** 2, axis=0) for rows in blocks)
        deviation = unit * np.sqrt(sum(squares, np.zeros(len(least))) / total)
        return cls(middle, np.where(half > 0, half, np.inf), mean, np.where(deviation > 0, deviation, 1.0))

    @property
    def inputs_only(self) -> AffineAnsatz:
        """The same map of the inputs, with the outputs left in reference units."""
        outputs = self.output_shift.size
        return AffineAnsatz(self.input_shift, self.input_scale, np.zeros(outputs), np.ones(outputs))

    def attributes(self) -> dict[str, Any]:
        """Return plain data from which the ansatz can be rebuilt."""
        return {name: getattr(self, name) for name in ("input_shift", "input_scale", "output_shift", "output_scale")}

    def reference(self, points: Array) -> Array:
        """Map points (m, d) to reference coordinates."""
        return (points - self.input_shift) / self.input_scale

    def reads(self, components: Sequence[Component]) -> tuple[Component, ...]:
        """Return the components of the reference jet: the same, but that the chain rule is in the weights of a sum.

        The first of these weights that is not zero is one, so that boxes of the same shape have the same components.
        """
        return tuple(self._scaled(c) if isinstance(c, Laplacian) else c for c in components)

    def _scaled(self, laplacian: Laplacian) -> Laplacian:
        weights, unit = self._weights(laplacian)
        return Laplacian(laplacian.axes, tuple(weight / unit for weight in weights))

    def _weights(self, laplacian: Laplacian) -> tuple[list[float], float]:
        """Return the weights in reference coordinates, and the first of them that is not zero."""
        weights = [float(weight / self.input_scale[i] ** 2) for weight, (i, _) in squares(laplacian)]
        return weights, next((weight for weight in weights if weight), 1.0)

    def _factor(self, component: Component) -> Any:
        """Return the factor of one component."""
        if isinstance(component, Laplacian):
            return self._weights(component)[1]
        factor: Any = 1.0
        for axis in component:
            factor = factor / self.input_scale[axis]
        return factor

    def at(self, points: Array, components: Sequence[Component]) -> AffineMap:
        """Return the map of jets; it is the same at all points.

        By the chain rule it has one factor per component and output, shape (components, outputs, 1).
        """
        scales, xp = self.output_scale, array_namespace(self.output_scale)
        one = xp.ones((), dtype=scales.dtype, device=device(scales))
        chain = xp.stack([one * self._factor(component) for component in components])
        values = tuple(number for number, component in enumerate(components) if component == ())
        return AffineMap(chain[:, None, None] * scales[None, :, None], self.output_shift[:, None], values)
