"""Contracts between functionals, laws and backends.

A backend *places* a program, a quadrature, an ansatz and a law once and then answers questions about coefficients.
Only vectors of coefficient size and scalars cross this border; what is as large as the sample stays inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dnnfem.kernels.components import Component
from dnnfem.kernels.program import Program
from dnnfem.kernels.system import LeastSquaresSystem
from dnnfem.records import Array, Index

if TYPE_CHECKING:
    from dnnfem.kernels.influence import LeftOut

MEMORY = 300_000_000
"""Bytes that a linearization may keep of what it computed, if nothing else is said."""


class PlacedPoints(Protocol):
    """The part of a quadrature that kernels read: float32 or float64, converted some rows at a time."""

    @property
    def points(self) -> Array:
        """Points, shape (m, d)."""
        ...

    @property
    def weights(self) -> Array:
        """Weights, shape (m,)."""
        ...

    @property
    def cells(self) -> Index | None:
        """Cell of each point, shape (m,); None if every point is a cell of its own."""
        ...

    @property
    def data(self) -> Array:
        """Data of the law at each point, shape (m, k)."""
        ...


class JetMap(Protocol):
    """How reference jets become jets of the user's function at some points: an affine map, point by point.

    Arrays belong to the library of these points and have them last, shape (components, outputs, m).
    """

    def jet(self, jet: Array) -> Array:
        """Return the user's jet from the reference jet."""
        ...

    def tangent(self, jet: Array) -> Array:
        """Apply the linear part of `jet`."""
        ...

    def cotangent(self, dual: Array) -> Array:
        """Apply the transpose of `tangent`."""
        ...


class Ansatz(Protocol):
    """How the network's reference function becomes the user's function; affine in the jet at every point."""

    def reference(self, points: Array) -> Array:
        """Map points (m, d) to reference coordinates."""
        ...

    def reads(self, components: Sequence[Component]) -> tuple[Component, ...]:
        """Return the components of the reference jet that those of the user's jet are made of."""
        ...

    def at(self, points: Array, components: Sequence[Component]) -> JetMap:
        """Return the map from what it `reads` to some components at points (m, d); a backend asks once for it."""
        ...


class LawLinearization(Protocol):
    """A law at given jets; arrays have the samples last."""

    @property
    def density(self) -> Array:
        """``L`` per point, shape (m,)."""
        ...

    @property
    def derivative(self) -> Array:
        """``dL/djet``, shape (components, outputs, m)."""
        ...

    @property
    def residual(self) -> Array | None:
        """``r``, shape (residuals, m); of a loss law ``r`` with ``slopes^T r = L'``, or None."""
        ...

    @property
    def slopes(self) -> Array | None:
        """``dr/djet``, shape (residuals, components, outputs, m or 1); of a loss law a root of ``L''``, or None."""
        ...

    def hessian(self, jet: Array) -> Array:
        """Apply ``L''`` to a jet direction, shape (components, outputs, m)."""
        ...

    def curvature(self, jet: Array) -> Array:
        """Apply the positive semidefinite part: ``r'^T r'`` of a residual law, ``L''`` of a convex loss law."""
        ...


class Law(Protocol):
    """A pointwise law: a residual ``r(p, u)`` with ``L = |r|^2 / 2``, or a loss ``L(p, u)`` convex in the jet.

    A loss is the negative log-likelihood of what was observed at a point, or the density of an energy.
    """

    @property
    def kind(self) -> Literal["residual", "loss", "energy"]:
        """Which of these."""
        ...

    @property
    def affine(self) -> bool:
        """Whether the residual is affine in the jet, so that affine output layers can be eliminated."""
        ...

    @property
    def components(self) -> tuple[Component, ...]:
        """Jet components that the law reads."""
        ...

    def linearize(self, points: Array, data: Array, jet: Array) -> LawLinearization:
        """Evaluate at points (m, d), data (m, k) and jet (components, outputs, m).

        These belong to the array library of the backend, NumPy or torch, and so do the arrays that are returned.
        """
        ...


