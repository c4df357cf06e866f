"""Gauss-Newton in a trust region, on the condensed functional, with many radii per factorization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dnnfem.functionals import Condensed, CondensedLinearization, Functional, Linearization, Metric, Norm, condense
from dnnfem.kernels.system import LeastSquaresSystem, ModelStep, StepFamily
from dnnfem.norms import feature_norm
from dnnfem.records import Array, Result, State, Status, Step, Steps
from dnnfem.solvers.chord import Landing, corrected
from dnnfem.solvers.iteration import NOTHING, Iterate, Limits, Observer, Tolerance, View, extrapolated, iterate, norm_at
from dnnfem.solvers.trust_region import NOISE, ROUNDING, VALUE_WORK

ACCEPT = 0.1
"""A step is taken if it achieves this part of what the model promises: a small target, so that the largest useful step
is taken rather than the safest (Webb, Jerad, Cartis 2026)."""

FACTOR = 4.0
"""Ratio of neighbouring radii."""

GROWTHS = 2
"""Times that a radius is enlarged in one step: neurons that saturate keep what is promised at all radii."""

FIRST = {True: 0.1, False: 10.0}
"""First radius, relative to the length of the starting point, of a condensed functional and of any other.  Features are
not to change by more than a tenth; what is known of other coefficients is less, and a radius soon reduced."""

TRIALS = 40
"""Radii tried per step; the last one is then below rounding."""

WORTH = 0.5
"""A longer step is worth a try if one keeps this part of its promise."""


@dataclass(frozen=True, eq=False)
class GaussNewtonIterate(Iterate):
    """An iterate with its norm, its system and the steps of all radii (None if the derivative is not finite)."""

    functional: Functional
    norm: Norm
    system: LeastSquaresSystem
    family: StepFamily | None


@dataclass(frozen=True, eq=False)
class GaussNewton:
    """Steps of the linearized least-squares problem; see `gauss_newton`."""

    functional: Functional
    metric: Metric | None

    def assess(
        self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING
    ) -> GaussNewtonIterate:
        """Factorize the system; the step of Newton's method counts as an estimate only if the radius admits it.

        The tiny penalty of a condensed functional yields here, and is remembered.
        """
        functional = self.functional
        if isinstance(linearization, CondensedLinearization):
            ridge = float(memory.get("ridge", linearization.condensed.ridge))
            linearization = linearization.penalized(ridge).relaxed()
            functional = linearization.condensed
            step = replace(step, value=linearization.value)
            memory = {"ridge": np.array(functional.ridge)}
        norm = norm_at(self.metric, functional, linearization)
        system = linearization.system()
        # A loss law has a system but is no sum of squares.
        if system is None or (step.number == 0 and linearization.residual() is None):
            raise ValueError("functional: got one that is no sum of squares, expected residual laws; try trust_region")
        dual_norm = norm.dual_norm(system.derivative)
        if not math.isfinite(dual_norm):
            step = replace(step, dual_norm=math.nan)
            return GaussNewtonIterate(linearization, step, functional, norm, system, None, memory=memory)
        family = system.steps(norm)
        radius = step.radius
        if not math.isfinite(radius):
            condensed = isinstance(linearization, CondensedLinearization)
            radius = FIRST[condensed] * norm.norm(linearization.x) or 1.0
        model = family(radius)
        step = replace(
            step,
            dual_norm=dual_norm,
            radius=radius,
            algebraic=math.sqrt(2.0 * max(model.decrease, 0.0)) if model.interior else math.inf,
            work=step.work + 2.0,
        )
        return GaussNewtonIterate(linearization, step, functional, norm, system, family, memory=memory)

    def estimate(self, steps: Steps) -> float:
        """Return the smaller of Newton's and the extrapolated estimate."""
        return min(float(steps[-1].algebraic), extrapolated(steps))

    def _landed(self, here: GaussNewtonIterate, model: ModelStep) -> Landing:
        """Return where a step ends, with the corrections that it needs.

        The residual at the end, which had to be computed anyway, says how far it is from its linearization: a
        correction takes one more value and no derivative.
        """
        family, before = here.family, here.linearization.residual()
        assert family is not None and before is not None

        def land(step: Array) -> Landing:
            there = here.functional.linearize(here.linearization.x + step)
            fallen = here.linearization.value - there.value
            return Landing(there, step, fallen / model.decrease if math.isfinite(there.value) else -math.inf)

        def remainder(landing: Landing) -> Array | None:
            after = landing.point.residual()
            with np.errstate(invalid="ignore", over="ignore"):
                return None if after is None else here.system.pull(after - before) - here.system.curvature(landing.step)

        plain = land(model.step)
        # Near rounding the ratio is noise.
        if model.decrease <= NOISE * here.linearization.value:
            return plain
        solve = partial(family.solve, model.multiplier)
        return corrected(plain, model.decrease, land, remainder, solve, here.norm.norm)

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Take the largest step of a geometric family of radii that keeps its promise."""
        assert isinstance(iterate, GaussNewtonIterate) and iterate.family is not None
        value, last = iterate.linearization.value, iterate.step
        radius, trials, values = last.radius, 0, 0
        found: Landing | None = None
        taken = multiplier = math.nan
        promised = iterate.family(radius).decrease
        while trials < TRIALS:
            model = iterate.family(radius)
            if model.decrease <= ROUNDING * value:
                return Status.EXHAUSTED if promised <= NOISE * value else Status.STAGNATED
            landing = self._landed(iterate, model)
            trials, values = trials + 1, values + 1 + landing.corrections
            if landing.ratio >= ACCEPT:
                grown = found is not None or trials == 1
                found, taken, multiplier = landing, radius, model.multiplier
                if model.interior or not grown or trials > GROWTHS or landing.ratio < WORTH:
                    break
                radius *= FACTOR
            elif found is None:
                radius = min(radius, model.length) / FACTOR
            else:
                break
        if found is None:
            return Status.STAGNATED
        step = Step(
            last.number + 1,
            found.point.value,
            length=iterate.norm.norm(found.step),
            radius=taken,
            ratio=found.ratio,
            multiplier=multiplier,
            contraction=found.contraction,
            inner=trials,
            work=last.work + VALUE_WORK * values,
        )
        return self.assess(found.point, step, iterate.memory)


def gauss_newton(
    functional: Functional,
    x: Array,
    tolerance: Tolerance = 1e-10,
    *,
    norm: Metric | None = None,
    state: State | None = None,
    observer: Observer | None = None,
    max_steps: int = 1000,
    max_seconds: float = math.inf,
    condensed: bool | None = None,
) -> Result:
    """Minimize a sum of squares by a trust-region Gauss-Newton method.

    The coefficients of an affine output layer are eliminated (`dnnfem.condense`) and only the inner ones are iterated;
    the result has them all.  One factorization per step serves every trust radius.

    Parameters
    ----------
    functional : Functional
        A sum of squares: residual laws and penalties.
    x : array, shape (dim,)
        Starting point; its condensable part plays no role.
    tolerance : float or relative(...)
        A float bounds the estimate of ``sqrt(2 (J(x) - min J))``, `dnnfem.relative` the dual norm of the derivative.
    norm : Norm or metric, optional
        On the inner coefficients (on all of them if `condensed` is False, then Euclidean by default); default
        `dnnfem.norms.feature_norm`: a step is as long as the features change.  Metrics of all coefficients, such as
        `dnnfem.norms.frobenius`, are restricted to the inner ones.
    state : State, optional
        Of the solve before, or of the interrupted one.
    observer : callable, optional
        Called with a `Snapshot` after every step.
    max_steps, max_seconds : optional
        Limits; reaching one is a status, not an error.
    condensed : bool, optional
        Whether to eliminate; default if the functional allows it.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If `functional` is no sum of squares, or `x`, `tolerance`, `norm`, `state` or a limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Golub and Pereyra (1973); Kaufman (1975); Moré (1978); Transtrum and Sethna (2012) and Fan (2012) for the
    corrections; Webb, Jerad and Cartis (2026), arXiv 2607.02194.

    Examples
    --------
    >>> t = np.linspace(-1.0, 1.0, 100)
    >>> J = fem.Regression(t, np.exp(t)).on(fem.FeedforwardSpace(inputs=1, hidden=(4,), outputs=1))
    >>> result = fem.gauss_newton(J, J.space.initial(seed=0), tolerance=1e-4)
    >>> result.status.name, result.value < 1e-8
    ('CONVERGED', True)
    """
    if condensed is None:
        condensed = functional.condensable is not None
    limits = Limits(max_steps, max_seconds)
    if not condensed:
        return iterate(functional, x, GaussNewton(functional, norm), tolerance, state, observer, limits)
    reduced = condense(functional)
    metric = feature_norm(reduced) if norm is None else norm
    return iterate(reduced, x, GaussNewton(reduced, metric), tolerance, state, observer, limits, _view(reduced))


def _view(reduced: Condensed) -> View:
    """The user's coefficients include the eliminated ones."""
    return View(reduced.functional, lambda x: x[reduced.inner], reduced.expand_at)
