"""The norm of the function space, pulled back to the coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from dnnfem.functionals.protocols import Functional, Norm
from dnnfem.kernels.protocol import Linearization
from dnnfem.norms.rules import MetricOn
from dnnfem.records import Array
from dnnfem.spaces import Space


@dataclass(frozen=True, eq=False)
class Pullback(Norm):
    """``|v|_x^2 = <C(x) v, v> + delta |v|_V^2`` with the curvature ``C`` of a functional at the point ``x``.

    For regression ``<C v, v>`` is the mean square of the change of the function, ``|D u_x v|^2`` in the L2 norm of the
    data: lengths no longer depend on how the function is parametrized.  This is the norm of natural gradients (Müller
    and Zeinhofer 2023).  It is a metric: ``Pullback(space, linearization)`` is the norm at the point of the
    linearization.

    Parameters
    ----------
    space : Space
        Where the coefficients live.
    linearization : Linearization
        Gives ``C``.
    delta : float, optional
        Weight of the regularization that makes the norm definite, relative to the mean diagonal of ``C``.
    base : Norm, optional
        ``V``; default Euclidean.

    Raises
    ------
    ValueError
        If `delta` is not positive.
    """

    space: Space
    linearization: Linearization
    delta: float = 1e-8
    base: Norm | None = None

    def __post_init__(self) -> None:
        if not self.delta > 0.0:
            raise ValueError(
                f"delta: got {self.delta!r}, expected a positive number, or the norm would not be definite"
            )

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim

    @cached_property
    def matrix(self) -> Array:
        """``C + delta V``, shape (dim, dim)."""
        curvature = self.linearization.gram()
        base = np.eye(self.dim) if self.base is None else self.base.dense()
        scale = float(np.trace(curvature) / np.trace(base)) or 1.0
        return curvature + self.delta * scale * base

    def _matrix(self) -> Array:
        return self.matrix

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        return self.matrix @ v

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        return np.asarray(scipy.linalg.cho_solve((self._cholesky, True), g))


def pulled_back(functional: Functional, delta: float = 1e-8, base: Norm | None = None) -> MetricOn:
    """Return the metric ``<C(x) v, v> + delta |v|_V^2`` with the curvature of any functional, not the minimized one's.

    It says which norm of functions is pulled back: a regression with the values zero at some points gives the mean
    square, ``fem.Energy`` of ``|grad u|^2 / 2`` the seminorm of H1, that of an equation its energy.

    Parameters
    ----------
    functional : Functional
        On the space of the coefficients.
    delta : float
        Weight of the norm that makes it definite, see `Pullback`.
    base : Norm, optional
        ``V``; default Euclidean.

    Returns
    -------
    callable
        ``(space, linearization) -> Norm``, for the argument `norm` of solvers.

    Raises
    ------
    ValueError
        If `delta` is not positive; at use, if the functional is on another space.

    References
    ----------
    Müller and Zeinhofer, Achieving high accuracy with PINNs via energy natural gradient descent, ICML, PMLR 202 (2023)
    25471-25485.
    """
    if not delta > 0.0:
        raise ValueError(f"delta: got {delta!r}, expected a positive number, or the norm would not be definite")

    def metric(space: Space, linearization: Linearization) -> Pullback:
        return Pullback(space, functional.linearize(linearization.x), delta, base)

    return MetricOn(functional.space.dim, metric)
