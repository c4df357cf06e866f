"""Ritz' method: a solution minimizes an energy, whose density is the law."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem import kernels
from dnnfem.functionals import Functional, Scaled, Sum
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.assembly import check_function, check_quadrature, check_space, integrals
from dnnfem.problems.conditions import Place, places, side_name, sided
from dnnfem.problems.covering import covering
from dnnfem.problems.density import DensityLaw, recorded_density
from dnnfem.problems.domains import Box, Domain
from dnnfem.problems.exact import ExactAnsatz
from dnnfem.problems.fields import Jet, Points, Walls
from dnnfem.problems.lift import Conditions
from dnnfem.problems.solution import Solution
from dnnfem.problems.vanishing import Vanishing, pieces
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
    domain : Box, Boxes or Simplices
        In space.
    dirichlet : number, sequence, callable or mapping, optional
        Values on the whole boundary, or on sides of a box or parts of another boundary.  They hold exactly, as they
        must where an energy is minimized; on a domain that is no box they have to be one and the same number.
    boundary : callable or mapping, optional
        Further densities on all of the boundary, or on parts of it: ``-h * u`` for ``du/dn = h``,
        ``0.5 * a * u ** 2 - h * u`` for ``du/dn + a u = h``.
    outputs : int
        Number of unknown functions.
    quadrature : Quadrature, optional
        Of the domain, with a region for each part of the boundary that has a density.  Weights sum to one in the domain
        and in every region, as those of meshes do: measures are multiplied with them here.
    seed : int
        Of Sobol' points.
    backend, memory, device, precision : optional
        As for `dnnfem.Regression`.

    Raises
    ------
    ValueError
        If a density returns something of a wrong shape, cannot be differentiated, is not convex in the jet, or not
        finite at a point; if conditions contradict each other, or concern parts of the boundary that there are not; if
        weights do not sum to one.

    References
    ----------
    Ritz, J. reine angew. Math. 135 (1909) 1-61; E and Yu, Commun. Math. Stat. 6 (2018) 1-12, for networks.

    Examples
    --------
    >>> density = lambda p, u: 0.5 * (u.grad**2).sum(dim=0) - 2.0 * u.value
    >>> problem = fem.Energy(density, fem.Box([0], [1]), dirichlet=0.0)
    >>> space = fem.FeedforwardSpace(inputs=1, hidden=(4,), outputs=1)
    >>> result = fem.trust_region(problem.on(space), space.initial(seed=0), 1e-5, curvature=True)
    >>> problem.solution(space, result.x)([[0.5]]).round(3)  # x (1 - x)
    array([[0.25]])
    """

    density: Density
    domain: Domain
    dirichlet: Any = None
    boundary: Density | Mapping[Place, Density] | None = None
    outputs: int = 1
    quadrature: Quadrature = field(default=None)  # type: ignore[assignment]
    seed: int = 0
    backend: str | None = None
    memory: int | None = None
    device: str | None = None
    precision: str = "double"
    ansatz: ExactAnsatz | AffineAnsatz = field(init=False)
    laws: Mapping[str, DensityLaw] = field(init=False)
    measures: Mapping[str, float] = field(init=False)

    def __post_init__(self) -> None:
        kernels.check(self.backend, self.device, self.precision)
        check_function("density", self.density, self.domain, self.outputs)
        domain, box = self.domain, isinstance(self.domain, Box)
        bounds, everywhere = (tuple(domain.low), tuple(domain.high)), places(domain, ())
        # Part by part, as the measure of each one counts.
        densities = {
            f"boundary on {side_name(place, bounds)}": (place, given)
            for place, given in sided("boundary", self.boundary, everywhere).items()
        }
        covered = {name: [place] for name, (place, _) in densities.items()}
        quadrature = self.quadrature or covering(domain, None, covered, self.seed)
        _check_weights(quadrature, domain.dim, list(densities))
        object.__setattr__(self, "quadrature", quadrature)
        laws = {"law": recorded_density(self.density, "density", quadrature, domain.dim, self.outputs)}
        measures = {"law": domain.volume}
        for name, region in quadrature.regions.items():
            place, given = densities[name]
            walls: Walls = bounds if box else "data"
            laws[name] = recorded_density(given, name, region, domain.dim, self.outputs, walls)
            measures[name] = _measure(domain, place)
        object.__setattr__(self, "laws", laws)
        object.__setattr__(self, "measures", measures)
        low, high = (0.5 * np.array(corner) for corner in bounds)
        sides = sided("dirichlet", self.dirichlet, everywhere)
        held = _held(domain, sides, self.outputs) if sides else None
        # The factor is a length: networks are to be the same in metres and in millimetres.
        unit = _extent(domain) if isinstance(held, Vanishing) else 1.0
        base = AffineAnsatz(low + high, high - low, np.zeros(self.outputs), np.full(self.outputs, 1.0 / unit))
        object.__setattr__(self, "ansatz", base if held is None else ExactAnsatz(base, held))

    @property
    def _conditions(self) -> Conditions | Vanishing | None:
        held = None if isinstance(self.ansatz, AffineAnsatz) else self.ansatz.conditions
        return held if isinstance(held, Conditions | Vanishing) else None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What an archive compares when a run is resumed."""
        return {
            "kind": "energy",
            "data": self.quadrature.hash,
            "low": np.array(self.domain.low),
            "high": np.array(self.domain.high),
            "outputs": np.array(self.outputs),
            "laws": str({name: [str(c) for c in law.components] for name, law in self.laws.items()}),
            "measures": np.array(list(self.measures.values())),
            "conditions": np.empty(0) if self._conditions is None else self._conditions.fingerprint,
        }

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Functional:
        """Discretize: return the functional on `space`.

        Raises
        ------
        ValueError
            If the space does not have the numbers of inputs and outputs or the smoothness that the density asks for, or
            the quadrature not the regions, or weights that do not sum to one.
        """
        quadrature = self.quadrature if quadrature is None else quadrature
        _check_weights(quadrature, self.domain.dim, [name for name in self.laws if name != "law"])
        check_space(space, self.outputs, (), self.laws.values())
        found = integrals(self, space, quadrature)
        terms = [Scaled(part, self.measures[name]) for name, part in found.items()]
        return terms[0] if len(terms) == 1 else Sum(*terms)

    def solution(self, space: NetworkSpace, x: Array) -> Solution:
        """Return the function with coefficients `x`, in the user's coordinates and units.

        Raises
        ------
        ValueError
            If `x` is no finite vector of the space.
        """
        return Solution(space, x, self.ansatz, self.backend, self.device, self.precision)


def _check_weights(quadrature: Quadrature, inputs: int, names: Sequence[str]) -> None:
    """Raise a `ValueError` if a quadrature has other coordinates or regions, or its weights do not sum to one."""
    check_quadrature(quadrature, inputs, names)
    for part in (quadrature, *quadrature.regions.values()):
        if not math.isclose(part.total, 1.0, rel_tol=1e-9):
            raise ValueError(f"quadrature: got weights with the sum {part.total}, expected one: measures are known")


def _measure(domain: Domain, place: Place) -> float:
    """Return length, area, ... of a side of a box or of a part of another boundary."""
    if isinstance(place, str):
        return float(np.sum(domain.parts[place].measures))
    return float(np.prod(np.delete(np.subtract(domain.high, domain.low), place[0])))


def _held(domain: Domain, sides: Mapping[Any, Any], outputs: int) -> Conditions | Vanishing:
    """Return conditions that hold exactly: lift and factor of a box, elsewhere one constant and a factor.

    Raises
    ------
    ValueError
        If they contradict each other on a box, or are not the same numbers everywhere on another boundary.
    """
    if isinstance(domain, Box):
        return Conditions(tuple(domain.low), tuple(domain.high), domain.dim, outputs, sides)
    if domain.dim not in (2, 3):
        raise ValueError(
            f"dirichlet: got values on the boundary of {type(domain).__name__} with {domain.dim} coordinates, expected "
            "two or three, or a Box, which may have any number"
        )
    values = []
    for part, given in sides.items():
        if callable(given):
            raise ValueError(
                f"dirichlet: got a function on {part!r}, a part of a boundary that is not a box, expected a number; "
                "subtract any function with these values from the unknown one"
            )
        values.append(_constant(part, given, outputs))
    if any(not np.array_equal(values[0], other) for other in values):
        raise ValueError(
            f"dirichlet: got {len(values)} different values on a domain that is no box, expected the same ones"
        )
    return Vanishing(pieces(domain, sides), tuple(values[0].tolist()))


def _extent(domain: Domain) -> float:
    """Return half the side of a square or cube with as much boundary: turned domains have the same."""
    size = float(sum(np.sum(part.measures) for part in domain.parts.values()))
    return 0.5 * math.pow(size / (2.0 * domain.dim), 1.0 / (domain.dim - 1))


def _constant(part: str, given: Any, outputs: int) -> Array:
    """Return one number or one per output as an array (outputs,)."""
    try:
        found = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    if found.shape not in ((), (1,), (outputs,)) or not np.isfinite(found).all():
        expected = "a finite number" if outputs == 1 else f"a finite number, or {outputs} of them"
        raise ValueError(f"dirichlet: got {given!r} on {part!r}, expected {expected}")
    return np.broadcast_to(found, (outputs,))
