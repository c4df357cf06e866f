"""Differential equations by collocation: the law is the strong residual, the quadrature covers the domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem import kernels
from dnnfem.functionals import Functional, Sum
from dnnfem.functionals.sampling import OBSERVATIONS
from dnnfem.kernels.components import order_in
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.assembly import check_function, check_quadrature, check_space, integrals
from dnnfem.problems.conditions import Misfit, Place, joined, places, sided
from dnnfem.problems.covering import covering, prescribed, scaled
from dnnfem.problems.domains import Box, Domain
from dnnfem.problems.exact import ExactAnsatz
from dnnfem.problems.fields import Corners, Jet, Points, Walls
from dnnfem.problems.homogeneous import Homogeneous
from dnnfem.problems.lift import SAMPLES, Conditions, check_beginning
from dnnfem.problems.pointwise import PointwiseLaw
from dnnfem.problems.recording import recorded
from dnnfem.problems.solution import Solution
from dnnfem.problems.unknowns import (
    Unknowns,
    UnknownsAnsatz,
    observed,
    of_functions,
    parametrized,
    samples,
    weighed,
    with_unknowns,
)
from dnnfem.problems.weights import multiplied
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array
from dnnfem.spaces import FeedforwardSpace
from dnnfem.spaces.layout import NetworkSpace

ResidualLaw = Callable[[Points, Jet], Any]


@dataclass(frozen=True, eq=False)
class Collocation:
    """A differential equation by least squares: ``J = sum_q w_q sum_k (r_k(p_q, u) / s_k)^2 / 2``.

    The weights sum to one.  The sizes ``s_k`` are the root mean square responses of the equations to random functions,
    relative to those of `u`, so nothing has to be scaled by hand, and ``sqrt(2 J)`` is in the units of `u`.  Conditions
    on sides of a box hold exactly, see `dnnfem.problems.lift`, or their residuals are further terms of `J`, scaled like
    equations; on the boundary of another domain always the latter.  The law is then measured on functions that are
    constant where values are prescribed, so that its residual stands for the error that it causes.  Sources: Lagaris,
    Likas and Fotiadis, IEEE Trans. Neural Networks 9 (1998) 987-1000; Gordon and Hall, Numer. Math. 21 (1973) 109-129.

    Parameters
    ----------
    law : callable
        ``law(p, u)``, the strong residual in torch at all points at once: a tensor (m,), or a list of these for several
        equations.  `p` has ``x`` and ``t``; `u` has ``value, grad, hess, laplacian, dt, dtt, d(i, j, ...)``, and is its
        value in arithmetic; ``u[k]`` is the k-th of several outputs.  Derivatives up to order 4.
    domain : Box, Boxes or Simplices
        In space.
    time : (float, float), optional
        Beginning and end; time is the last coordinate of points.
    dirichlet : number, sequence, callable or mapping, optional
        Values on the whole boundary, one per output, or ``g(p)`` in torch; or these for some sides of a box, ``(axis,
        end)`` with end 0 or 1, or for some parts of another boundary, by name.  `g` is called on the boundary only.
    initial, velocity : number, sequence or callable, optional
        Values at the beginning, and first derivatives in time.
    boundary : callable or mapping, optional
        Further residuals ``law(p, u)`` on the whole boundary, or on some of it; with ``p.normal`` and ``u.normal``, the
        derivative along it, these are Neumann's and Robin's conditions.
    periodic : tuple of int, optional
        Coordinates in which the solution is periodic, on a box; the same inputs of spaces have to be.
    outputs : int
        Number of unknown functions.
    exact : bool
        Whether `dirichlet`, on a box, and `initial` hold exactly; otherwise their residuals are added.
    quadrature : Quadrature, optional
        Of the domain, time being its last coordinate; default Gauss points on equal cells, in more than three
        dimensions Sobol' points.  Observations that it has already keep their weights.
    unknowns : mapping of str to float, optional
        Coefficients that are not known, with starting values: laws take them as keywords, ``law(p, u, nu)``, as tensors
        (m,).  Spaces need as many.
    observations : (array, array), optional
        Points (m, d) in the domain and values (m,), or (m, outputs): the residuals ``u(p_i) - y_i`` are a further term,
        on the region ``"observations"`` of the quadrature; see `dnnfem.confidence` for its weight.
    weight : mapping of str to callable or number, optional
        What residuals are multiplied with, by their names: ``"law"`` and those of the regions of the quadrature;
        ``weight(p)`` in torch, positive, shape (m,) or (equations, m).  `dnnfem.stability` finds good ones.
    seed : int
        Of Sobol' points.
    backend, memory, device, precision : optional
        As for `dnnfem.Regression`.

    Raises
    ------
    ValueError
        If the law returns something of a wrong shape, cannot be differentiated, does not depend on `u` or is not finite
        at a point; if conditions contradict each other where they meet, or concern sides that there are not; if no law
        takes one of the unknowns, or observations do not fit.

    Examples
    --------
    >>> problem = fem.Collocation(lambda p, u: u.laplacian + 2.0, fem.Box([0], [1]), dirichlet=0.0)
    """

    law: ResidualLaw
    domain: Domain
    time: tuple[float, float] | None = None
    dirichlet: Any = None
    initial: Any = None
    velocity: Any = None
    boundary: ResidualLaw | Mapping[Place, ResidualLaw] | None = None
    periodic: tuple[int, ...] = ()
    outputs: int = 1
    exact: bool = True
    quadrature: Quadrature = field(default=None)  # type: ignore[assignment]
    unknowns: Mapping[str, float] | None = None
    observations: tuple[Any, Any] | None = None
    weight: Mapping[str, Any] | None = None
    seed: int = 0
    backend: str | None = None
    memory: int | None = None
    device: str | None = None
    precision: str = "double"
    ansatz: ExactAnsatz | AffineAnsatz | UnknownsAnsatz = field(init=False)
    laws: Mapping[str, PointwiseLaw] = field(init=False)

    def __post_init__(self) -> None:
        kernels.check(self.backend, self.device, self.precision)
        _check(self)
        object.__setattr__(self, "periodic", tuple(self.periodic))
        space = self.domain.dim
        box, free = isinstance(self.domain, Box), places(self.domain, self.periodic)
        sides: dict[Any, Any] = sided("dirichlet", self.dirichlet, free)
        soft: dict[str, tuple[list[Place], ResidualLaw]] = {}
        if not (self.exact and box):
            for name, (members, given) in joined("dirichlet", sides, self._bounds).items():
                soft[name] = members, Misfit(name, given)
            sides = {}
        if self.initial is not None and not self.exact:
            soft["initial"] = [(space, 0)], Misfit("initial", self.initial, self.velocity)
        elif self.initial is not None:
            sides[space, 0] = self.initial
        soft |= joined("boundary", sided("boundary", self.boundary, free), self._bounds)
        covered = {name: members for name, (members, _) in soft.items()}
        quadrature = self.quadrature or covering(self.domain, self.time, covered, self.seed)
        if self.observations is not None:
            soft[OBSERVATIONS] = [], observed
            quadrature = weighed(samples(self.observations, *self._bounds, self.outputs), quadrature)
        check_quadrature(quadrature, len(self._bounds[0]), list(soft))
        object.__setattr__(self, "quadrature", quadrature)
        unknowns = Unknowns.of(self.unknowns)
        functions = {"law": self.law, **{name: soft[name][1] for name in quadrature.regions}}
        given, outputs = parametrized(functions, unknowns, self.outputs), self.outputs + len(unknowns)
        laws = {"law": recorded(given["law"], "law", quadrature, space, outputs)}
        walls: Walls = self._bounds if box else "data"
        # In the order of the quadrature, by which its cells are numbered.
        for name, part in quadrature.regions.items():
            laws[name] = recorded(given[name], name, part, space, outputs, walls)
        ansatz: ExactAnsatz | AffineAnsatz = self._affine
        if sides and self.exact:
            orders = {i: max(order_in(i, c) for law in laws.values() for c in law.components) for i in self.periodic}
            some = None if box else quadrature.points[:: 1 + len(quadrature) // SAMPLES]
            conditions = Conditions(*self._bounds, space, self.outputs, sides, self.velocity, orders, some)
            check_beginning(conditions, {name: law for name, (_, law) in soft.items()}, quadrature)
            ansatz = ExactAnsatz(self._affine, conditions)
        object.__setattr__(self, "ansatz", with_unknowns(ansatz, self.outputs, unknowns))
        object.__setattr__(self, "laws", _sized(self, laws, soft, unknowns))

    @property
    def _held(self) -> Conditions | None:
        """Conditions that hold exactly."""
        ansatz = of_functions(self.ansatz)
        held = ansatz.conditions if isinstance(ansatz, ExactAnsatz) else None
        return held if isinstance(held, Conditions) else None

    @property
    def _bounds(self) -> Corners:
        """Corners of the box with time."""
        start, end = ((), ()) if self.time is None else ((float(t),) for t in self.time)
        return (*self.domain.low, *start), (*self.domain.high, *end)

    @property
    def _affine(self) -> AffineAnsatz:
        """From the box to [-1, 1]^d; outputs are in the user's units."""
        low, high = (0.5 * np.array(corner) for corner in self._bounds)
        return AffineAnsatz(low + high, high - low, np.zeros(self.outputs), np.ones(self.outputs))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What an archive compares when a run is resumed."""
        (low, high), held = self._bounds, self._held
        # Without unknowns it is that of the first versions.
        unknowns = {"unknowns": str(dict(self.unknowns))} if self.unknowns else {}
        return {
            "kind": "collocation",
            "data": self.quadrature.hash,
            "low": np.array(low),
            "high": np.array(high),
            "outputs": np.array(self.outputs),
            "time": str(self.time is not None),
            "periodic": str(self.periodic),
            "laws": str({name: [str(c) for c in law.components] for name, law in self.laws.items()}),
            "exact": str([] if held is None else sorted(held.sides)),
            "conditions": np.empty(0) if held is None else held.fingerprint,
            **unknowns,
        }

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Functional:
        """Discretize: return the functional on `space`.

        Raises
        ------
        ValueError
            If the space does not have the numbers of inputs, outputs and unknowns, the periodic inputs or the
            smoothness that the equation asks for, or the quadrature not the regions.
        """
        quadrature = self.quadrature if quadrature is None else quadrature
        check_quadrature(quadrature, len(self._bounds[0]), [name for name in self.laws if name != "law"])
        check_space(space, self.outputs, self.periodic, self.laws.values(), len(self.unknowns or ()))
        terms = list(integrals(self, space, quadrature).values())
        return terms[0] if len(terms) == 1 else Sum(*terms)

    def solution(self, space: NetworkSpace, x: Array) -> Solution:
        """Return the function with coefficients `x`, in the user's coordinates and units.

        Raises
        ------
        ValueError
            If `x` is no finite vector of the space.
        """
        return Solution(space, x, self.ansatz, self.backend, self.device, self.precision)


def _check(problem: Collocation) -> None:
    """Raise a `ValueError` if the parameters make no sense."""
    check_function("law", problem.law, problem.domain, problem.outputs)
    if problem.time is not None:
        times = np.asarray(problem.time, dtype=np.float64)
        if times.shape != (2,) or not np.isfinite(times).all() or not times[0] < times[1]:
            raise ValueError(f"time: got {problem.time!r}, expected beginning and end, the first one less")
    elif problem.initial is not None:
        raise ValueError("initial: got a condition for a problem without time, expected time=(t0, t1)")
    if problem.velocity is not None and problem.initial is None:
        raise ValueError("velocity: got first derivatives in time without initial values, expected both")
    axes = range(problem.domain.dim if isinstance(problem.domain, Box) else 0)
    periodic = tuple(problem.periodic) if isinstance(problem.periodic, Iterable) else (None,)
    if len(set(periodic)) != len(periodic) or not all(axis in axes for axis in periodic):
        some = f"different coordinates in space, of {tuple(axes)}" if axes else "none, as only boxes are periodic"
        raise ValueError(f"periodic: got {problem.periodic!r}, expected {some}")


def _sized(
    problem: Collocation,
    laws: dict[str, PointwiseLaw],
    soft: Mapping[str, tuple[list[Place], ResidualLaw]],
    unknowns: Unknowns,
) -> dict[str, PointwiseLaw]:
    """Return laws with their sizes, measured without weights, and with their weights."""
    inputs, parts = len(problem._bounds[0]), {"law": problem.quadrature, **problem.quadrature.regions}
    neuron = FeedforwardSpace(inputs, (1,), problem.outputs, periodic=problem.periodic, unknowns=len(unknowns))
    # Observations are in the units of `u`, and their mean square is to be the variance of the noise.
    scales = scaled({n: law for n, law in laws.items() if n != OBSERVATIONS}, parts, problem.ansatz, neuron)
    valued = {name: members for name, (members, law) in soft.items() if isinstance(law, Misfit)}
    value = prescribed([(laws[name], parts[name]) for name in valued], problem.ansatz, neuron)
    everywhere = [place for members in valued.values() for place in members]
    beginning = 0 if problem.initial is None else 1 if problem.velocity is None else 2
    zero = Homogeneous.on(problem.domain, problem._bounds, tuple(value.tolist()), everywhere, beginning)
    if zero is not None:
        calm = with_unknowns(ExactAnsatz(problem._affine, zero), problem.outputs, unknowns)
        scales |= scaled({"law": laws["law"]}, parts, calm, neuron)
    return multiplied(laws | scales, problem.weight, parts)
