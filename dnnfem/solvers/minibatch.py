"""Preconditioned minibatch steps with a-posteriori step sizes: means over the steps so far, and one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.functionals import Functional, Linearization, Norm
from dnnfem.functionals.sampling import on_samples, quadrature_of
from dnnfem.records import Array, Index
from dnnfem.spaces import Purpose, generator

MOMENTUM = 0.9
"""Weight of the past in the exponential mean of the derivatives: the mean of the last ten."""

SMOOTHING = 0.98
"""The same for curvature and noise: they change more slowly, and a single estimate says little."""

LEAST = 1.0 - MOMENTUM
"""Least noise factor.  Below it noise is left to the average of the iterates, and to larger batches: the factor that
gains most in the next step is too small for many steps."""

OUTLIER = 10.0
"""A curvature counts at most this multiple of the mean, and at least its inverse: the floor."""

GROWTH = 2.0
"""A step size at most doubles."""

PROBE = 1e-3
"""First trial step, relative to the starting point."""

PROBES = 40
"""Trial steps at the start: four to this power covers all numbers."""

RECENT = 0.2
"""The iterates are averaged over this part of the steps."""


@dataclass(frozen=True, eq=False)
class Means:
    """What goes over from one step to the next.

    Attributes
    ----------
    momentum : array, shape (dim,)
        ``sum_j u_j g_j`` over the derivatives of the batches, dual; the weights ``u_j`` fall off exponentially.
    weight, squares, pairs : float
        ``sum_j u_j``, ``sum_j u_j^2``, and ``sum_{j != k} u_j u_k`` over batches of the same permutation.
    own, drawn : float, int
        ``sum_j u_j`` over the batches of the latest permutation, and its number.
    average : array, shape (dim,)
        Mean of the latest iterates.
    reference : array, shape (dim,)
        The average when there were `window` steps.
    signal, share : float
        Sums of ``|m|^2 - c |d|^2`` and of ``1 - c``: their ratio estimates ``|E d|^2`` without bias.
    length, single, counted : float
        Sums of ``|m|^2``, of ``|d|^2``, and of their weights.
    curvature, measured : float
        Sums of the estimates of ``omega``, and of their weights.
    step : float
        Step size of the next step.
    count, window : int
        Steps with the present size of the batches; the same when the reference was set.
    batch : int
        Samples in a batch.
    epoch, position : int
        Where the next batch is taken from: permutation and place in it.
    """

    momentum: Array
    average: Array
    reference: Array
    weight: float = 0.0
    squares: float = 0.0
    pairs: float = 0.0
    own: float = 0.0
    drawn: int = 0
    signal: float = 0.0
    share: float = 0.0
    length: float = 0.0
    single: float = 0.0
    counted: float = 0.0
    curvature: float = 0.0
    measured: float = 0.0
    step: float = math.nan
    count: int = 0
    window: int = 0
    batch: int = 0
    epoch: int = 0
    position: int = 0

    @classmethod
    def of(cls, memory: Mapping[str, Array]) -> Means:
        """Rebuild from `memory`."""
        values: dict[str, Any] = {name: value if value.ndim else value.item() for name, value in memory.items()}
        return cls(**values)

    @property
    def memory(self) -> dict[str, Array]:
        """All of it as arrays, those without axes for numbers."""
        return {item.name: np.array(getattr(self, item.name)) for item in fields(self)}

    @property
    def omega(self) -> float:
        """Curvature of the functional along its steps, in the norm."""
        return self.curvature / self.measured

    @property
    def squared_mean(self) -> float:
        """``|E d|^2``, the squared dual norm of the derivative; estimated without bias, so it may be negative."""
        return self.signal / self.share if self.share > 0.0 else 0.0

    @property
    def noise_factor(self) -> float:
        """``|E m|^2 / E |m|^2`` of the mean derivative ``m``, between `LEAST` and 1."""
        mean = self.length / self.counted if self.counted > 0.0 else 0.0
        return min(max(self.squared_mean / mean, LEAST), 1.0) if mean > 0.0 else LEAST

    def bend(self, square: float) -> float:
        """Return what the mean curvature adds to the value along the next step, given ``|m|^2``."""
        return 0.5 * self.step**2 * self.omega * square

    def seen(self, derivative: Array, norm: Norm, correlation: float) -> tuple[Means, Array, float]:
        """Add the derivative of a batch; return the means with it, the mean gradient ``m``, primal, and ``|m|^2``.

        `correlation` is that of two batches of one permutation: a few of them together leave little noise.
        """
        momentum = MOMENTUM * self.momentum + (1.0 - MOMENTUM) * derivative
        weight = MOMENTUM * self.weight + 1.0 - MOMENTUM
        squares = MOMENTUM**2 * self.squares + (1.0 - MOMENTUM) ** 2
        before = MOMENTUM * self.own if self.drawn == self.epoch else 0.0
        pairs = MOMENTUM**2 * self.pairs + 2.0 * (1.0 - MOMENTUM) * before
        part = (squares + correlation * pairs) / weight**2
        mean = norm.riesz(momentum) / weight
        length, single = float(momentum @ mean) / weight, float(derivative @ norm.riesz(derivative))
        rest = 1.0 - SMOOTHING
        means = replace(
            self,
            momentum=momentum,
            weight=weight,
            squares=squares,
            pairs=pairs,
            own=before + 1.0 - MOMENTUM,
            drawn=self.epoch,
            signal=SMOOTHING * self.signal + rest * (length - part * single),
            share=SMOOTHING * self.share + rest * (1.0 - part),
            length=SMOOTHING * self.length + rest * length,
            single=SMOOTHING * self.single + rest * single,
            counted=SMOOTHING * self.counted + rest,
        )
        return means, mean, length

    def bent(self, omega: float) -> Means:
        """Add an estimate of the curvature."""
        if self.measured > 0.0:
            omega = min(max(omega, self.omega / OUTLIER), self.omega * OUTLIER)
        rest = 1.0 - SMOOTHING
        return replace(
            self, curvature=SMOOTHING * self.curvature + rest * omega, measured=SMOOTHING * self.measured + rest
        )

    def moved(self, x: Array) -> Means:
        """Add an accepted iterate, and choose the next step size."""
        share = 1.0 / (1.0 + RECENT * self.count)
        average = (1.0 - share) * self.average + share * x
        step = min(self.noise_factor / self.omega, GROWTH * self.step)
        return replace(self, average=average, count=self.count + 1, step=step)

    def shortened(self, derivative: Array) -> Means:
        """Reject a step: the curvature is larger than was thought, and the past misleads."""
        return replace(
            self,
            step=0.25 * self.step,
            curvature=4.0 * self.curvature,
            momentum=derivative,
            weight=1.0,
            squares=1.0,
            pairs=0.0,
            own=1.0,
        )

    def enlarged(self, batch: int) -> Means:
        """Begin with larger batches: the noise in the means falls in proportion."""
        signal, ratio = self.squared_mean, self.batch / batch
        single, length = (
            max(signal + ratio * max(total / self.counted - signal, 0.0), 0.0) for total in (self.single, self.length)
        )
        return replace(
            self,
            batch=batch,
            count=0,
            window=0,
            reference=self.average,
            single=single * self.counted,
            length=length * self.counted,
        )


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of a functional on samples: permutations of all of them, one after another.

    Parameters
    ----------
    functional : Functional
    seed : int
    """

    functional: Functional
    seed: int
    _kept: dict[int, Index] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def size(self) -> int:
        """Number of samples."""
        return len(quadrature_of(self.functional))

    def _permutation(self, epoch: int) -> Index:
        if epoch not in self._kept:
            random = generator(self.seed, self.functional.space.dim, Purpose.BATCHES, epoch)
            self._kept.clear()
            self._kept[epoch] = random.permutation(self.size)
        return self._kept[epoch]

    def correlation(self, batch: int) -> float:
        """Return that of the derivatives of two batches of one permutation: what one has the other cannot have."""
        return -batch / (self.size - batch)

    def next(self, means: Means, count: int | None = None) -> tuple[Functional, Means]:
        """Return the functional on the next batch, and where the one after it begins."""
        count = min(means.batch if count is None else count, self.size)
        epoch, start = means.epoch, means.position
        if start + count > self.size:
            epoch, start = epoch + 1, 0
        index = self._permutation(epoch)[start : start + count]
        return on_samples(self.functional, index), replace(means, epoch=epoch, position=start + count)


def first_step(batch: Functional, here: Linearization, norm: Norm, means: Means) -> tuple[Means, int]:
    """Measure the curvature along steepest descent, by trial steps until it shows; return the number of them."""
    descent = norm.riesz(here.derivative)
    square = float(here.derivative @ descent)
    if square == 0.0:
        return replace(means.bent(1.0), step=LEAST), 0
    length = PROBE * (norm.norm(here.x) or 1.0) / math.sqrt(square)
    omega, trials = 0.0, 0
    while trials < PROBES:
        value = batch.value(here.x - length * descent)
        trials += 1
        if not math.isfinite(value):
            length *= 0.125
            continue
        omega = 2.0 * (value - here.value + length * square) / (length**2 * square)
        if omega * length > 0.5:
            break
        length *= 4.0
    omega = omega if omega > 0.0 else 1.0 / length
    return replace(means.bent(omega), step=LEAST / omega), trials
