"""Weights of residuals: positive functions that they are multiplied with, point by point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from dnnfem.problems.fields import Points, Tensor, tensor
from dnnfem.problems.pointwise import PointwiseLaw, rows
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Index

TERMS, SAMPLES_PER_TERM, HIGHEST = 200, 8, 40
"""Most terms of a fitted polynomial, least number of samples for each, and its largest degree."""


@dataclass(frozen=True, eq=False)
class Given:
    """A weight as a user wrote it, checked wherever it is called.

    Parameters
    ----------
    name : str
        Of the residual.
    function : callable or float
        ``weight(p)`` in torch, shape (m,) or (equations, m), or a number.
    equations : int
    """

    name: str
    function: Callable[[Points], Any] | float
    equations: int

    def __call__(self, p: Points) -> Tensor:
        """Return the factors at points, shape (equations, m).

        Raises
        ------
        ValueError
            If they have another shape, or are not finite and positive.
        """
        found = self.function(p) if callable(self.function) else self.function
        weights = rows(f"weight of {self.name!r}", found, p.coordinates, self.equations)
        wrong = ~(torch.isfinite(weights) & (weights > 0.0)).all(dim=0)
        if wrong.any():
            number = int(torch.nonzero(wrong)[0])
            raise ValueError(
                f"weight of {self.name!r}: got {weights[:, number].tolist()} at the point "
                f"{p.coordinates[number].tolist()}, expected finite positive numbers"
            )
        return weights


def multiplied(
    laws: Mapping[str, PointwiseLaw], given: Mapping[str, Any] | None, parts: Mapping[str, Quadrature]
) -> dict[str, PointwiseLaw]:
    """Return laws with the weights that are given for some of them, by name.

    Raises
    ------
    ValueError
        If there is no law of a name, or weights are not finite and positive at the points of its part.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"weight: got {type(given).__name__}, expected a mapping of names to functions or numbers")
    found = dict(laws)
    for name, function in (given or {}).items():
        if name not in laws:
            raise ValueError(f"weight: got one for {name!r}, expected some of {', '.join(map(repr, laws))}")
        law, part = laws[name], parts[name]
        weight = Given(name, function, len(law.scale))
        weight(Points(tensor(part.points), law.space, law.box, tensor(part.data)))
        found[name] = replace(law, weight=weight)
    return found


@dataclass(frozen=True, eq=False)
class Factor:
    """``exp(polynomial)`` on a box, one for each equation, between the extremes of what it was fitted to.

    Parameters
    ----------
    low, high : array, shape (d,)
        Corners of the box.
    powers : int array, shape (terms, d)
        Degrees of products of Legendre polynomials.
    coefficients : array, shape (equations, terms)
    least, most : array, shape (equations,)
        Bounds of the polynomials.
    """

    low: Array
    high: Array
    powers: Index
    coefficients: Array
    least: Array
    most: Array

    @classmethod
    def fitted(cls, points: Array, logarithms: Array) -> Factor:
        """Fit the logarithms (equations, m) of factors at points (m, d) by least squares.

        Of a noisy function of the points what is smooth is kept.  The total degree is as large as the number of points
        admits.
        """
        low, high = points.min(axis=0), points.max(axis=0)
        long = np.flatnonzero(high > low)
        count = min(TERMS, len(points) // SAMPLES_PER_TERM)
        degree = max((n for n in range(HIGHEST + 1) if math.comb(n + len(long), len(long)) <= count), default=0)
        powers = np.zeros((math.comb(degree + len(long), len(long)), points.shape[1]), dtype=np.int64)
        powers[:, long] = [p for p in product(range(degree + 1), repeat=len(long)) if sum(p) <= degree]
        empty = cls(low, high, powers, np.zeros((0, len(powers))), np.zeros(0), np.zeros(0))
        basis = empty.basis(tensor(points)).numpy()
        coefficients = np.linalg.lstsq(basis.T, logarithms.T)[0].T
        return replace(empty, coefficients=coefficients, least=logarithms.min(axis=1), most=logarithms.max(axis=1))

    def basis(self, points: Tensor) -> Tensor:
        """Return the products of Legendre polynomials at points (m, d), shape (terms, m)."""
        low, high = (points.new_tensor(corner) for corner in (self.low, self.high))
        size = torch.where(high > low, high - low, torch.ones_like(low))
        z = (2.0 * (points - low) / size - 1.0).clamp(-1.0, 1.0).T
        table = [torch.ones_like(z), z]
        for n in range(1, int(self.powers.max(initial=0))):
            table.append(((2 * n + 1) * z * table[n] - n * table[n - 1]) / (n + 1))
        # Shape (degree, d, m).
        legendre = torch.stack(table)
        powers = torch.as_tensor(self.powers, device=points.device)
        found = torch.ones((len(powers), len(points)), dtype=points.dtype, device=points.device)
        for axis in range(points.shape[1]):
            found = found * legendre[powers[:, axis], axis]
        return found

    def __call__(self, p: Points) -> Tensor:
        """Return the factors at points, shape (equations, m)."""
        points = p.coordinates
        coefficients, least, most = (points.new_tensor(a) for a in (self.coefficients, self.least, self.most))
        values = coefficients @ self.basis(points)
        return torch.exp(torch.minimum(torch.maximum(values, least[:, None]), most[:, None]))
