"""Fluxes ``y`` that bound the error of a solution of ``-div(A grad u) = f`` from above."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from dnnfem.problems.exact import ExactAnsatz
from dnnfem.problems.fields import Corners, Jet, Points, Tensor
from dnnfem.problems.pointwise import PointwiseLaw
from dnnfem.problems.recording import recorded
from dnnfem.problems.solution import Solution
from dnnfem.quadrature import BoxMesh, Quadrature
from dnnfem.records import Array, Estimate
from dnnfem.spaces.layout import NetworkSpace

FLUX, EQUILIBRIUM = "flux", "equilibrium"
"""Names of the two terms."""

LEAST, MOST = 1e-6, 1e6
"""Bounds of the weight: where one of the two terms vanishes the best one is zero or infinite."""

PROBES = 32
"""Random points where the solution is looked at, to identify it."""


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
        `b`; every positive one is right, and the best one is ``C |div y + f| / |y - A grad v|_(A^-1)``, see `balanced`.
    quadrature : Quadrature, optional
        Of the whole domain, weights summing to one; that of the problem of `v` is a good choice.  Default as for
        `dnnfem.Collocation`.
    seed : int
        Of Sobol' points.
    backend, memory, device, precision : optional
        As for `dnnfem.Regression`.

    Attributes
    ----------
    material : Conductivity
        `A` with its lower bound.
    constant : float
        ``C = C_F / sqrt(lowest)`` with ``C_F = 1 / (pi sqrt(sum_i 1 / a_i^2))`` for a box with sides ``a_i``.

    Raises
    ------
    ValueError
        If `v` does not satisfy Dirichlet conditions exactly on all sides, has several outputs or depends on time; if
        `f` or `A` have wrong shapes or are not finite at a point, or `A` has eigenvalues below `lowest`.

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
    backend: str = "compiled"
    memory: int | None = None
    device: str | None = None
    precision: str = "double"
    material: Conductivity = field(init=False)
    constant: float = field(init=False)
    laws: dict[str, PointwiseLaw] = field(init=False)

    def __post_init__(self) -> None:
        kernels.check(self.backend, self.device, self.precision)
        low, high = self._corners
        dim, sides = len(low), np.subtract(high, low)
        if not isinstance(self.balance, int | float | np.floating) or not 0.0 < self.balance < math.inf:
            raise ValueError(f"balance: got {self.balance!r}, expected a positive number")
        object.__setattr__(self, "material", conductivity(self.conductivity, dim, self.lowest))
        if self.quadrature is None:
            object.__setattr__(self, "quadrature", covering(low, high, {}, self.seed))
        self._fits(self.quadrature)
        object.__setattr__(self, "constant", friedrichs(sides) / math.sqrt(self.material.lowest))
        gradient = _Gradient(self.approximation.to_torch())

        def misfit(p: Points, u: Jet) -> Tensor:
            return self.material.misfit(p, u.value.reshape(dim, -1), gradient(p.coordinates))

        def equilibrium(p: Points, u: Jet) -> Tensor:
            divergence: Tensor = sum(u[i].d(i) for i in range(dim))  # type: ignore[assignment]
            return divergence + values("source", self.source, p.coordinates, dim, 1)[0]

        # Weights sum to one: the norms are those over the domain by its volume.
        size = 1.0 / math.sqrt(float(np.prod(sides)))
        scales = {FLUX: np.full(dim, size), EQUILIBRIUM: np.full(1, size / self.constant)}
        laws = {}
        for name, function in ((FLUX, misfit), (EQUILIBRIUM, equilibrium)):
            law = recorded(function, name, self.quadrature, dim, dim)
            laws[name] = replace(law, scale=scales[name], affine=True)
        object.__setattr__(self, "laws", laws)

    @property
    def _corners(self) -> Corners:
        """Corners of the domain of `v`.

        Raises
        ------
        ValueError
            If `v` does not have the values of the solution on the whole boundary, by its ansatz.
        """
        if not isinstance(self.approximation, Solution):
            raise ValueError(f"approximation: got {type(self.approximation).__name__}, expected a Solution")
        ansatz, outputs = self.approximation.ansatz, self.approximation.space.outputs
        if not isinstance(ansatz, ExactAnsatz):
            raise ValueError(
                "approximation: got a solution without exact conditions, expected Dirichlet conditions that hold "
                "exactly on all sides: Collocation(..., dirichlet=g, exact=True)"
            )
        conditions = ansatz.conditions
        if conditions.space != len(conditions.low):
            raise ValueError("approximation: got a solution that depends on time, expected a stationary one")
        if outputs != 1:
            raise ValueError(f"approximation: got a solution with {outputs} outputs, expected one")
        missing = [
            s for axis in range(conditions.space) for end in (0, 1) if (s := (axis, end)) not in conditions.sides
        ]
        if missing:
            raise ValueError(
                f"approximation: got a solution without exact Dirichlet conditions on the sides {missing}, expected "
                "these on all sides, (axis, end)"
            )
        return conditions.low, conditions.high

    def _fits(self, quadrature: Quadrature) -> None:
        """Raise a `ValueError` if a quadrature is not one of the domain."""
        low, high = self._corners
        if quadrature.inputs != len(low):
            raise ValueError(f"quadrature: got points with {quadrature.inputs} coordinates, expected {len(low)}")
        if quadrature.regions:
            raise ValueError(f"quadrature: got the regions {list(quadrature.regions)}, expected none")
        if not math.isclose(quadrature.total, 1.0, rel_tol=1e-9):
            raise ValueError(f"quadrature: got weights with the sum {quadrature.total}, expected one")
        mesh = quadrature.mesh
        if isinstance(mesh, BoxMesh):
            corners = [*mesh.lower.min(axis=0), *mesh.upper.max(axis=0)]
            filled = float(np.prod((mesh.upper - mesh.lower) / np.subtract(high, low), axis=1).sum())
            if not np.allclose(corners, [*low, *high], rtol=1e-12) or not math.isclose(filled, 1.0, rel_tol=1e-9):
                raise ValueError(
                    f"quadrature: got cells that fill {filled:.3g} of the domain, from {corners[: len(low)]} to "
                    f"{corners[len(low) :]}, expected all of it, from {list(low)} to {list(high)}"
                )

    @property
    def ansatz(self) -> AffineAnsatz:
        """From the box to [-1, 1]^d; outputs are in the user's units."""
        low, high = (0.5 * np.array(corner) for corner in self._corners)
        return AffineAnsatz(low + high, high - low, np.zeros(len(low)), np.ones(len(low)))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What an archive compares when a run is resumed."""
        low, high = self._corners
        probes = np.random.default_rng(0).uniform(low, high, (PROBES, len(low)))
        slopes = self.approximation.gradient(probes).ravel()
        return {
            "kind": "flux",
            "data": self.quadrature.hash,
            "low": np.array(low),
            "high": np.array(high),
            "balance": np.array(float(f"{self.balance:.5e}")),
            "lowest": np.array(self.material.lowest),
            "gradient": np.round(slopes / (np.abs(slopes).max() or 1.0), 6),
        }

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Functional:
        """Discretize: return the functional on `space`, a sum of its two terms.

        Raises
        ------
        ValueError
            If the space does not have the numbers of inputs and outputs, or derivatives, or the quadrature is not one
            of the domain.
        """
        quadrature = self.quadrature if quadrature is None else quadrature
        self._fits(quadrature)
        dim = quadrature.inputs
        if space.outputs != dim:
            raise ValueError(f"space: got {space.outputs} outputs ({space}), expected {dim}, the components of a flux")
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


def friedrichs(sides: Any) -> float:
    """Return the constant of ``|w| <= C_F |grad w|`` for functions that vanish on the boundary of a box.

    Parameters
    ----------
    sides : array, shape (d,)
        Its lengths.  The constant is the root of the inverse of the least eigenvalue ``pi^2 sum_i 1 / a_i^2``.
    """
    return 1.0 / (math.pi * math.sqrt(float(np.sum(1.0 / np.asarray(sides, dtype=np.float64) ** 2))))


@dataclass(frozen=True, eq=False)
class _Gradient:
    """The gradient of a function of torch, points (m, d) to (d, m); it is a constant for whoever differentiates."""

    function: Any

    def __call__(self, points: Tensor) -> Tensor:
        with torch.enable_grad():
            where = points.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.function(where).sum(), where)
        return slope.T
