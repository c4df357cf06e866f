"""The penalty of trainable time steps: the time that a flow takes stays near a given one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.records import Array, Index
from dnnfem.spaces import FlowSpace, TimeSteps
from dnnfem.spaces.layout import check_coefficients
from dnnfem.spaces.meshes import lengths


@dataclass(frozen=True, eq=False)
class TimeHorizon:
    """``beta/2 (int tau dt - time)^2`` of a flow whose field is `TimeSteps`.

    Parameters
    ----------
    space : FlowSpace
    beta : float
        Weight, not negative.
    time : float, optional
        What the time should be; default ``T``.

    Raises
    ------
    ValueError
        If the space is no flow with trainable time steps, or `beta` or `time` are not as described.

    References
    ----------
    Herberg, Herzog and Köhne, arXiv 2306.16111 (2023).
    """

    space: FlowSpace
    beta: float
    time: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.space, FlowSpace) or not isinstance(self.space.field, TimeSteps):
            raise ValueError(f"space: got {self.space}, expected a FlowSpace with a field TimeSteps(...)")
        if not isinstance(self.beta, int | float | np.floating) or not 0.0 <= self.beta < np.inf:
            raise ValueError(f"beta: got {self.beta!r}, expected a finite number that is not negative")
        if self.time is None:
            object.__setattr__(self, "time", self.space.end)
        elif not 0.0 < self.time < np.inf:
            raise ValueError(f"time: got {self.time!r}, expected a positive number")

    @property
    def condensable(self) -> Index:
        """Whatever the space offers: the penalty does not depend on it."""
        return self.space.condensable

    @cached_property
    def _row(self) -> Array:
        """``int tau dt`` as a linear form, times the root of beta, shape (dim,)."""
        space, row = self.space, np.zeros(self.space.dim)
        h = lengths(space.weight_mesh)
        if space.degree == 1:
            h = 0.5 * (np.append(h, 0.0) + np.append(0.0, h))
        space.theta(row)[:, -1] = np.sqrt(self.beta) * h
        return row

    def value(self, x: Array) -> float:
        """Return ``beta/2 (int tau dt - time)^2``."""
        return self.linearize(x).value

    def linearize(self, x: Array) -> TimeHorizonLinearization:
        """Return value, derivative and products at `x`."""
        x = check_coefficients(self.space, x)
        assert self.time is not None
        return TimeHorizonLinearization(x, self._row, float(self._row @ x - np.sqrt(self.beta) * self.time))

    def on(self, *, space: Any = None, quadrature: Any = None, transfer: Any = None) -> TimeHorizon:
        """Return the penalty on another space; where that has another ``T``, the time changes by as much."""
        if space is None:
            return self
        assert self.time is not None
        return replace(self, space=space, time=self.time + (space.end - self.space.end))


@dataclass(frozen=True, eq=False)
class TimeHorizonLinearization:
    """The square of an affine form at a point."""

    x: Array
    row: Array
    remainder: float

    @property
    def value(self) -> float:
        """Half the square."""
        return 0.5 * self.remainder**2

    @property
    def derivative(self) -> Array:
        """Dual, shape (dim,)."""
        return self.remainder * self.row

    def hessian(self, v: Array) -> Array:
        """Product with the matrix of rank one."""
        return np.multiply.outer(self.row, self.row @ v)

    curvature = hessian

    def gram(self, single: bool = False) -> Array:
        """The matrix of rank one."""
        return np.outer(self.row, self.row)

    def residual(self) -> Array:
        """The form, shape (1,)."""
        return np.array([self.remainder])

    def mixed(self, other: TimeHorizonLinearization) -> Array:
        """The derivative with the remainder of another point."""
        return other.remainder * self.row

    def system(self, columns: Index | None = None) -> DenseLeastSquares:
        """One row."""
        row = self.row if columns is None else self.row[columns]
        return DenseLeastSquares(row[None], self.residual(), penalties=np.arange(1))
