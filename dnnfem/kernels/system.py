"""Contracts of least-squares systems: steps of all radii, gains of candidates, elimination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

from dnnfem.records import Array, Index


class Norm(Protocol):
    """What dense solves need of a norm ``|v|^2 = v^T M v`` with ``M = L L^T``."""

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        ...

    def whiten(self, rows: Array) -> Array:
        """Return ``rows @ inv(L).T`` for rows (k, dim): dual vectors in coordinates where the norm is Euclidean."""
        ...

    def unwhiten(self, y: Array) -> Array:
        """Return ``inv(L).T @ y`` for y (dim,) or (dim, k): the primal vector with Euclidean coordinates `y`."""
        ...

    def root(self) -> Array:
        """Return ``L.T``, shape (dim, dim)."""
        ...


@dataclass(frozen=True, eq=False)
class ModelStep:
    """Minimizer of a quadratic model within a trust radius.

    Attributes
    ----------
    step : array, shape (dim,)
        Primal.
    decrease : float
        Predicted decrease of the functional.
    length : float
        Norm of the step.
    multiplier : float
        ``lambda`` in ``(A^T A + lambda M) step = -A^T r``; zero in the interior.
    interior : bool
        Whether the radius does not bind.
    """

    step: Array
    decrease: float
    length: float
    multiplier: float
    interior: bool


@dataclass(frozen=True)
class Enrichment:
    """What columns gain together, beyond what the other columns of a system gain.

    Attributes
    ----------
    present : float
        Decrease of the value by re-solving for the other columns alone.
    gain : float
        Further decrease by the columns in question.
    remaining : float
        The value that is left.
    freedom : tuple of float
        Degrees of freedom that the other columns take, and what the columns in question add: traces of the hat matrix
        over the rows that are data.  Without penalties these are ranks.
    """

    present: float
    gain: float
    remaining: float
    freedom: tuple[float, float]


class StepFamily(Protocol):
    """Trust-region steps of one factorization."""

    def __call__(self, radius: float) -> ModelStep:
        """Return the minimizer of the model within `radius`."""
        ...

    @property
    def full(self) -> ModelStep:
        """The unrestricted minimizer of least norm."""
        ...

    def solve(self, multiplier: float, dual: Array) -> Array:
        """Return ``-(A^T A + multiplier M)^-1 dual``, primal."""
        ...


class CandidateColumns(Protocol):
    """Some columns of a system, after all others have been eliminated: what they would gain."""

    def score(self) -> Array:
        """Return the decrease that each column, or group of columns, gains on its own, shape (candidates,)."""
        ...

    def select(self, count: int) -> tuple[Index, Array]:
        """Choose up to `count` one after another with re-projection; return their numbers, best first, and gains."""
        ...

    def joint(self) -> Enrichment:
        """Return what all of them gain together."""
        ...


class LeastSquaresSystem(Protocol):
    """``min_d |r + A d|^2 / 2``: dense least squares that stays where it was assembled.

    Systems behave like the functionals they come from: ``first + second`` appends rows, ``factor * system`` scales the
    value, ``system @ transfer`` substitutes ``d = transfer @ e`` and ``system[columns]`` keeps some coefficients.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, coefficients); where there are many samples, rows may be those of a triangle."""
        ...

    @property
    def samples(self) -> int:
        """Number of residuals that are data; the others are penalties."""
        ...

    @property
    def value(self) -> float:
        """``|r|^2 / 2``."""
        ...

    @property
    def residual(self) -> Array:
        """``r``, an opaque handle."""
        ...

    @property
    def derivative(self) -> Array:
        """``A^T r``, dual, shape (coefficients,)."""
        ...

    @property
    def lengths(self) -> Array:
        """Euclidean lengths of the columns, shape (coefficients,)."""
        ...

    def __add__(self, other: Self) -> Self: ...

    def __rmul__(self, factor: float) -> Self: ...

    def __matmul__(self, transfer: Any) -> Self: ...

    def __getitem__(self, columns: Index) -> Self: ...

    def curvature(self, v: Array) -> Array:
        """Return ``A^T A v`` for v (n,) or (n, k)."""
        ...

    def pull(self, residual: Array) -> Array:
        """Return ``A^T residual`` for a residual vector of the functional, as `Linearization.residual` gives it."""
        ...

    def ridge(self, columns: Index, weight: float, values: Array) -> Self:
        """Append the penalty ``weight/2 |c + d_c|^2`` on the coefficients `columns` with present values ``c``."""
        ...

    def solve(self, columns: Index) -> tuple[Array, Self]:
        """Return the correction to the coefficients in `columns` alone, shape of `columns`, and the system after it."""
        ...

    def condensed(self, columns: Index) -> Self:
        """Eliminate `columns`: the system in the remaining coefficients, in their order."""
        ...

    def normal_solve(self, columns: Index, dual: Array) -> Array:
        """Solve ``A_c^T A_c z = dual`` for the columns `columns`, shape (columns,)."""
        ...

    def steps(self, norm: Norm) -> StepFamily:
        """Factorize once; the result gives the step of every trust radius."""
        ...

    def schur_roots(self, groups: list[Index], damping: float) -> list[Array]:
        """Return ``S_g`` with ``S_g^T S_g`` the Schur complement of ``A^T A`` in the columns ``groups[g]``.

        It is the curvature in these columns when all others are re-solved.  The penalty ``damping`` times the squared
        length of a column on its coefficient makes it definite.
        """
        ...

    def candidates(self, columns: Index) -> CandidateColumns:
        """Eliminate all other columns; `columns` has shape (c,) or, for groups of columns, (c, k)."""
        ...

    def leverage(self) -> Array:
        """Return the diagonal of the hat matrix, shape (rows,).

        Raises
        ------
        ValueError
            If the rows are no longer those of the data.
        """
        ...
