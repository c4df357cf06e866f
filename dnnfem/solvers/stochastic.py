"""Minibatch steps whose size is computed a posteriori, with batches that grow until all samples are used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Functional, Linearization, Metric, Norm
from dnnfem.functionals.sampling import integral_of
from dnnfem.norms import Euclidean, frobenius
from dnnfem.records import Array, Result, State, Status, Step, Steps
from dnnfem.solvers.iteration import NOTHING, Iterate, Limits, Observer, Tolerance, extrapolated, iterate, norm_at
from dnnfem.solvers.minibatch import Batches, Means, first_step
from dnnfem.solvers.trust_region import DENSE_LIMIT, NOISE, ROUNDING, VALUE_WORK, TrustRegion
from dnnfem.spaces import Purpose, generator

BATCH = 64
"""Samples in the first batches: whole tiles of the kernels."""

ENLARGE = 4
"""Factor by which batches grow."""

POINTS = 512
"""Samples from which a norm that depends on the point is computed, and those on which iterates are compared."""

SHARE = 5.0
"""Work of the steps with one norm, relative to that of the norm."""

FEWEST = 10
"""Least number of steps with one norm."""

PATIENCE, LITTLE = 10.0, 0.5
"""Steps with so many gradients of all samples, as few steps of the trust region take, have to gain that part of the
value."""

TRUST = 10.0
"""A step is rejected if the value rises, by a curvature of more than this multiple of the mean one."""

EPS = float(np.finfo(float).eps)
"""Steps of this length relative to the iterate do not move it: the trust region takes over."""


@dataclass(frozen=True, eq=False)
class StochasticIterate(Iterate):
    """An iterate with its norm."""

    norm: Norm
    means: Means


@dataclass(frozen=True, eq=False)
class Stochastic:
    """Rows of minibatch steps, then trust-region steps with all samples; see `stochastic`."""

    batches: Batches
    metric: Metric
    full: TrustRegion
    max_work: float

    @property
    def _size(self) -> int:
        return self.batches.size

    def assess(self, linearization: Linearization, step: Step, memory: Mapping[str, Array] = NOTHING) -> Iterate:
        """Compute the norm at an iterate; at the start also a first estimate of the curvature."""
        if (int(memory["batch"]) if memory else 2 * BATCH) >= self._size:
            own = {name: value for name, value in memory.items() if name != "batch"}
            return self._handed_over(self.full.assess(linearization, step, own))
        x = linearization.x
        if memory:
            means = Means.of(memory)
            return StochasticIterate(linearization, step, self._norm(x, means), means, memory=memory)
        means = Means(np.zeros(x.size), x, x, batch=BATCH)
        norm = self._norm(x, means)
        batch, means = self.batches.next(means)
        here = batch.linearize(x)
        dual_norm = norm.dual_norm(here.derivative)
        if not math.isfinite(dual_norm):
            return Iterate(linearization, replace(step, dual_norm=math.nan))
        means, trials = first_step(batch, here, norm, means)
        work = VALUE_WORK + (BATCH * (1.0 + trials * VALUE_WORK)) / self._size
        step = replace(step, dual_norm=dual_norm, multiplier=1.0 / means.step, work=step.work + work)
        return StochasticIterate(linearization, step, norm, means, memory=means.memory)

    def _norm(self, x: Array, means: Means) -> Norm:
        batch, _ = self.batches.next(means, POINTS)
        return norm_at(self.metric, self.batches.functional, batch.linearize(x))

    def _handed_over(self, iterate: Iterate) -> Iterate:
        """Note in the memory of the trust region that it has begun."""
        return replace(iterate, memory={**iterate.memory, "batch": np.array(self._size)})

    def estimate(self, steps: Steps) -> float:
        """Return that of the trust region; NaN as long as it has not begun."""
        own = Steps(tuple(row for row in steps if not math.isnan(row.algebraic)))
        return min(float(own[-1].algebraic), extrapolated(own)) if not math.isnan(steps[-1].algebraic) else math.nan

    def advance(self, iterate: Iterate) -> Iterate | Status:
        """Take the steps of one row, or one step of the trust region."""
        if not isinstance(iterate, StochasticIterate):
            if iterate.step.work + 1.0 > self.max_work:
                return Status.WORK_LIMIT
            following = self.full.advance(iterate)
            return following if isinstance(following, Status) else self._handed_over(following)
        means = iterate.means
        points, single = min(POINTS, self._size), (1.0 + VALUE_WORK) * means.batch
        number = max(FEWEST, math.ceil(SHARE * points / single))
        compared = means.count + number >= 2 * means.window
        test = min(max(POINTS, means.batch), self._size)
        fixed = points + compared * 3.0 * VALUE_WORK * test
        room = (self.max_work - iterate.step.work - 2.0 * VALUE_WORK) * self._size - fixed
        if room < single:
            return Status.WORK_LIMIT
        # The last row is shorter: the work is used up.
        number = int(min(number, room // single))
        work = iterate.step.work + (fixed + number * single) / self._size
        row = self._row(iterate, number)
        if isinstance(row, Status):
            return row
        x, means, step = row
        step = replace(step, work=work)
        if compared and means.batch < self._size:
            x, means = self._compared(x, means, test)
        there = self.full.functional.linearize(x)
        if means.batch >= self._size:
            begin = replace(step, value=there.value, multiplier=math.nan)
            return self._handed_over(self.full.assess(there, begin))
        return StochasticIterate(there, step, self._norm(x, means), means, memory=means.memory)

    def _row(self, iterate: StochasticIterate, number: int) -> tuple[Array, Means, Step] | Status:
        """Take steps with one norm; where they get nowhere the next ones have all samples at once."""
        x, means, norm = iterate.linearization.x, iterate.means, iterate.norm
        correlation = self.batches.correlation(means.batch)
        values, actual, predicted, stride = [], 0.0, 0.0, 0.0
        for _ in range(number):
            batch, means = self.batches.next(means)
            here = batch.linearize(x)
            derivative = here.derivative
            if not (math.isfinite(here.value) and np.isfinite(derivative).all()):
                return Status.NOT_FINITE
            values.append(here.value)
            known = means
            means, mean, square = known.seen(derivative, norm, correlation)
            slope, size = float(derivative @ mean), means.step
            stride = size * math.sqrt(square)
            if square == 0.0:
                continue
            trial = x - size * mean
            value = batch.value(trial)
            remainder = value - here.value + size * slope
            if not math.isfinite(value) or (value > here.value and remainder > TRUST * means.bend(square)):
                means = means.shortened(derivative)
                continue
            # Where the remainder is rounding it says nothing about the curvature.
            if abs(remainder) > ROUNDING * abs(here.value):
                means = means.bent(2.0 * remainder / (size**2 * square))
            x, means = trial, means.moved(trial)
            actual += here.value - value
            predicted += size * slope - known.bend(square)
        if stride <= EPS * norm.norm(x):
            means = means.enlarged(self._size)
        last = iterate.step
        return (
            x,
            means,
            Step(
                last.number + 1,
                float(np.mean(values)),
                dual_norm=math.sqrt(max(means.squared_mean, 0.0)),
                length=norm.norm(x - iterate.linearization.x),
                radius=last.radius,
                ratio=actual / predicted if predicted != 0.0 else math.nan,
                multiplier=1.0 / means.step,
                inner=number,
            ),
        )

    def _compared(self, x: Array, means: Means, test: int) -> tuple[Array, Means]:
        """Enlarge the batches if noise limits: if averaging gains more than the latter half of the steps did.

        If it is the condition that limits, if these were many steps and gained little, they hold all samples at once.
        """
        batch, means = self.batches.next(means, test)
        here, average, reference = (batch.value(point) for point in (x, means.average, means.reference))
        gain, work = reference - average, (means.count - means.window) * means.batch / self._size
        if means.window > 0 and not here - average <= gain > NOISE * abs(average):
            larger = ENLARGE * means.batch
            return means.average, means.enlarged(self._size if 2 * larger > self._size else larger)
        if means.window > 0 and work >= PATIENCE and gain <= LITTLE * abs(reference):
            return x if here <= average else means.average, means.enlarged(self._size)
        return x, replace(means, reference=means.average, window=means.count)

    def finished(self, result: Result, means: Means) -> Result:
        """Return the better one of the last iterate and the average, with its value on all samples."""
        candidates = [(self.full.functional.value(x), x) for x in (result.x, means.average)]
        value, x = min(candidates, key=lambda pair: pair[0] if math.isfinite(pair[0]) else math.inf)
        last = result.steps[-1]
        step = replace(last, number=last.number + 1, value=value, work=last.work + 2.0 * VALUE_WORK, inner=0)
        return replace(result, x=x, steps=result.steps + step)


def stochastic(
    functional: Functional,
    x: Array,
    tolerance: Tolerance = 1e-10,
    *,
    norm: Metric | None = None,
    state: State | None = None,
    observer: Observer | None = None,
    max_steps: int = 1000,
    max_seconds: float = math.inf,
    max_work: float = math.inf,
    seed: int = 0,
) -> Result:
    """Minimize a functional on samples by minibatch steps, then by trust-region steps with all of them.

    A step goes along the mean ``m`` of the gradients of the last batches.  On each batch the values at both ends of the
    step give the curvature ``[omega] = 2 (J(x - s m) - J(x) + s <J'(x), m>) / (s^2 |m|^2)``, and the lengths of ``m``
    and of single gradients the part of ``m`` that is no noise.  The step size is the ratio of the two; there is none to
    choose.  Where averaging the iterates gains more than the latter half of the steps did, noise limits and the batches
    grow; when they would hold half of the samples, the trust region with the curvature takes over.  So it does where
    the condition limits, not noise: where many steps have gained little, or the steps are as short as rounding.

    Parameters
    ----------
    functional : Functional
        With a quadrature: an integral, or a sum with penalties.
    x : array, shape (dim,)
        Starting point.
    tolerance : float or relative(...)
        A float bounds the estimate of ``sqrt(2 (J(x) - min J))``, `dnnfem.relative` the dual norm of the derivative
        relative to that on the first batch.  Both are known from the trust region only.
    norm : Norm or metric, optional
        The preconditioner, and in which lengths are measured; a metric is evaluated on a few hundred samples as long as
        there are batches.  Default `dnnfem.norms.frobenius`, or Euclidean where there is no network.
    state : State, optional
        Of the solve before, or of the interrupted one.
    observer : callable, optional
        Called with a `Snapshot` after every row of the table.
    max_steps, max_seconds, max_work : optional
        Limits on the rows of the table, the time, and the work; reaching one is a status, not an error.  A row is some
        ten to hundred minibatch steps with one norm, or a step of the trust region.  Work counts values with derivative
        on all samples, a value alone is a third; a last step of the trust region may exceed the limit.
    seed : int
        Of the batches.

    Returns
    -------
    Result
        At a limit the better one of the last iterate and the average of the latest ones.  In the table, `value` is the
        mean over the batches, `dual_norm` an estimate for all samples, `ratio` the actual decrease on the batches over
        that with the mean curvature, `multiplier` the inverse of the step size and `inner` the number of batches.

    Raises
    ------
    ValueError
        If `functional` has no quadrature, or `x`, `tolerance`, `norm`, `state`, `seed` or a limit do not fit.
    Interrupted
        On Ctrl-C, after the observer has seen the last iterate; the exception carries the result.

    References
    ----------
    Köhne, Kreis, Schiela and Herzog, arXiv 2311.16956 (2023).
    """
    if isinstance(max_work, bool) or not isinstance(max_work, int | float | np.floating) or not max_work >= 0:
        raise ValueError(f"max_work: got {max_work!r}, expected a non-negative number")
    batches = Batches(functional, seed)
    generator(seed, functional.space.dim, Purpose.BATCHES)  # Checks the seed.
    metric = norm if norm is not None else _default_norm(functional)
    dense = functional.space.dim <= DENSE_LIMIT["curvature"]
    method = Stochastic(batches, metric, TrustRegion(functional, metric, dense, curvature=True), max_work)
    result = iterate(functional, x, method, tolerance, state, observer, Limits(max_steps, max_seconds))
    assert result.resumable is not None and result.resumable.progress is not None
    memory = result.resumable.progress.memory
    return method.finished(result, Means.of(memory)) if "momentum" in memory else result


def _default_norm(functional: Functional) -> Metric:
    integral = integral_of(functional)
    if integral is None or not integral.space.program.is_inclusion:
        return Euclidean(functional.space)
    return frobenius(functional, count=POINTS)
