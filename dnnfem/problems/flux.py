"""Fluxes ``y`` that bound the error of a solution of ``-div(A grad u) = f`` from above."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dnnfem import kernels
from dnnfem.functionals import Functional, Integral, Scaled, Sum
from dnnfem.functionals.integral import budget
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.conditions import values
from dnnfem.problems.conductivity import Conductivity, conductivity
from dnnfem.problems.covering import covering
from dnnfem.problems.domains import Box
from dnnfem.problems.exact import ExactAnsatz
from dnnfem.problems.fields import Corners, Jet, Points, Tensor, tensor
from dnnfem.problems.lift import Conditions
from dnnfem.problems.pointwise import PointwiseLaw
from dnnfem.problems.recording import recorded
from dnnfem.problems.solution import Solution
from dnnfem.problems.unknowns import check_unknowns, of_functions
from dnnfem.quadrature import BoxMesh, FacetMesh, Mesh, Quadrature, SampledMesh, SimplexMesh, SobolPoints, UnionMesh
from dnnfem.records import Array, Estimate
from dnnfem.spaces.layout import NetworkSpace

FLUX, EQUILIBRIUM = "flux", "equilibrium"
"""Names of the two terms."""

LEAST, MOST = 1e-6, 1e6
"""Bounds of the weight: where one of the two terms vanishes the best one is zero or infinite."""


@dataclass(frozen=True, eq=False)
class Flux:
    """The flux of the functional majorant: ``J = ((1 + b) |y - A grad v|^2_(A^-1) + (1 + 1/b) C^2 |div y + f|^2) / 2``.

    For ``-div(A grad u) = f`` in a box, and a `v` with the values of `u` on the whole boundary, ``sqrt(2 J(y))`` is an
    upper bound of the energy norm ``|A^(1/2) grad(u - v)|`` whatever `y` is, see `dnnfem.majorant`.  The norms are
    those of L2 over the domain, not means: if `u` is a temperature in kelvin, `A` a conductivity in W/(m K) and the
    domain has d coordinates in metres, the unit of ``sqrt(2 J)`` is ``(W K m^(d - 2))^(1/2)``.
    The network has d outputs, the components of `y`; `J` is quadratic in its output layer.

    Parameters
    ----------
    approximation : Solution
        `v`, that of a `dnnfem.Collocation` on a box with ``dirichlet`` on all sides, which holds exactly.
    source : number or callable
        `f`, or ``f(p)`` in torch.
    conductivity : number, array or callable
        `A`: a number, a diagonal (d,), a symmetric positive definite matrix (d, d), or ``A(p)`` in torch with the
        values (m,), (d, m) or (d, d, m).
    lowest : float, optional
        A lower bound of the eigenvalues of `A` on the whole domain, for a function: the bound of the error is only as
        reliable as this one.  It is checked at points.
    balance : float
        `b`; every positive one is right.  Fluxes that minimize `J` over a rich space give bounds that are too large by
        the factor ``sqrt(1 + b)`` at most; the best one for a given flux is ``C |div y + f| / |y - A grad v|_(A^-1)``,
        see `balanced`.
    quadrature : Quadrature, optional
        Of the whole domain, on a single mesh, weights summing to one; that of the problem of `v` is a good choice, and
        so is that of the flux of another `v`: what is given at the points is computed anew.  Default as for
        `dnnfem.Collocation`.
    seed : int
        Of Sobol' points.
    backend, memory, device, precision : optional
        As for `dnnfem.Regression`.

    Attributes
    ----------
    material : Conductivity
        `A` with its lower bound.
    given : FluxData
        What the laws read, a function of points; it is evaluated once at those of every quadrature.
    constant : float
        ``C = C_F / sqrt(lowest)`` with ``C_F = 1 / (pi sqrt(sum_i 1 / a_i^2))`` for a box with sides ``a_i``.

    Raises
    ------
    ValueError
        If `v` does not satisfy Dirichlet conditions exactly on all sides, has several outputs or depends on time; if
        `f` or `A` have wrong shapes or are not finite at a point, or `A` has eigenvalues below `lowest`.

    Notes
    -----
    It belongs to one `v`, is cheap to solve anew, and cannot be put into an archive.

    References
    ----------
    Repin, A Posteriori Estimates for Partial Differential Equations (2008).
    """

    approximation: Solution
    source: Any
    conductivity: Any = 1.0
    lowest: float | None = None
    balance: float = 1.0
    quadrature: Quadrature = field(default=None)  # type: ignore[assignment]
    seed: int = 0
    backend: str | None = None
    memory: int | None = None
    device: str | None = None
    precision: str = "double"
    material: Conductivity = field(init=False)
    constant: float = field(init=False)
    given: FluxData = field(init=False)
    laws: dict[str, PointwiseLaw] = field(init=False)

    def __post_init__(self) -> None:
        kernels.check(self.backend, self.device, self.precision)
        low, high = self._corners
        dim, sides = len(low), np.subtract(high, low)
        if not isinstance(self.balance, int | float | np.floating) or not 0.0 < self.balance < math.inf:
            raise ValueError(f"balance: got {self.balance!r}, expected a positive number")
        object.__setattr__(self, "material", conductivity(self.conductivity, dim, self.lowest))
        object.__setattr__(self, "constant", friedrichs(sides) / math.sqrt(self.material.lowest))
        # A bound for `v` itself, not for what single precision makes of it.
        exact = replace(self.approximation, precision="double")
        object.__setattr__(self, "given", FluxData(exact, self.source, self.material))
        covered = self.quadrature or covering(Box(low, high), None, {}, self.seed)
        object.__setattr__(self, "quadrature", self._placed(covered))
        # Weights sum to one: the norms are those over the domain by its volume.
        size = 1.0 / math.sqrt(float(np.prod(sides)))
        laws = {
            FLUX: replace(recorded(_misfit, FLUX, self.quadrature, dim, dim), scale=np.full(dim, size)),
            EQUILIBRIUM: replace(
                recorded(_defect, EQUILIBRIUM, self.quadrature, dim, dim), scale=np.full(1, size / self.constant)
            ),
        }
        # Rounding of large sources might be taken for a curvature.
        object.__setattr__(self, "laws", {name: replace(law, affine=True) for name, law in laws.items()})

    @property
    def _corners(self) -> Corners:
        return corners_of(self.approximation)

    def _placed(self, quadrature: Quadrature) -> Quadrature:
        """Return a quadrature with what the laws read at its points, also after refinement.

        Raises
        ------
        ValueError
            If it is not one of the domain.
        """
        mesh = quadrature.mesh.mesh if isinstance(quadrature.mesh, SampledMesh) else quadrature.mesh
        _check_fills(quadrature, mesh, *self._corners)
        sampled = None if mesh is None else SampledMesh(mesh, self.given)
        return replace(quadrature, data=self.given(quadrature.points), mesh=sampled, regions={})

    @property
    def ansatz(self) -> AffineAnsatz:
        """From the box to [-1, 1]^d; outputs are in the user's units."""
        low, high = (0.5 * np.array(corner) for corner in self._corners)
        return AffineAnsatz(low + high, high - low, np.zeros(len(low)), np.ones(len(low)))

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Functional:
        """Discretize: return the functional on `space`, a sum of its two terms.

        Raises
        ------
        ValueError
            If the space does not have the numbers of inputs and outputs, or derivatives, or has unknowns, or the
            quadrature is not one of the domain.
        """
        quadrature = self.quadrature if quadrature is None else self._placed(quadrature)
        dim = quadrature.inputs
        if space.outputs != dim:
            raise ValueError(f"space: got {space.outputs} outputs ({space}), expected {dim}, the components of a flux")
        check_unknowns(space)
        if getattr(space, "periodic", ()):
            raise ValueError(f"space: got {space}, expected one that is not periodic")
        if getattr(space, "activation", None) == "relu":
            raise ValueError(f"space: got {space}, expected a smooth activation for the divergence")
        memory = budget(self.memory, quadrature, self.device)
        where = (self.backend, memory, self.device, self.precision)
        first, second = (Integral(space, quadrature, self.ansatz, law, *where) for law in self.laws.values())
        return Sum(Scaled(first, 1.0 + self.balance), Scaled(second, 1.0 + 1.0 / self.balance))

    def solution(self, space: NetworkSpace, x: Array) -> Solution:
        """Return the flux with coefficients `x`, in the user's coordinates and units.

        Raises
        ------
        ValueError
            If `x` is no finite vector of the space.
        """
        return Solution(space, x, self.ansatz, self.backend, self.device, self.precision)

    def balanced(self, estimate: Estimate) -> Flux:
        """Return the problem with the weight that is the best one for the flux of an estimate by `dnnfem.majorant`.

        Raises
        ------
        ValueError
            If the estimate has not the parts of a majorant.
        """
        if not {FLUX, EQUILIBRIUM} <= set(estimate.parts):
            raise ValueError(f"estimate: got the parts {list(estimate.parts)}, expected those of dnnfem.majorant")
        flux, rest = estimate.parts[FLUX], estimate.parts[EQUILIBRIUM]
        best = min(max(rest / flux, LEAST), MOST) if flux > 0.0 else MOST
        return replace(self, balance=best)


