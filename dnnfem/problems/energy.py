"""Ritz' method: a solution minimizes an energy, whose density is the law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem import kernels
from dnnfem.functionals import Functional, Scaled, Sum
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.assembly import check_quadrature, check_space, integral
from dnnfem.problems.conditions import Side, sided
from dnnfem.problems.covering import covering
from dnnfem.problems.density import DensityLaw, recorded_density
from dnnfem.problems.domains import Box
from dnnfem.problems.exact import ExactAnsatz
from dnnfem.problems.fields import Jet, Points
from dnnfem.problems.lift import Conditions
from dnnfem.problems.solution import Solution
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array
from dnnfem.spaces.layout import NetworkSpace

Density = Callable[[Points, Jet], Any]


@dataclass(frozen=True, eq=False)
class Energy:
    """An energy on a domain, ``J(u) = int_Omega L(p, u) dp + int_boundary l(p, u) ds``, to be minimized.

    ``J`` is in the user's units: integrals, not means.  For a quadratic energy ``sqrt(2 (J(v) - min J))`` is the energy
    norm of the error.

    Parameters
    ----------
    density : callable
        ``density(p, u)`` in torch at all points at once: a tensor (m,), convex in value and derivatives of `u`, e.g.
        ``0.5 * (u.grad ** 2).sum(0) - f * u`` for ``-Lap u = f``.  What `p` and `u` have is said at
        `dnnfem.Collocation`.
    domain : Box
        In space.
    dirichlet : number, sequence, callable or mapping, optional
        Values on the boundary, or on parts of it; they hold exactly, as they must where an energy is minimized.
    boundary : callable or mapping, optional
        Further densities on all of the boundary, or on parts of it: ``-h * u`` for ``du/dn = h``,
        ``0.5 * a * u ** 2 - h * u`` for ``du/dn + a u = h``.
    outputs : int
        Number of unknown functions.
    quadrature : Quadrature, optional
        Of the domain, with a region for each part of the boundary that has a density.
    seed : int
        Of Sobol' points.
    backend, memory, device, precision : optional
        As for `dnnfem.Regression`.

    Raises
    ------
    ValueError
        If a density returns something of a wrong shape, cannot be differentiated, is not convex in the jet, or not
        finite at a point; if conditions contradict each other, or concern parts of the boundary that there are not.

    References
    ----------
    Ritz, J. reine angew. Math. 135 (1909) 1-61; E and Yu, Commun. Math. Stat. 6 (2018) 1-12, for networks.
    """

    density: Density
    domain: Box
    dirichlet: Any = None
    boundary: Density | Mapping[Side, Density] | None = None
    outputs: int = 1
    quadrature: Quadrature = field(default=None)  # type: ignore[assignment]
    seed: int = 0
    backend: str = "compiled"
    memory: int | None = None
    device: str | None = None
    precision: str = "double"
    ansatz: ExactAnsatz | AffineAnsatz = field(init=False)
    laws: Mapping[str, DensityLaw] = field(init=False)
    measures: Mapping[str, float] = field(init=False)

    def __post_init__(self) -> None:
        kernels.check(self.backend, self.device, self.precision)
        _check(self)
        corners, axes = (self.domain.low, self.domain.high), range(self.domain.dim)
        sides = sided("dirichlet", self.dirichlet, axes)
        # Side by side, as the measure of each one counts.
        soft = {
            f"boundary on {side_name(side, corners)}": (side, given)
            for side, given in sided("boundary", self.boundary, axes).items()
        }
        quadrature = self.quadrature or covering(
            *corners, {name: [side] for name, (side, _) in soft.items()}, self.seed
        )
        check_quadrature(quadrature, self.domain.dim, list(soft))
        object.__setattr__(self, "quadrature", quadrature)
        extents = np.subtract(*corners[::-1])
        laws = {"law": recorded_density(self.density, "density", quadrature, self.domain.dim, self.outputs)}
        measures = {"law": float(np.prod(extents))}
        for name, region in quadrature.regions.items():
            side, given = soft[name]
            laws[name] = recorded_density(given, name, region, self.domain.dim, self.outputs, corners)
            measures[name] = float(np.prod(np.delete(extents, side[0])))
        object.__setattr__(self, "laws", laws)
        object.__setattr__(self, "measures", measures)
        low, high = 0.5 * np.array(corners[0]), 0.5 * np.array(corners[1])
        ansatz: ExactAnsatz | AffineAnsatz = AffineAnsatz(
            low + high, high - low, np.zeros(self.outputs), np.ones(self.outputs)
        )
        if sides:
            ansatz = ExactAnsatz(ansatz, Conditions(*corners, self.domain.dim, self.outputs, sides))
        object.__setattr__(self, "ansatz", ansatz)

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Functional:
        """Discretize: return the functional on `space`.

        Raises
        ------
        ValueError
            If the space does not have the numbers of inputs and outputs or the smoothness that the density asks for, or
            the quadrature not the regions.
        """
        quadrature = self.quadrature if quadrature is None else quadrature
        check_quadrature(quadrature, self.domain.dim, [name for name in self.laws if name != "law"])
        check_space(space, self.outputs, (), self.laws.values())
        where = (self.ansatz, self.backend, self.memory, self.device, self.precision)
        terms = [
            Scaled(integral(name, self.laws[name], space, quadrature, *where), self.measures[name])
            for name in ("law", *quadrature.regions)
        ]
        return terms[0] if len(terms) == 1 else Sum(*terms)

    def solution(self, space: NetworkSpace, x: Array) -> Solution:
        """Return the function with coefficients `x`, in the user's coordinates and units.

        Raises
        ------
        ValueError
            If `x` is no finite vector of the space.
        """
        return Solution(space, x, self.ansatz, self.backend, self.device, self.precision)


def _check(problem: Energy) -> None:
    """Raise a `ValueError` if the parameters make no sense."""
    if not callable(problem.density):
        raise ValueError(f"density: got {type(problem.density).__name__}, expected a function density(p, u)")
