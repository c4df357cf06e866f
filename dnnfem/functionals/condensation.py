"""Static condensation: the affine output layer is eliminated, as an FEM code condenses interior unknowns.

For a residual that is affine in the coefficients ``c`` of the output layer, ``r(c, y) = A(y) c - b(y)``, the condensed
functional is ``j(y) = min_c |r(c, y)|^2 / 2`` (variable projection: Golub and Pereyra 1973).  Its Gauss-Newton Jacobian
in Kaufman's form (1975) is ``(I - Q Q^T) dr/dy`` at ``c(y)``, where ``Q`` spans the range of ``A``; the gradient that
comes out of it is exact.  A tiny penalty on ``c`` goes into ``r`` as further rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.functionals.protocols import Functional
from dnnfem.given import real_number
from dnnfem.kernels.protocol import Linearization
from dnnfem.kernels.reduction import stacked
from dnnfem.kernels.system import LeastSquaresSystem
from dnnfem.records import Array, Index
from dnnfem.spaces import Coordinates
from dnnfem.spaces.layout import check_coefficients

RIDGE = 1e-17
"""Keeps the outer coefficients finite when features merge: combinations of features smaller than its root, 3e-9, are
not used.  Rounding errors of the features, magnified by the coefficients, then stay below 1e-7 of the fit's own scale,
and the functional keeps a derivative where the rank of the features drops."""

SHARE, FAINTER, LEAST = 1e-2, 1e-3, 1e-24
"""Where it is more than the first part of the value, solvers multiply the penalty by the second number, down to the
third: fits to many digits may have coefficients that are large, and need them."""


def _system(linearization: Linearization, columns: Index | None = None) -> LeastSquaresSystem:
    system = linearization.system(columns)
    if system is None:
        raise ValueError("condense: got a functional without a least-squares system, expected one of residual laws")
    return system


@dataclass(frozen=True, eq=False)
class Condensed:
    """The functional that is left in the inner coefficients ``y``; see `condense`.

    Attributes
    ----------
    functional : Functional
        In all coefficients.
    outer, inner : int array, shape (k,) and (dim - k,)
        Which coefficients are eliminated, and which are left.
    ridge : float
        Weight of the penalty on the eliminated ones.
    """

    functional: Functional
    outer: Index
    inner: Index
    ridge: float

    @property
    def space(self) -> Coordinates:
        """R^k with k inner coefficients."""
        return Coordinates(len(self.inner))

    @property
    def condensable(self) -> None:
        """Everything has been eliminated."""
        return None

    def merge(self, outer: Array, inner: Array) -> Array:
        """Return the full vector from its two parts."""
        x = np.empty(self.outer.size + self.inner.size)
        x[self.outer.ravel()] = np.ravel(outer)
        x[self.inner] = inner
        return x

    def expand(self, y: Array) -> Array:
        """Return the full coefficients ``(c(y), y)``."""
        return self.expand_at(self.linearize(y))

    def expand_at(self, linearization: Linearization) -> Array:
        """Return the full coefficients of a linearization of this functional."""
        assert isinstance(linearization, CondensedLinearization)
        return linearization.full.x

    def value(self, y: Array) -> float:
        """Return ``min_c J(c, y)``."""
        return self.linearize(y).value

    def linearize(self, y: Array) -> CondensedLinearization:
        """Return value, derivative and products at `y`; the value needs the columns of ``c`` alone."""
        return CondensedLinearization(check_coefficients(self.space, y, "y"), self)

    def on(self, **changes: Any) -> Condensed:
        """Condense the functional on another space or quadrature."""
        return condense(self.functional.on(**changes), self.ridge)


@dataclass(frozen=True, eq=False)
class CondensedLinearization:
    """A condensed functional at a point.

    Attributes
    ----------
    x : array, shape (dim - k,)
        Inner coefficients.
    condensed : Condensed
        The functional.
    """

    x: Array
    condensed: Condensed

    @cached_property
    def _eliminated(self) -> tuple[Array, LeastSquaresSystem]:
        """``c(y)`` and the system in the outer coefficients there."""
        c = self.condensed
        zero = np.zeros(c.outer.size)
        columns = np.arange(c.outer.size)
        plain = _system(c.functional.linearize(c.merge(zero, self.x)), c.outer.ravel())
        correction, after = plain.ridge(columns, c.ridge, zero).solve(columns.reshape(c.outer.shape))
        return correction.ravel(), after

    @property
    def penalty(self) -> float:
        """What the tiny penalty adds to the value."""
        return 0.5 * self.condensed.ridge * float(np.sum(self._eliminated[0] ** 2))

    def penalized(self, ridge: float) -> CondensedLinearization:
        """Return the linearization at the same point with another weight of the tiny penalty."""
        if ridge == self.condensed.ridge:
            return self
        return replace(self.condensed, ridge=ridge).linearize(self.x)

    def relaxed(self) -> CondensedLinearization:
        """Return the same with a fainter penalty where the penalty is a good part of the value, else itself.

        Solvers ask between their steps, so that in one solve the penalty only falls, and with it the value.
        """
        ridge = FAINTER * self.condensed.ridge
        if ridge < LEAST or not self.penalty > SHARE * self.value:
            return self
        return self.penalized(ridge).relaxed()

    @property
    def value(self) -> float:
        """``j(y)``."""
        return self._eliminated[1].value

    def residual(self) -> Array | None:
        """The residual at ``(c(y), y)``, and that of the tiny penalty."""
        residual = self.full.residual()
        assert residual is not None
        rows: Array = stacked([residual, np.sqrt(self.condensed.ridge) * self._eliminated[0]])
        return rows

    @cached_property
    def full(self) -> Linearization:
        """The linearization of the given functional at ``(c(y), y)``."""
        return self.condensed.functional.linearize(self.condensed.merge(self._eliminated[0], self.x))

    @cached_property
    def _full_system(self) -> LeastSquaresSystem:
        c = self.condensed
        return _system(self.full).ridge(c.outer.ravel(), c.ridge, self._eliminated[0])

    @cached_property
    def _reduced(self) -> LeastSquaresSystem:
        return self._full_system.condensed(self.condensed.outer)

    @cached_property
    def derivative(self) -> Array:
        """``j'(y)``, dual."""
        return self._reduced.derivative

    def curvature(self, v: Array) -> Array:
        """Gauss-Newton part, Kaufman's form."""
        return self._reduced.curvature(v)

    @cached_property
    def _gram(self) -> Array:
        return self._reduced.curvature(np.eye(len(self.x)))

    def gram(self, single: bool = False) -> Array:
        """The Gauss-Newton part as a matrix, in any case in double precision."""
        return self._gram

    def hessian(self, v: Array) -> Array:
        """Exact Hessian ``(H_yy - H_yc H_cc^-1 H_cy) v``, with ``H_cc = A^T A``."""
        if v.ndim == 2:
            return np.column_stack([self.hessian(column) for column in v.T])
        c = self.condensed
        outer = c.outer.ravel()
        first = self.full.hessian(c.merge(np.zeros(outer.size), v))
        inner = self._full_system.normal_solve(outer, first[outer])
        second = self.full.hessian(c.merge(inner, np.zeros(len(v))))
        return (first - second)[c.inner]

    def mixed(self, other: Linearization) -> Array | None:
        """``A^T r(y)`` with the reduced system."""
        residual = other.residual()
        return None if residual is None else self._reduced.pull(residual)

    def system(self, columns: Index | None = None) -> LeastSquaresSystem:
        """The reduced system in the inner coefficients."""
        return self._reduced if columns is None else self._reduced[columns]


def condense(functional: Functional, ridge: float = RIDGE) -> Condensed:
    """Eliminate the coefficients that the residuals are affine in.

    Parameters
    ----------
    functional : Functional
        With ``functional.condensable``.
    ridge : float
        Weight of ``ridge/2 |c|^2``, added to the functional that is condensed; not negative.

    Returns
    -------
    Condensed
        A functional in the inner coefficients alone, with ``expand(y) -> x``.

    Raises
    ------
    ValueError
        If nothing can be eliminated, or `ridge` is negative or not finite.

    References
    ----------
    Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413-432; Kaufman, BIT 15 (1975) 49-57.
    """
    if not 0.0 <= real_number("ridge", ridge, "a finite number that is not negative") < np.inf:
        raise ValueError(f"ridge: got {ridge!r}, expected a finite number that is not negative")
    outer = functional.condensable
    if outer is None:
        raise ValueError(
            "functional: got one without condensable coefficients, expected residual laws affine in the jet"
        )
    keep = np.ones(functional.space.dim, dtype=bool)
    keep[outer.ravel()] = False
    return Condensed(functional, outer, np.flatnonzero(keep), ridge)
