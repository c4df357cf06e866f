"""What a collocation problem begins with: points that cover a box and its sides, and the sizes of its equations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.kernels.protocol import Ansatz
from dnnfem.problems.conditions import Side
from dnnfem.problems.pointwise import PointwiseLaw
from dnnfem.quadrature import BoxMesh, Quadrature, SobolPoints
from dnnfem.spaces import FeedforwardSpace

Corner = tuple[float, ...]

MOST_GAUSS = 3
"""Dimensions up to which there are Gauss points on cells, and Sobol' points above."""

CELLS = {1: 16, 2: 8, 3: 4}
"""Cells per axis at the beginning, by the number of axes."""

GAUSS = 4
"""Gauss points per axis of a cell."""

SOBOL = 4096
"""Sobol' points; a fourth of these on a side."""

PROBES = 16
"""Random neurons that the sizes of equations are measured with."""

MEASURED = 4096
"""Most points at which they are."""


def covering(low: Corner, high: Corner, sides: Mapping[str, Side], seed: int) -> Quadrature:
    """Return points in a box, and regions with points on some of its sides."""
    dim = len(low)

    def points(low: Corner, high: Corner, share: int, seed: int) -> Quadrature:
        if dim <= MOST_GAUSS:
            return BoxMesh.uniform(low, high, CELLS[dim], GAUSS).quadrature()
        return SobolPoints(np.array(low), np.array(high), SOBOL // share, seed).quadrature()

    regions = {}
    for number, (name, (axis, end)) in enumerate(sides.items(), start=1):
        place = (low, high)[end][axis]
        lower, upper = ((*corner[:axis], place, *corner[axis + 1 :]) for corner in (low, high))
        regions[name] = points(lower, upper, 4, seed + number)
    return replace(points(low, high, 1, seed), regions=regions)


def scaled(law: PointwiseLaw, part: Quadrature, ansatz: Ansatz, neuron: FeedforwardSpace) -> PointwiseLaw:
    """Divide a law by what it makes of random neurons of size one, root mean square over some points."""
    if len(part) > MEASURED:
        part = part.subset(np.linspace(0, len(part) - 1, MEASURED).astype(np.int64))
    # Wherever the problem is solved, so that it is everywhere the same.
    functional = Integral(neuron, part, ansatz, law, "reference")
    points = [np.zeros(neuron.dim), *(neuron.initial(seed) for seed in range(PROBES))]
    with np.errstate(all="ignore"):
        found = np.stack([np.asarray(functional.linearize(x).residual()) for x in points])
        # A logarithm, say, has no value at zero.
        zero = np.where(np.isfinite(found[0]), found[0], 0.0)
        rows = (found[1:] - zero).reshape(PROBES, len(law.scale), -1)
        rows = np.where(np.isfinite(rows), rows, 0.0)
        # By the largest one first: the squares might not be numbers.
        largest = np.max(np.abs(rows), axis=(0, 2))
        unit = np.where(largest > 0.0, largest, 1.0)
        scale = unit * np.sqrt(np.sum((rows / unit[:, None]) ** 2, axis=(0, 2)) / PROBES)
    return replace(law, scale=np.where(scale > 0.0, scale, 1.0))
