"""What a collocation problem begins with: points that cover a domain and its boundary, and sizes of its equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.kernels.protocol import Ansatz
from dnnfem.problems.conditions import Place, Side
from dnnfem.problems.domains import Box, Domain
from dnnfem.problems.meshing import CELLS, GAUSS, MOST_GAUSS, SOBOL_SIDES, in_time, power_of_two
from dnnfem.problems.pointwise import PointwiseLaw
from dnnfem.quadrature import BoxMesh, Mesh, Quadrature, SobolPoints, UnionMesh
from dnnfem.records import Array
from dnnfem.spaces import FeedforwardSpace

PROBES = 32
"""Random neurons that the sizes of equations are measured with."""

MEASURED = 4096
"""Most points at which they are."""


def covering(
    domain: Domain, time: tuple[float, float] | None, places: Mapping[str, Sequence[Place]], seed: int
) -> Quadrature:
    """Return points in a domain, and regions with points at the beginning, on sides of a box or parts of a boundary.

    Sides of a box have equal shares in a region, as time is a coordinate with a unit of its own; parts of another
    boundary are weighed by their measures.
    """
    seeds, regions = count(seed), {}
    begin = None if time is None else (time[0], time[0])
    whole = domain.mesh(time, seeds).quadrature()
    low, high = (corner[0] for corner in in_time(np.array([domain.low]), np.array([domain.high]), time))

    def side(place: Side, points: int) -> Mesh:
        axis, end = place
        lower, upper = low.copy(), high.copy()
        lower[axis] = upper[axis] = (low, high)[end][axis]
        if len(low) <= MOST_GAUSS:
            return BoxMesh.uniform(lower, upper, CELLS[len(low)], GAUSS)
        return SobolPoints(lower, upper, points, next(seeds))

    for name, members in places.items():
        names, sides = [m for m in members if isinstance(m, str)], [m for m in members if not isinstance(m, str)]
        if isinstance(domain, Box):
            parts = tuple(side(member, power_of_two(SOBOL_SIDES // len(sides))) for member in sides)
        else:
            parts = (domain.facet_mesh(names, time, seeds) if names else domain.mesh(begin, seeds),)
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


def prescribed(
    conditions: Sequence[tuple[PointwiseLaw, Quadrature]], ansatz: Ansatz, neuron: FeedforwardSpace
) -> Array:
    """Return the means of values that are prescribed, one per output, zeros if there are none.

    Parameters
    ----------
    conditions : sequence of (PointwiseLaw, Quadrature)
        Residuals ``u - g``, one per output, perhaps with others behind them, and where they are.
    ansatz, neuron
        As for `scaled`.
    """
    found = np.zeros(neuron.outputs)
    for law, part in conditions:
        integral = Integral(neuron, _some(part), ansatz, law, "reference")
        residual = np.asarray(integral.linearize(np.zeros(neuron.dim)).residual()).reshape(len(law.scale), -1)
        # Residuals have the roots of the weights in them, and the network without coefficients is the lift.
        found -= np.mean(residual[: neuron.outputs] / np.sqrt(integral.quadrature.weights), axis=1) / len(conditions)
    return found


def _some(part: Quadrature) -> Quadrature:
    """Return a quadrature with not too many points."""
    if len(part) <= MEASURED:
        return part
    return part.subset(np.linspace(0, len(part) - 1, MEASURED).astype(np.int64))
