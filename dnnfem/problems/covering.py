"""What a collocation problem begins with: points that cover a box and its sides, and the sizes of its equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.kernels.protocol import Ansatz
from dnnfem.problems.conditions import Side
from dnnfem.problems.pointwise import PointwiseLaw
from dnnfem.quadrature import BoxMesh, Mesh, Quadrature, SobolPoints, UnionMesh
from dnnfem.records import Array
from dnnfem.spaces import FeedforwardSpace

Corner = tuple[float, ...]

MOST_GAUSS = 3
"""Dimensions up to which there are Gauss points on cells, and Sobol' points above."""

CELLS = {1: 16, 2: 8, 3: 4}
"""Cells per axis at the beginning, by the number of axes."""

GAUSS = 4
"""Gauss points per axis of a cell."""

SOBOL, SOBOL_SIDES, FEWEST_SOBOL = 4096, 2048, 64
"""Sobol' points inside, on all sides with the same condition together, and at least on each of them."""

PROBES = 32
"""Random neurons that the sizes of equations are measured with."""

MEASURED = 4096
"""Most points at which they are."""


def covering(low: Corner, high: Corner, sides: Mapping[str, Sequence[Side]], seed: int) -> Quadrature:
    """Return points in a box, and regions with points on some of its sides."""
    dim, seeds = len(low), count(seed)

    def mesh(low: Corner, high: Corner, points: int) -> Mesh:
        if dim <= MOST_GAUSS:
            return BoxMesh.uniform(low, high, CELLS[dim], GAUSS)
        return SobolPoints(np.array(low), np.array(high), points, next(seeds))

    def side(axis: int, end: int, points: int) -> Mesh:
        place = (low, high)[end][axis]
        lower, upper = ((*corner[:axis], place, *corner[axis + 1 :]) for corner in (low, high))
        return mesh(lower, upper, points)

    whole, regions = mesh(low, high, SOBOL).quadrature(), {}
    for name, members in sides.items():
        share = max(FEWEST_SOBOL, 1 << (SOBOL_SIDES // len(members)).bit_length() - 1)
        parts = tuple(side(*member, share) for member in members)
        regions[name] = (parts[0] if len(parts) == 1 else UnionMesh(parts)).quadrature()
    return replace(whole, regions=regions)


def scaled(
    laws: Mapping[str, PointwiseLaw], parts: Mapping[str, Quadrature], ansatz: Ansatz, neuron: FeedforwardSpace
) -> dict[str, PointwiseLaw]:
    """Divide laws by their responses to random neurons, relative to the changes of `u`: root mean squares over points.

    Parameters
    ----------
    laws, parts
        By name, and where they hold; the first one inside.
    ansatz : Ansatz
        What makes `u` of neurons.
    neuron : FeedforwardSpace
        Of a single one; unknowns keep their starting values.
    """
    probes = [neuron.initial(seed) for seed in range(PROBES)]

    def sizes(at: Callable[[Array], Array]) -> Array:
        """Return the root mean square differences from the zero network of what has shape (rows, points)."""
        with np.errstate(all="ignore"):
            zero = at(np.zeros(neuron.dim))
            # A logarithm, say, has no value at zero.
            found = np.stack([at(x) - np.where(np.isfinite(zero), zero, 0.0) for x in probes])
            found = np.where(np.isfinite(found), found, 0.0)
            # By the largest one first: the squares might not be numbers.
            largest = np.max(np.abs(found), axis=(0, 2))
            unit = np.where(largest > 0.0, largest, 1.0)
            return np.asarray(unit * np.sqrt(np.mean((found / unit[:, None]) ** 2, axis=(0, 2))))

    # Wherever the problem is solved, so that sizes are everywhere the same.
    placed = {name: Integral(neuron, _some(parts[name]), ansatz, law, "reference") for name, law in laws.items()}
    inside = next(iter(placed.values()))
    points = np.asarray(inside.quadrature.points, dtype=np.float64)
    weights = inside.quadrature.weights
    roots = np.sqrt(weights / np.mean(weights))

    def values(x: Array) -> Array:
        return roots * inside.evaluator.jet(x, points, ((),))[0, : neuron.outputs]

    change = float(np.sqrt(np.mean(sizes(values) ** 2)))

    def response(name: str) -> Array:
        weights, linearize = placed[name].quadrature.weights, placed[name].linearize
        # Residuals have the roots of the weights in them.
        roots = np.sqrt(np.mean(weights))
        return sizes(lambda x: np.asarray(linearize(x).residual()).reshape(len(laws[name].scale), -1) / roots)

    found = {name: response(name) / change for name in laws}
    return {name: replace(law, scale=np.where(found[name] > 0.0, found[name], 1.0)) for name, law in laws.items()}


def _some(part: Quadrature) -> Quadrature:
    """Return a quadrature with not too many points."""
    if len(part) <= MEASURED:
        return part
    return part.subset(np.linspace(0, len(part) - 1, MEASURED).astype(np.int64))
