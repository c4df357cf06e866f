"""Weights of residuals: positive functions that they are multiplied with, point by point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement
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
    """A weight as a user wrote it.

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
        """Return the factors at points, shape (1 or equations, m).

        Raises
        ------
        ValueError
            If they have another shape.
        """
        found = self.function(p) if callable(self.function) else self.function
        weights = rows(f"weight of {self.name!r}", found, p.coordinates)
        if len(weights) not in (1, self.equations):
            expected = f"{self.equations}, one per equation, or one for all"
            raise ValueError(f"weight of {self.name!r}: got {len(weights)} rows, expected {expected}")
        return weights

    def check(self, p: Points) -> None:
        """Raise a `ValueError` unless factors are finite and positive."""
        weights = self(p)
        wrong = ~(torch.isfinite(weights) & (weights > 0.0)).all(dim=0)
        if wrong.any():
            number = int(torch.nonzero(wrong)[0])
            raise ValueError(
                f"weight of {self.name!r}: got {weights[:, number].tolist()} at the point "
                f"{p.coordinates[number].tolist()}, expected finite positive numbers"
            )


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
        weight.check(Points(tensor(part.points), law.space, law.box, tensor(part.data)))
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
        # Each power is how often an axis is chosen; the last choice is none.
        choices = list(combinations_with_replacement([*long.tolist(), points.shape[1]], degree))
        powers = np.array([np.bincount(c, minlength=points.shape[1] + 1)[:-1] for c in choices], dtype=np.int64)
        powers = powers.reshape(len(choices), points.shape[1])
        known = np.isfinite(logarithms).all(axis=0)
        if not known.any():
            raise ValueError("logarithms: got none that is finite, expected some")
        points, logarithms = points[known], logarithms[:, known]
        empty = cls(low, high, powers, np.zeros((0, len(powers))), np.zeros(0), np.zeros(0))
        coefficients = np.linalg.lstsq(empty.basis(tensor(points)).numpy().T, logarithms.T)[0].T
        return replace(empty, coefficients=coefficients, least=logarithms.min(axis=1), most=logarithms.max(axis=1))

    def _table(self, points: Tensor) -> Tensor:
        """Return the Legendre polynomials in all coordinates at points (m, d), shape (degree + 1, d, m)."""
        low, high = (points.new_tensor(corner) for corner in (self.low, self.high))
        size = torch.where(high > low, high - low, torch.ones_like(low))
        z = (2.0 * (points - low) / size - 1.0).clamp(-1.0, 1.0).T
        table = [torch.ones_like(z), z]
        for n in range(1, int(self.powers.max(initial=0))):
            table.append(((2 * n + 1) * z * table[n] - n * table[n - 1]) / (n + 1))
        return torch.stack(table[: int(self.powers.max(initial=0)) + 1])

    def basis(self, points: Tensor) -> Tensor:
        """Return the products of Legendre polynomials at points (m, d), shape (terms, m)."""
        table, powers = self._table(points), torch.as_tensor(self.powers, device=points.device)
        return torch.stack([table[powers[:, axis], axis] for axis in range(points.shape[1])]).prod(dim=0)

    @cached_property
    def _sums(self) -> tuple[Array, list[tuple[Index, Index]]]:
        """How a polynomial is summed up from the last axis to the first, which is less than all products.

        Coefficients (equations, prefixes, degree + 1), with the powers of all axes but the last one as prefixes; then,
        for each axis from the last but one on, the powers of the prefixes in it, and the numbers of those without it.
        """
        prefixes, number = np.unique(self.powers[:, :-1], axis=0, return_inverse=True)
        shape = (len(self.coefficients), len(prefixes), int(self.powers.max(initial=0)) + 1)
        coefficients, sums = np.zeros(shape), []
        coefficients[:, number.ravel(), self.powers[:, -1]] = self.coefficients
        while prefixes.shape[1]:
            shorter, number = np.unique(prefixes[:, :-1], axis=0, return_inverse=True)
            sums.append((prefixes[:, -1], number.ravel()))
            prefixes = shorter
        return coefficients, sums

    def __call__(self, p: Points) -> Tensor:
        """Return the factors at points, shape (equations, m)."""
        points = p.coordinates
        coefficients, sums = self._sums
        table = self._table(points)
        values = points.new_tensor(coefficients) @ table[:, -1]
        for axis, (powers, numbers) in zip(range(points.shape[1] - 2, -1, -1), sums, strict=True):
            into = torch.as_tensor(numbers, device=points.device)
            terms = values * table[torch.as_tensor(powers, device=points.device), axis]
            values = terms.new_zeros(len(values), int(numbers.max()) + 1, len(points)).index_add(1, into, terms)
        least, most = (points.new_tensor(a)[:, None] for a in (self.least, self.most))
        return torch.exp(torch.minimum(torch.maximum(values[:, 0], least), most))
