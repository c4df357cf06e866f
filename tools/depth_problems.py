"""What ``bench_depth.py`` solves: data sets, a flow that is known, and the penalty that makes it the solution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import dnnfem as fem

Array = np.ndarray
WIDTH, T, SAMPLES = 4, 2.0, 400
CENTRE, LAYER = 0.7 * T, 0.02 * T
ALPHA = 1e-2
FINEST = 1024


def spirals(seed: int) -> tuple[Array, Array, Array, Array]:
    """Return two spirals of 300 points each, three fourths for training: points and labels, then those for testing."""
    number = np.arange(1, 301)
    angle, radius = 2.0 * math.pi * number / 300.0, 0.5 + number / 300.0
    one = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    points, labels = np.vstack([one, -one]), np.repeat([0, 1], 300)
    order = np.random.default_rng(seed).permutation(600)
    train, test = order[:450], order[450:]
    return points[train], labels[train], points[test], labels[test]


def sincos(points: Array) -> Array:
    """Return ``exp(-0.1 (x^2 + y^2)) sin x cos y``, shape (m, 1)."""
    value = np.exp(-0.1 * np.sum(points**2, axis=1)) * np.sin(points[:, 0]) * np.cos(points[:, 1])
    return value[:, None]


@dataclass(frozen=True)
class Teacher:
    """The flow ``z' = tanh(W z + b)``, ``(W, b) = theta_0 + theta_1 tanh((t - 0.7 T) / (0.02 T))``, of width 4."""

    seed: int

    @cached_property
    def parts(self) -> Array:
        """``theta_0, theta_1``, standard normal over two, shape (2, 20)."""
        return np.random.default_rng([self.seed, 1]).standard_normal((2, WIDTH * (WIDTH + 1))) / 2.0

    def theta(self, t: Array) -> Array:
        """Return theta at times (n,), shape (n, 20)."""
        return self.parts[0] + np.multiply.outer(np.tanh((t - CENTRE) / LAYER), self.parts[1])

    def __call__(self, points: Array, steps: int = 4000) -> Array:
        """Return the states at the end, by the classical Runge-Kutta method."""

        def field(z: Array, t: float) -> Array:
            theta = self.theta(np.array([t]))[0]
            return np.tanh(z @ theta[: WIDTH**2].reshape(WIDTH, WIDTH).T + theta[WIDTH**2 :])

        z, h = points, T / steps
        for k in range(steps):
            t = k * h
            k1 = field(z, t)
            k2 = field(z + 0.5 * h * k1, t + 0.5 * h)
            k3 = field(z + 0.5 * h * k2, t + 0.5 * h)
            z = z + h / 6.0 * (k1 + 2.0 * (k2 + k3) + field(z + h * k3, t + h))
        return z

    def means(self, mesh: Array) -> tuple[Array, float]:
        """Return the means of theta over cells, (cells, 20), and ``int |theta - mean|^2 dt`` over all of them.

        Antiderivatives are known: ``int tanh s = log cosh s`` and ``int tanh^2 s = s - tanh s``.
        """
        h, s = np.diff(mesh), (np.asarray(mesh) - CENTRE) / LAYER
        first = LAYER * np.diff(np.logaddexp(s, -s)) / h
        second = LAYER * np.diff(s - np.tanh(s)) / h
        variance = float(np.sum(h * np.maximum(second - first**2, 0.0))) * float(self.parts[1] @ self.parts[1])
        return self.parts[0] + np.multiply.outer(first, self.parts[1]), variance


@dataclass(frozen=True, eq=False)
class Tracking:
    """``alpha/2 int |theta - theta of the teacher|^2 dt``, and the same for the decoder: what makes it the solution.

    On a mesh it is the Tikhonov penalty around the means over its cells, and `missed`, which no theta can change.
    """

    space: fem.FlowSpace
    teacher: Teacher
    decoder: Array
    alpha: float = ALPHA

    @cached_property
    def _means(self) -> tuple[Array, float]:
        return self.teacher.means(np.array(self.space.weight_mesh))

    @property
    def missed(self) -> float:
        """What is left for the best theta of the mesh."""
        return 0.5 * self.alpha * self._means[1]

    @property
    def projected(self) -> Array:
        """The means over the cells, and the decoder."""
        x = np.zeros(self.space.dim)
        self.space.theta(x)[:] = self._means[0]
        x[self.space.theta_stop :] = self.decoder
        return x

    @cached_property
    def tikhonov(self) -> fem.Tikhonov:
        """The part that depends on theta."""
        return fem.Tikhonov(self.space, fem.L2, self.alpha, self.projected)

    @property
    def condensable(self) -> Any:
        """Everything."""
        return self.space.condensable

    def value(self, x: Array) -> float:
        """Return the part that depends on theta."""
        return self.tikhonov.value(x)

    def linearize(self, x: Array) -> Any:
        """Return value, derivative and products."""
        return self.tikhonov.linearize(x)

    def on(self, *, space: Any = None, quadrature: Any = None, transfer: Any = None) -> Tracking:
        """Return the same on another mesh."""
        return self if space is None else Tracking(space, self.teacher, self.decoder, self.alpha)


@dataclass(frozen=True, eq=False)
class Localized:
    """Samples of a teacher: its weights change within four per cent of the time."""

    seed: int
    alpha: float = ALPHA

    @cached_property
    def teacher(self) -> Teacher:
        """The flow."""
        return Teacher(self.seed)

    @cached_property
    def problem(self) -> fem.Regression:
        """Where it takes 400 random points."""
        points = np.random.default_rng([self.seed, 2]).uniform(-1.0, 1.0, (SAMPLES, WIDTH))
        return fem.Regression(points, self.teacher(points))

    def space(self, cells: int, steps: int) -> fem.FlowSpace:
        """Return a uniform space whose encoder undoes the scaling of the inputs."""
        ansatz = self.problem.ansatz
        encoder = np.column_stack([np.diag(ansatz.input_scale), ansatz.input_shift])
        return fem.FlowSpace.uniform(WIDTH, WIDTH, WIDTH, cells, steps, T, encoder=encoder)

    def functional(self, space: fem.FlowSpace) -> tuple[fem.Sum, Tracking]:
        """Return misfit and penalty, and the penalty alone."""
        ansatz = self.problem.ansatz
        decoder = np.append(np.diag(1.0 / ansatz.output_scale).ravel(), -ansatz.output_shift / ansatz.output_scale)
        tracking = Tracking(space, self.teacher, decoder, self.alpha)
        return fem.Sum(self.problem.on(space), tracking), tracking

    @cached_property
    def least(self) -> float:
        """The functional at the projected teacher on 1024 cells: at least the minimum there, at most 1e-3 of others."""
        space = self.space(FINEST, FINEST)
        J, tracking = self.functional(space)
        return J.value(tracking.projected) + tracking.missed