def corners_of(solution: Solution) -> Corners:
    """Return the corners of the box that a solution is on.

    Raises
    ------
    ValueError
        If it does not have the values of the solution on the whole boundary, by its ansatz.
    """
    if not isinstance(solution, Solution):
        raise ValueError(f"approximation: got {type(solution).__name__}, expected a Solution")
    ansatz, outputs = of_functions(solution.ansatz), solution.space.outputs
    if not isinstance(ansatz, ExactAnsatz):
        raise ValueError(
            "approximation: got a solution without exact conditions, expected Dirichlet conditions that hold "
            "exactly on all sides: Collocation(..., dirichlet=g, exact=True)"
        )
    conditions = ansatz.conditions
    if not isinstance(conditions, Conditions):
        raise ValueError("approximation: got a solution on a domain that is no box, expected one on a Box")
    if conditions.space != len(conditions.low):
        raise ValueError("approximation: got a solution that depends on time, expected a stationary one")
    if outputs != 1:
        raise ValueError(f"approximation: got a solution with {outputs} outputs, expected one")
    missing = [s for axis in range(conditions.space) for end in (0, 1) if (s := (axis, end)) not in conditions.sides]
    if missing:
        raise ValueError(
            f"approximation: got a solution without exact Dirichlet conditions on the sides {missing}, expected "
            "these on all sides, (axis, end)"
        )
    return conditions.low, conditions.high


