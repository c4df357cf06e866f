"""Tikhonov penalties: quadratic in the distance from a reference point, in a norm of the space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dnnfem.functionals.protocols import Norm
from dnnfem.given import real_number
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.records import Array, Index
from dnnfem.spaces import Space, Transfer
from dnnfem.spaces.layout import check_coefficients


@dataclass(frozen=True, eq=False)
class Tikhonov:
    """``alpha/2 |x - x_ref|^2`` in a norm of the space.

    Parameters
    ----------
    space : Space
        Where the coefficients live.
    rule : callable
        ``rule(space)`` is the norm, e.g. the class `dnnfem.norms.Euclidean`: a rule, because a refined space needs a
        norm of its own.
    alpha : float
        Weight, not negative.
    x_ref : array, shape (dim,), optional
        Reference point, default 0.  `on(space=..., transfer=P)` carries it to ``P(x_ref)``; without this a prolonged
        iterate would change its value.

    Raises
    ------
    ValueError
        If `rule` is a norm and not a rule, or `alpha` or `x_ref` is not as described.

    Examples
    --------
    >>> space = fem.FeedforwardSpace(inputs=1, hidden=(3,), outputs=1)
    >>> R = fem.Tikhonov(space, fem.Euclidean, 0.1)
    >>> R.value(np.ones(space.dim))  # 0.1 / 2 for each of ten coefficients
    0.5
    """

    space: Space
    rule: Callable[[Any], Norm]
    alpha: float
    x_ref: Array | None = None
    norm: Norm = field(init=False)

    def __post_init__(self) -> None:
        if not 0.0 <= real_number("alpha", self.alpha, "a finite number that is not negative") < np.inf:
            raise ValueError(f"alpha: got {self.alpha!r}, expected a finite number that is not negative")
        if self.x_ref is not None:
            check_coefficients(self.space, self.x_ref, "x_ref", finite=True)
        if not callable(self.rule):
            name = type(self.rule).__name__
            raise ValueError(f"rule: got an object {name}(...), expected the class {name} or a rule space -> norm")
        object.__setattr__(self, "norm", self.rule(self.space))

    @property
    def condensable(self) -> Index | None:
        """Quadratic in everything, so whatever the space offers."""
        return self.space.condensable

    def value(self, x: Array) -> float:
        """Return ``alpha/2 |x - x_ref|^2``."""
        return self.linearize(x).value

    def linearize(self, x: Array) -> TikhonovLinearization:
        """Return value, derivative and products at `x`."""
        x = check_coefficients(self.space, x)
        return TikhonovLinearization(x, self.norm, self.alpha, x if self.x_ref is None else x - self.x_ref)

    def on(self, *, space: Any = None, quadrature: Any = None, transfer: Transfer | None = None) -> Tikhonov:
        """Return the penalty on another space, with the reference point carried along.

        Raises
        ------
        ValueError
            If there is a reference point, and no transfer to carry it.
        """
        if space is None:
            return self
        if transfer is not None:
            x_ref = np.zeros(self.space.dim) if self.x_ref is None else self.x_ref
            return replace(self, space=space, x_ref=transfer(x_ref))
        if self.x_ref is not None:
            raise ValueError("transfer: got None, expected the prolongation into the new space to carry x_ref along")
        return replace(self, space=space)


@dataclass(frozen=True, eq=False)
class TikhonovLinearization:
    """A quadratic penalty at a point."""

    x: Array
    norm: Norm
    alpha: float
    difference: Array

    @property
    def value(self) -> float:
        """``alpha/2 |d|^2``."""
        return 0.5 * self.alpha * self.norm.inner(self.difference, self.difference)

    @property
    def derivative(self) -> Array:
        """``alpha M d``."""
        return self.alpha * self.norm.apply(self.difference)

    def hessian(self, v: Array) -> Array:
        """``alpha M v``."""
        return self.alpha * (self.norm.apply(v) if v.ndim == 1 else self.norm.dense() @ v)

    curvature = hessian

    def gram(self, single: bool = False) -> Array:
        """``alpha M``."""
        return self.alpha * self.norm.dense()

    def residual(self) -> Array:
        """``sqrt(alpha) L^T d``."""
        return np.asarray(np.sqrt(self.alpha) * self.norm.root() @ self.difference)

    def mixed(self, other: TikhonovLinearization) -> Array:
        """``alpha M d(y)``."""
        return other.derivative

    def system(self, columns: Index | None = None) -> DenseLeastSquares:
        """Rows ``sqrt(alpha) L^T``; for some columns those of the norm restricted to them, and a row for the rest."""
        root = np.sqrt(self.alpha)
        if columns is None:
            matrix, residual = root * self.norm.root(), self.residual()
        else:
            norm = self.norm.restricted(columns)
            load = self.norm.apply(self.difference)[columns]
            residual = root * norm.whiten(load[None])[0]
            rest = np.sqrt(max(2.0 * self.value - float(residual @ residual), 0.0))
            matrix = np.vstack([root * norm.root(), np.zeros(len(columns))])
            residual = np.append(residual, rest)
        return DenseLeastSquares(matrix, residual, penalties=np.arange(len(residual)))
