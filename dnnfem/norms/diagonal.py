"""Norms with a diagonal matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dnnfem.functionals.protocols import Norm
from dnnfem.records import Array, Index
from dnnfem.spaces import Coordinates, Space
from dnnfem.spaces.layout import check_coefficients


@dataclass(frozen=True, eq=False)
class Weighted(Norm):
    """``|v|^2 = sum_i weights_i v_i^2``.

    Parameters
    ----------
    space : Space
        Where the coefficients live.
    weights : array, shape (dim,)
        Positive.

    Raises
    ------
    ValueError
        If the shape is wrong or a weight is not positive.
    """

    space: Space
    weights: Array

    def __post_init__(self) -> None:
        weights = check_coefficients(self.space, self.weights, "weights")
        if not (weights > 0).all() or not np.isfinite(weights).all():
            raise ValueError(f"weights: got values down to {weights.min()}, expected positive finite numbers")
        object.__setattr__(self, "weights", weights)

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim

    @cached_property
    def _roots(self) -> Array:
        return np.sqrt(self.weights)

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        return self.weights * v

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        return g / self.weights

    def dense(self, onto: Array | None = None, factor: float = 1.0) -> Array:
        """Return ``factor M``, or add it to a matrix in place and return that."""
        return _on_diagonal(onto, factor * self.weights)

    def restricted(self, columns: Index) -> Weighted:
        """Return the norm on the coefficients `columns`."""
        return Weighted(Coordinates(len(columns)), self.weights[columns])

    def root(self) -> Array:
        """Return the diagonal matrix of the roots."""
        return np.diag(self._roots)

    def whiten(self, rows: Array) -> Array:
        """Return dual rows (k, dim) divided by the roots."""
        return rows / self._roots

    def unwhiten(self, y: Array) -> Array:
        """Return the primal vector(s), ``y`` divided by the roots."""
        return (y.T / self._roots).T


@dataclass(frozen=True, eq=False)
class Euclidean(Norm):
    """The Euclidean norm of the coefficients: it sees the parametrization, not the function.

    Parameters
    ----------
    space : Space
    """

    space: Space

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim

    def apply(self, v: Array) -> Array:
        """Return `v`."""
        return v

    def riesz(self, g: Array) -> Array:
        """Return `g`."""
        return g

    def dense(self, onto: Array | None = None, factor: float = 1.0) -> Array:
        """Return ``factor I``, or add it to a matrix in place and return that."""
        return _on_diagonal(onto, np.full(self.dim, factor))

    def restricted(self, columns: Index) -> Euclidean:
        """Return the norm on the coefficients `columns`."""
        return Euclidean(Coordinates(len(columns)))

    def root(self) -> Array:
        """Return the identity matrix."""
        return np.eye(self.dim)

    def whiten(self, rows: Array) -> Array:
        """Return `rows`."""
        return rows

    def unwhiten(self, y: Array) -> Array:
        """Return `y`."""
        return y


def _on_diagonal(onto: Array | None, values: Array) -> Array:
    if onto is None:
        return np.diag(values)
    np.einsum("ii->i", onto)[:] += values
    return onto
