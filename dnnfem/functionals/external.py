"""Doors to other software: a user's own functional comes in, SciPy's optimizers get ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.functionals.protocols import Functional
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.protocol import Linearization
from dnnfem.records import Array, Index
from dnnfem.spaces import Coordinates
from dnnfem.spaces.layout import check_coefficients


@dataclass(frozen=True, eq=False)
class External:
    """A functional given by callables; see `from_callables`."""

    space: Coordinates
    functions: dict[str, Callable[..., Any] | None]
    condensable: None = None

    def value(self, x: Array) -> float:
        """Return ``J(x)``."""
        return self.linearize(x).value

    def linearize(self, x: Array) -> ExternalLinearization:
        """Return value, derivative and products at `x`."""
        return ExternalLinearization(check_coefficients(self.space, x), self.functions)

    def on(self, *, space: Any = None, quadrature: Any = None, transfer: Any = None) -> External:
        """Refuse: callables cannot be discretized anew."""
        raise ValueError("on: got a functional made from callables, expected one that a problem discretized")


@dataclass(frozen=True, eq=False)
class ExternalLinearization:
    """A functional made from callables, at a point."""

    x: Array
    functions: dict[str, Callable[..., Any] | None]

    def _call(self, name: str, shape: tuple[int, ...], *args: Any) -> Array:
        function = self.functions[name]
        if function is None:
            raise ValueError(f"{name}: got None, expected a callable, as the chosen method needs it")
        result = np.asarray(function(self.x, *args), dtype=np.float64)
        if result.shape != shape:
            raise ValueError(f"{name}: returned shape {result.shape}, expected {shape}")
        return result

    @cached_property
    def _residual(self) -> Array | None:
        function = self.functions["residual"]
        return None if function is None else np.asarray(function(self.x), dtype=np.float64).ravel()

    def residual(self) -> Array | None:
        """The residual vector, if the functional is a sum of squares."""
        return self._residual

    @cached_property
    def jacobian(self) -> Array:
        """Its Jacobian."""
        assert self._residual is not None
        return self._call("jacobian", (self._residual.size, self.x.size))

    @cached_property
    def value(self) -> float:
        """``J(x)``."""
        if self._residual is not None:
            return 0.5 * float(self._residual @ self._residual)
        return float(self._call("value", ()))

    @cached_property
    def derivative(self) -> Array:
        """``J'(x)``."""
        if self._residual is not None:
            return self.jacobian.T @ self._residual
        return self._call("derivative", self.x.shape)

    def hessian(self, v: Array) -> Array:
        """``J''(x) v``."""
        if v.ndim == 1:
            return self._call("hessian", v.shape, v)
        return np.column_stack([self._call("hessian", (len(v),), column) for column in v.T])

    def curvature(self, v: Array) -> Array:
        """``A^T A v`` of a sum of squares, else the Hessian, which must then be positive semidefinite."""
        return self.jacobian.T @ (self.jacobian @ v) if self._residual is not None else self.hessian(v)

    @cached_property
    def _gram(self) -> Array:
        return self.curvature(np.eye(len(self.x)))

    def gram(self, single: bool = False) -> Array:
        """The curvature as a matrix, in any case in double precision."""
        return self._gram

    def mixed(self, other: Linearization) -> Array | None:
        """``A^T r(y)``."""
        residual = other.residual()
        return None if residual is None else self.jacobian.T @ residual

    def system(self, columns: Index | None = None) -> DenseLeastSquares | None:
        """The linearized sum of squares."""
        if self._residual is None:
            return None
        return DenseLeastSquares(self.jacobian if columns is None else self.jacobian[:, columns], self._residual)


def from_callables(
    dim: int,
    value: Callable[[Array], float] | None = None,
    derivative: Callable[[Array], Array] | None = None,
    hessian: Callable[[Array, Array], Array] | None = None,
    residual: Callable[[Array], Array] | None = None,
    jacobian: Callable[[Array], Array] | None = None,
) -> Functional:
    """Return a functional on R^dim from a user's own functions.

    Parameters
    ----------
    dim : int
        Number of coefficients.
    value, derivative : callable
        ``value(x) -> float`` and ``derivative(x) -> (dim,)``; not needed for a sum of squares.
    hessian : callable, optional
        ``hessian(x, v) -> (dim,)``, the product ``J''(x) v``.
    residual, jacobian : callable, optional
        ``residual(x) -> (m,)`` and ``jacobian(x) -> (m, dim)``: then ``J = |r|^2 / 2`` and Gauss-Newton methods apply.

    Returns
    -------
    Functional
        That every solver takes.

    Raises
    ------
    ValueError
        If `dim` is no positive integer, or neither ``value`` and ``derivative`` nor ``residual`` and ``jacobian`` are
        given; at use, if a function returns a wrong shape.

    Examples
    --------
    >>> def rosenbrock(x):
    ...     return np.array([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])
    >>> def jacobian(x):
    ...     return np.array([[-20.0 * x[0], 10.0], [-1.0, 0.0]])
    >>> J = fem.from_callables(2, residual=rosenbrock, jacobian=jacobian)
    >>> fem.gauss_newton(J, np.array([-1.2, 1.0]), 1e-8).x.round(6)
    array([1., 1.])
    """
    if (value is None or derivative is None) and (residual is None or jacobian is None):
        raise ValueError("from_callables: expected value and derivative, or residual and jacobian")
    if (residual is None) != (jacobian is None):
        raise ValueError("from_callables: got only one of residual and jacobian, expected both")
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"dim: got {dim!r}, expected a positive integer")
    functions = {
        "value": value,
        "derivative": derivative,
        "hessian": hessian,
        "residual": residual,
        "jacobian": jacobian,
    }
    return External(Coordinates(int(dim)), functions)


def as_scipy(functional: Functional) -> dict[str, Callable[..., Any]]:
    """Return ``fun``, ``jac`` and ``hessp`` for `scipy.optimize.minimize`.

    One linearization serves all three at the same point.

    Parameters
    ----------
    functional : Functional

    Returns
    -------
    dict
        ``fun(x) -> float``, ``jac(x) -> (dim,)`` and ``hessp(x, v) -> (dim,)``.

    Examples
    --------
    >>> from scipy.optimize import minimize
    >>> t = np.linspace(-1.0, 1.0, 100)
    >>> J = fem.Regression(t, np.exp(t)).on(fem.FeedforwardSpace(inputs=1, hidden=(4,), outputs=1))
    >>> result = minimize(x0=J.space.initial(seed=0), method="trust-krylov", tol=1e-3, **fem.as_scipy(J))
    >>> result.success, result.fun < 1e-3
    (True, True)
    """
    last: list[Linearization] = []

    def at(x: Array) -> Linearization:
        # SciPy asks for fun, jac and hessp at the same point: one linearization serves all three.
        if not last or not np.array_equal(last[0].x, x):
            last[:] = [functional.linearize(np.array(x, dtype=np.float64))]
        return last[0]

    return {
        "fun": lambda x: at(x).value,
        "jac": lambda x: at(x).derivative,
        "hessp": lambda x, v: at(x).hessian(np.asarray(v, dtype=np.float64)),
    }
