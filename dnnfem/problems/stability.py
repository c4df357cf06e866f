"""Local stability: what residuals do to the solution, point by point, and weights that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.problems.collocation import Collocation
from dnnfem.problems.fields import Points, tensor
from dnnfem.problems.perturbations import Form, Perturbations
from dnnfem.problems.weights import Factor
from dnnfem.quadrature import Quadrature, as_finite
from dnnfem.records import Array
from dnnfem.spaces.layout import NetworkSpace, check_coefficients

DAMPING = 1e-12
"""Penalty on each coefficient, relative to the square of its column: what no residual sees is not perturbed."""

INITIAL = "initial"


@dataclass(frozen=True, eq=False)
class Beginning:
    """What errors at the beginning of an interval of time do later: rows for the end of the interval before."""

    time: float
    form: Form


@dataclass(frozen=True, eq=False)
class Stability:
    """Result of `stability`.

    Attributes
    ----------
    factors : mapping of str to Factor
        By the name of the residual: ``kappa`` as a function in torch, of `p` as in laws; also for conditions that hold
        exactly.
    weights : mapping of str to Factor
        Those of residuals that the problem has: the argument `weight` of `dnnfem.Collocation`.
    duration : float
        From the beginning of the problem to the end of the last one that was considered; 1 without time.
    beginning : Beginning or None
        For the problem before.
    """

    factors: Mapping[str, Factor]
    weights: Mapping[str, Factor]
    duration: float
    beginning: Beginning | None

    def __call__(self, points: Array, name: str = "law") -> Array:
        """Return ``kappa`` of a residual at points (m, d), shape (m, equations).

        Raises
        ------
        ValueError
            If there is no such residual, or the points have another shape.
        """
        if name not in self.factors:
            raise ValueError(f"name: got {name!r}, expected one of {', '.join(map(repr, self.factors))}")
        points, factor = as_finite("points", points, 2), self.factors[name]
        if points.shape[1] != len(factor.low):
            raise ValueError(f"points: got shape {points.shape}, expected (m, {len(factor.low)})")
        return np.asarray(factor(Points(tensor(points), points.shape[1])).numpy().T)


def stability(
    problem: Collocation,
    space: NetworkSpace,
    x: Array,
    quadrature: Quadrature | None = None,
    *,
    later: Stability | None = None,
) -> Stability:
    """Estimate how much a residual at a point changes the solution, in the mean square, now and later.

    Least squares weigh all residuals alike, but the equation may damp what is wrong at one point and amplify what is
    wrong at another one.  Linearized at the solution, a residual ``rho`` changes the coefficients by ``-A^+ rho``.  For
    one that lives at a point, and is as wide as the tangents of the network can tell,

        kappa^2 = <H^-1 M H^-1 a, a> / <H^-1 a, a>

    with the row ``a`` of ``A`` at the point, ``H = A^T A``, and ``<M d, d>`` the mean square of the change ``d`` over
    the domain, in time over all of the interval and those after it.  ``replace(problem, weight=found.weights)`` is then
    a functional in which all residuals count as much as what they do: ``sum_q w_q kappa_q^2 r_q^2`` is of the size of
    the mean square of the error, and it is that for residuals that the tangents resolve, if what they do at different
    places is not correlated.

    Parameters
    ----------
    problem : Collocation
        Without unknowns.  Weights that it has play no role.
    space : NetworkSpace
    x : array, shape (dim,)
        Coefficients of a solution, which may be rough: weights need no more than two digits.
    quadrature : Quadrature, optional
        Points that determine the coefficients; default those of the problem.
    later : Stability, optional
        Of the problem on the interval of time after this one, `dnnfem.next_slab`: what is wrong at the end is carried
        on.  Intervals are solved from the first to the last, and looked at from the last to the first.

    Returns
    -------
    Stability
        Factors are smooth functions of the points: polynomials in the exponent, fitted at the points that the problem
        begins with.

    Raises
    ------
    ValueError
        If the problem has unknowns, `x` is no finite vector of the space, or `later` does not begin where the problem
        ends.

    References
    ----------
    Becker and Rannacher, Acta Numer. 10 (2001) 1-102, for weights from the dual problem, which these are without a
    goal.

    Examples
    --------
    >>> import torch
    >>> problem = fem.Collocation(
    ...     lambda p, u: u.dt - 4.0 * p.x[0] * u.value, fem.Box([-1], [1]), time=(0.0, 1.0), initial=1.0
    ... )
    >>> space = fem.FeedforwardSpace(inputs=2, hidden=(8,), outputs=1)
    >>> result = fem.gauss_newton(problem.on(space), space.initial(seed=0), fem.relative(1e-2))
    >>> damped, amplified = fem.stability(problem, space, result.x)([[-0.9, 0.0], [0.9, 0.0]], "initial")
    >>> bool(amplified > 5.0 * damped)
    True
    """
    if problem.unknowns:
        raise ValueError(f"problem: got one with the unknowns {', '.join(problem.unknowns)}, expected one without")
    x = check_coefficients(space, x, finite=True)
    quadrature = problem.quadrature if quadrature is None else quadrature
    problem.on(space, quadrature)
    after = _after(problem, later)
    perturbations = Perturbations.of(problem, space, x)
    names = perturbations.names
    parts = {name: perturbations.resolved(name, quadrature) for name in names}
    # H = S^T S, by orthogonal transformations.
    system = _system([perturbations.on(perturbations.form(name, part)) for name, part in parts.items()], x)
    inverse = np.linalg.solve(system.schur_roots([np.arange(len(x))], DAMPING)[0], np.eye(len(x)))
    own = 1.0 if problem.time is None else problem.time[1] - problem.time[0]
    duration = own + (0.0 if later is None else later.duration)
    change = own * _system([perturbations.values(parts["law"])], x)
    if after is not None:
        change = change + _system([perturbations.on(after.form)], x)
    squares, vectors = np.linalg.eigh((change @ inverse).curvature(np.eye(len(x))) / duration)
    image = inverse @ (vectors * np.sqrt(np.maximum(squares, 0.0)))
    forms = {name: perturbations.form(name, perturbations.samples(name)) for name in names}

    def kappa(form: Form) -> Array:
        rows = [perturbations.on(form.equation(number)) for number in range(len(form.slopes))]
        with np.errstate(divide="ignore", invalid="ignore"):
            # Nothing is known where a residual does not react at all.
            return np.stack([np.sqrt(_squares(row, x, image) / _squares(row, x, inverse)) for row in rows])

    found = {name: kappa(form) for name, form in forms.items()}
    with np.errstate(divide="ignore"):
        factors = {name: Factor.fitted(forms[name].points, np.log(found[name])) for name in names}
    beginning = None
    if problem.time is not None and INITIAL in found:
        # In total, and not in the mean, as the interval before has another duration.
        total = math.sqrt(duration) * np.nan_to_num(found[INITIAL])
        beginning = Beginning(problem.time[0], forms[INITIAL].times(total))
    return Stability(factors, {name: factors[name] for name in problem.laws}, duration, beginning)


def _system(integrals: list[Integral], x: Array) -> Any:
    """Return the system of a sum of integrals."""
    systems: list[Any] = [integral.linearize(x).system() for integral in integrals]
    return sum(systems[1:], systems[0])


def _squares(integral: Integral, x: Array, root: Array) -> Array:
    """Return ``w |R^T a|^2`` at all points of one equation, shape (m,)."""
    return np.maximum(integral.left_out(x, root, exact=False).leverage, 0.0)


def _after(problem: Collocation, later: Stability | None) -> Beginning | None:
    """Return what errors at the end of a problem do later; None if nothing was said of it."""
    if later is None:
        return None
    if not isinstance(later, Stability):
        raise ValueError(f"later: got {type(later).__name__}, expected what stability returned for the next slab")
    if later.beginning is None or problem.time is None or later.beginning.time != problem.time[1]:
        begins = "without a beginning" if later.beginning is None else f"from {later.beginning.time!r} on"
        ends = "as the problem has no time" if problem.time is None else f"from {problem.time[1]!r} on"
        raise ValueError(f"later: got the stability of a problem {begins}, expected one {ends}")
    outputs = later.beginning.form.slopes.shape[2]
    if outputs != problem.outputs:
        raise ValueError(f"later: got the stability of {outputs} functions, expected {problem.outputs}")
    return later.beginning
