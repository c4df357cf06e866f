"""Candidates for refinement in width: ridges through the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dnnfem.kernels.reference import evaluate
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array
from dnnfem.refinement.width import check_feedforward, group
from dnnfem.spaces import FeedforwardSpace, Purpose, generator
from dnnfem.spaces.feedforward import SCALES, Neuron, ridges
from dnnfem.spaces.layout import check_coefficients

COUNT = 300
"""Candidates per layer."""


@dataclass(frozen=True, eq=False)
class RidgeCandidates:
    """A rule that draws candidate neurons; see `ridge_candidates`.

    Attributes
    ----------
    space : FeedforwardSpace
        The space to be widened.
    points : array, shape (m, inputs)
        Of the data.
    seed, count : int
        Of the draw, and candidates per layer.
    layers : tuple of int
        Hidden layers to widen.
    directions : str
        How directions are drawn.
    """

    space: FeedforwardSpace
    points: Array
    seed: int
    count: int
    layers: tuple[int, ...]
    directions: str = "sphere"

    def draw(self, reference: Callable[[Array], Array], x: Array) -> list[Neuron]:
        """Return candidates in the coordinates that each layer reads.

        Parameters
        ----------
        reference : callable
            From the user's coordinates to reference coordinates, (m, d) -> (m, d).
        x : array, shape (dim,)
            Coefficients: they decide what the layers after the first one read.

        Raises
        ------
        ValueError
            If `x` is no finite vector of the space that the candidates are for.
        """
        if np.shape(x) != (self.space.dim,):
            raise ValueError(
                f"candidates: got a rule for {self.space} with {self.space.dim} coefficients, expected one for the "
                f"space of x with shape {np.shape(x)}"
            )
        x = check_coefficients(self.space, x, finite=True)
        random = generator(self.seed, self.space.dim, Purpose.CANDIDATES)
        neurons: list[Neuron] = []
        for layer in self.layers:
            sets = 3 if self.directions == "pairs" else 1
            points = self.points[random.integers(len(self.points), size=sets * self.count)]
            program = self.space.program.truncated(self.space.reads(layer))
            read = evaluate(program, x, reference(points))[frozenset()][0]
            if self.directions == "pairs":
                weights, bias = between(random, *np.split(read, sets))
            else:
                # Neurons of deeper layers are no coordinates.
                weights, bias = ridges(random, read, sparse=self.directions == "sparse" and layer == 0)
            neurons += [Neuron(layer, w, float(b)) for w, b in zip(weights, bias, strict=True)]
        return neurons


def ridge_candidates(
    space: FeedforwardSpace,
    quadrature: Quadrature,
    seed: int = 0,
    count: int = COUNT,
    layers: Sequence[int] | None = None,
    directions: str = "sphere",
) -> RidgeCandidates:
    """Return candidate neurons ``sigma(w . (y - y_0))`` whose transition passes through a point of the data.

    Parameters
    ----------
    space : FeedforwardSpace
        The space to be widened.
    quadrature : Quadrature
        Offers the points.
    seed : int
        The draw depends on it and on ``space.dim`` alone.
    count : int
        Candidates per layer.
    layers : sequence of int, optional
        Hidden layers to widen; default all that are not residual.
    directions : str
        ``"sphere"``: of all directions equally many.  ``"pairs"``: from one point of the data to another, with a
        transition about as long as they are apart.  With many inputs, such as pixels, nearly all directions are ones
        in which the data do not vary; pairs have the covariance of the data.  ``"sparse"``: of k random inputs alone,
        with probability ``2^-k``; layers after the first one have all directions.  For equations in many dimensions,
        whose solutions are often sums of functions of few coordinates.

    Returns
    -------
    RidgeCandidates
        For `dnnfem.hierarchical` and `dnnfem.insertion_sensitivity`.

    Raises
    ------
    ValueError
        If the space is not feedforward, the points do not fit it, `count` is not positive, `directions` is unknown, or
        a layer cannot be widened.

    References
    ----------
    Bolager, Burak, Datar, Sun and Dietrich, Sampling weights of deep neural networks, NeurIPS (2023), arXiv 2306.16830,
    for pairs.
    """
    check_feedforward(space)
    if quadrature.inputs != space.inputs:
        raise ValueError(
            f"quadrature: got points of dimension {quadrature.inputs}, expected {space.inputs} for {space}"
        )
    if count < 1:
        raise ValueError(f"count: got {count}, expected a positive number")
    if directions not in ("sphere", "pairs", "sparse"):
        raise ValueError(f'directions: got {directions!r}, expected "sphere", "pairs" or "sparse"')
    chosen = tuple(n for n, r in enumerate(space.residual) if not r) if layers is None else tuple(layers)
    for layer in chosen:
        group(space, layer)
    return RidgeCandidates(space, quadrature.points, seed, count, chosen, directions)


def between(random: np.random.Generator, centers: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Draw one ridge ``w . (y - y_0)`` through each center, ``w`` along the way from a first point to a second.

    Between these two the argument changes by twice a number that is log-uniform in `SCALES`, as it does for a neuron of
    the other kind across [-1, 1].  Where the points coincide the neuron is constant.

    Returns
    -------
    weights : array, shape (m, d)
    bias : array, shape (m,)
    """
    way = second - first
    square = np.sum(way * way, axis=1, keepdims=True)
    length = 2.0 * np.exp(random.uniform(np.log(SCALES[0]), np.log(SCALES[1]), (len(way), 1)))
    weights = length * way / np.where(square > 0.0, square, 1.0)
    return weights, -np.einsum("md,md->m", weights, centers)