def _check_fills(quadrature: Quadrature, mesh: Mesh | None, low: tuple[float, ...], high: tuple[float, ...]) -> None:
    """Raise a `ValueError` if a quadrature is not one of a box."""
    if quadrature.inputs != len(low):
        raise ValueError(f"quadrature: got points with {quadrature.inputs} coordinates, expected {len(low)}")
    if not math.isclose(quadrature.total, 1.0, rel_tol=1e-9):
        raise ValueError(f"quadrature: got weights with the sum {quadrature.total}, expected one")
    if isinstance(mesh, UnionMesh | FacetMesh):
        # Parts of a union have weights of any shares.
        raise ValueError(f"quadrature: got a {type(mesh).__name__}, expected one mesh of the whole domain")
    extent = _extent(mesh)
    if extent is None:
        return
    lower, upper, volume = extent
    filled = volume / float(np.prod(np.subtract(high, low)))
    if not np.allclose([*lower, *upper], [*low, *high], rtol=1e-12) or not math.isclose(filled, 1.0, rel_tol=1e-9):
        raise ValueError(
            f"quadrature: got cells that fill {filled:.3g} of the domain, from {lower.tolist()} to {upper.tolist()}, "
            f"expected all of it, from {list(low)} to {list(high)}"
        )


def _extent(mesh: Mesh | None) -> tuple[Array, Array, float] | None:
    """Return the corners of the box around a mesh, and its volume; None of a mesh of another kind."""
    if isinstance(mesh, BoxMesh):
        return mesh.lower.min(axis=0), mesh.upper.max(axis=0), float(np.sum(np.prod(mesh.upper - mesh.lower, axis=1)))
    if isinstance(mesh, SobolPoints):
        return mesh.low, mesh.high, float(np.prod(mesh.high - mesh.low))
    if isinstance(mesh, SimplexMesh):
        used = mesh.vertices[np.unique(mesh.cells)]
        return used.min(axis=0), used.max(axis=0), float(np.sum(mesh.volumes))
    return None


def friedrichs(sides: Any) -> float:
    """Return the constant of ``|w| <= C_F |grad w|`` for functions that vanish on the boundary of a box.

    Parameters
    ----------
    sides : array, shape (d,)
        Its lengths.  The constant is the root of the inverse of the least eigenvalue ``pi^2 sum_i 1 / a_i^2``.
    """
    return 1.0 / (math.pi * math.sqrt(float(np.sum(1.0 / np.asarray(sides, dtype=np.float64) ** 2))))


@dataclass(frozen=True, eq=False)
class FluxData:
    """What the laws read at points: ``A grad v`` (d columns), `f` (one), and the root of the inverse of `A`.

    The last one has 1, d or ``d^2`` columns, see `dnnfem.problems.conductivity.Conductivity.flux`.

    Parameters
    ----------
    approximation : Solution
    source : number or callable
    material : Conductivity
    """

    approximation: Solution
    source: Any
    material: Conductivity

    def __call__(self, points: Array) -> Array:
        """Return the data at points (m, d), shape (m, k)."""
        where = Points(tensor(points), points.shape[1])
        gradient = tensor(self.approximation.gradient(points)[:, 0])
        # Who writes `f` as a divergence differentiates in it.
        source = values("source", self.source, where.coordinates, where.space, 1).detach().T
        flux, root = self.material.flux(where, gradient)
        return np.asarray(torch.cat([flux, source, root.reshape(len(points), -1)], dim=1).detach().numpy())


def _misfit(p: Points, u: Jet) -> Tensor:
    """Return vectors (d, m) of the lengths ``|A^(-1/2) (y - A grad v)|``."""
    dim = p.space
    if p.data is None or p.data.shape[1] <= dim:
        raise ValueError("quadrature: got points without data, expected those of a Flux or ones refined from them")
    difference, root = u.value.reshape(dim, -1).T - p.data[:, :dim], p.data[:, dim + 1 :]
    if root.shape[1] == dim * dim:
        return torch.einsum("mij,mj->im", root.reshape(-1, dim, dim), difference)
    return (root * difference).T


def _defect(p: Points, u: Jet) -> Tensor:
    """Return ``div y + f``, shape (m,)."""
    assert p.data is not None
    divergence: Tensor = sum(u[i].d(i) for i in range(p.space))  # type: ignore[assignment]
    return divergence + p.data[:, p.space]