class Linearization(Protocol):
    """A functional at a point: value, derivative, and products with second derivatives.

    It is lazy: reading `value` costs no more than the value, so that a solver may linearize at every trial point and go
    on with the linearization of the one it accepts.
    """

    @property
    def x(self) -> Array:
        """The point, shape (dim,), primal."""
        ...

    @property
    def value(self) -> float:
        """``J(x)``."""
        ...

    @property
    def derivative(self) -> Array:
        """``J'(x)``, dual, shape (dim,)."""
        ...

    def hessian(self, v: Array) -> Array:
        """Return ``J''(x) v``, dual, for v of shape (dim,) or (dim, k)."""
        ...

    def curvature(self, v: Array) -> Array:
        """Return the positive semidefinite (Gauss-Newton) part of ``J''(x) v``."""
        ...

    def gram(self, single: bool = False) -> Array:
        """Return the curvature as a matrix, shape (dim, dim): for sums of squares ``A^T A``, summed over tiles.

        With `single` its products may be taken in single precision, which is up to twice as fast, but need not:
        relative to ``sqrt(C_ii C_jj)``, the entry ``C_ij`` then has an error of that size, about 1e-7.

        It must not be written to: an evaluator may remember that of the last point, as the next solve begins there.
        """
        ...

    def residual(self) -> Array | None:
        """Return the weighted residual vector, ``|residual|^2 / 2 = value``: an opaque handle; None for losses."""
        ...

    def mixed(self, other: Any) -> Array | None:
        """Return ``A^T r(y)``, dual, with the residual of a linearization `other` of the same functional at ``y``.

        At the same point it is the derivative.  None but for residual laws.
        """
        ...

    def system(self, columns: Index | None = None) -> LeastSquaresSystem | None:
        """Return the least-squares system in the coefficients `columns` (default all); None if there is none.

        Derivative and curvature are those of the functional, and the value too where there is a `residual`: not for a
        loss law, whose system is that of iteratively reweighted least squares.  Rows need not be those of `residual`:
        ones that vanish in all of the columns may be merged.
        """
        ...


class KernelLinearization(Linearization, Protocol):
    """What evaluators return."""

    @property
    def moments(self) -> tuple[Array, ...]:
        """``sum_q w (y, 1) (y, 1)^T`` of what each stage reads, shape (columns + 1, columns + 1)."""
        ...

    def curvature_along(self, directions: Mapping[int, tuple[Array, Array]]) -> Array | None:
        """Return ``<C d_i, d_j>`` for directions ``d = u (w, b)^T`` of the weights of single stages, shape (k, k).

        For each stage, in their order here, `directions` has the ``u`` as columns (rows, k_s) and the ``(w, b)``
        (columns + 1, k_s).  Stages have to be affine, with a bias and weights that no other stage uses.  The cost is
        that of the system, but for the products with its rows: cotangents and registers are projected instead.  None
        if the law gives no root of its curvature.
        """
        ...


class Evaluator(Protocol):
    """Program, quadrature, ansatz and law, placed on a device."""

    @property
    def program(self) -> Program:
        """The program."""
        ...

    def value(self, x: Array) -> float:
        """Return ``sum_q w_q L(p_q, jet_x(p_q))``."""
        ...

    def linearize(self, x: Array) -> KernelLinearization:
        """One forward sweep; what it computed is kept for all products."""
        ...

    def jet(self, x: Array, points: Array, components: Sequence[Component]) -> Array:
        """Return the user's jet at any points, shape (components, outputs, m)."""
        ...

    def cellwise(self, x: Array) -> Array:
        """Return the sums of ``w L`` per cell of the quadrature, shape (cells,)."""
        ...

    def samplewise(self, x: Array) -> Array:
        """Return ``w L`` at every point, shape (m,): what cross-validation compares."""
        ...

    def left_out(self, x: Array, root: Array, exact: bool) -> LeftOut:
        """Return every sample as the network without it sees it, from a root ``H^-1 = root root^T``."""
        ...


class Backend(Protocol):
    """A module that implements `Evaluator`."""

    def place(
        self, program: Program, quadrature: PlacedPoints, ansatz: Ansatz, law: Law, memory: int = MEMORY
    ) -> Evaluator:
        """Bind the four and bring them to the device; a linearization may keep `memory` bytes."""
        ...

    def resources(self) -> dict[str, str]:
        """Return what the backend computes with on this machine, in words."""
        ...
