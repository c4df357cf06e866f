"""What norms are worth as preconditioners: ten ill-scaled problems for ``bench_solvers.py --preconditioning``.

A problem is taken where ten Levenberg-Marquardt steps have led.  There the Gauss-Newton equations are solved by
conjugate gradients, in the inner product of a norm, until the quadratic model has a hundredth of its decrease left:
the accuracy of the first steps of a trust-region method.  What is left is known from a dense solution.  Medians over
the seeds.

Euclidean    no preconditioner
Kronecker    `kronecker` as it is
pulled back  `pulled_back` from the space of functions that a problem is posed in, at few points: for regressions L2 at
             an eighth of the samples, for equations the seminorm of H1 at 256 points, which knows nothing of the
             equation; ``delta`` is 1e-4

geomean_cg_vs_euclidean, geomean_time_vs_euclidean    iterations, and time with what the norm takes, over those with the
                                                      Euclidean norm; geometric mean over problems and both norms
..._kronecker_vs_euclidean, ..._pullback_vs_...       of one norm; with ``_fits`` or ``_equations`` at the end, on the
                                                      regressions or the differential equations alone
worst_cg_kronecker_vs_euclidean, worst_cg_pullback_vs_euclidean    on the problem with the largest ratio
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.linalg
import torch

import dnnfem as fem
from dnnfem.norms import Euclidean, kronecker, pulled_back
from dnnfem.solvers.krylov import steihaug

Array = np.ndarray

LEFT = 1e-2
"""Part of the decrease that conjugate gradients may leave."""

MOST = 2**14
"""Iterations at most."""

WARM = 10
"""Levenberg-Marquardt steps to the point."""

FEWER, POINTS, DELTA = 8, 256, 1e-4
"""Samples over those that a pulled-back norm looks at, points of that of equations, and its regularization."""

NORMS = {"Kronecker": "kronecker", "pulled back": "pullback"}
"""What they are called in the keys."""

GOALS = {"geomean_cg_vs_euclidean": 0.2, "geomean_time_vs_euclidean": 1.0}


@dataclass(frozen=True)
class Fit:
    """A regression with a network whose layers are scaled."""

    inputs: int
    hidden: tuple[int, ...]
    samples: int
    function: Callable[[Array], Array]
    scales: tuple[float, ...] = (1.0,)
    activation: str = "tanh"

    def start(self, seed: int) -> tuple[Any, Array]:
        """Return functional and starting point."""
        random = np.random.default_rng(seed)
        points = random.uniform(-1.0, 1.0, (self.samples, self.inputs))
        problem = fem.Regression(points, self.function(points) + 0.01 * random.standard_normal(self.samples))
        space = fem.FeedforwardSpace(self.inputs, self.hidden, 1, activation=self.activation)
        x = space.initial(seed)
        for number, block in enumerate(space.blocks):
            x[block.start : block.bias_start] *= self.scales[number % len(self.scales)]
        return fem.Sum(problem.on(space), fem.Tikhonov(space, fem.Euclidean, 1e-6)), x

    def pulled(self, J: Any) -> Any:
        """Return the functional whose curvature is the mean square at some of the samples."""
        points = J.terms[0].quadrature.points[::FEWER]
        return fem.Regression(points, np.zeros(len(points))).on(J.space)


@dataclass(frozen=True)
class Equation:
    """A differential equation on the unit square, with zero boundary values."""

    law: Callable[[Any, Any], Any]

    def start(self, seed: int) -> tuple[Any, Array]:
        """Return functional and starting point."""
        problem = fem.Collocation(self.law, fem.Box([0.0, 0.0], [1.0, 1.0]), dirichlet=0.0)
        space = fem.FeedforwardSpace(2, (30, 30), 1)
        return fem.Sum(problem.on(space), fem.Tikhonov(space, fem.Euclidean, 1e-8)), space.initial(seed)

    def pulled(self, J: Any) -> Any:
        """Return the functional whose curvature is the seminorm of H1 of functions that vanish on the boundary."""
        energy = fem.Energy(lambda p, u: 0.5 * (u.grad**2).sum(0), fem.Box([0.0, 0.0], [1.0, 1.0]), dirichlet=0.0)
        some = np.random.default_rng(0).permutation(len(energy.quadrature))[:POINTS]
        return energy.on(J.space, energy.quadrature.subset(np.sort(some)))


def source(p: Any) -> Any:
    """Return ``sin(pi x) sin(pi y)``."""
    return torch.sin(math.pi * p.x[0]) * torch.sin(math.pi * p.x[1])


PROBLEMS: dict[str, Fit | Equation] = {
    "waves": Fit(2, (20, 20), 2000, lambda p: np.sin(4.0 * p[:, 0]) * p[:, 1]),
    "unbalanced layers": Fit(2, (20, 20), 2000, lambda p: np.sin(4.0 * p[:, 0]) * p[:, 1], (5.0, 0.2)),
    "one steep input": Fit(5, (30, 30), 3000, lambda p: np.tanh(20.0 * p[:, 0]) + 0.05 * np.sum(p[:, 1:], axis=1)),
    "ridge": Fit(5, (60,), 3000, lambda p: np.sin(6.0 * p @ np.array([1.0, 0.5, 0.25, 0.1, 0.05]))),
    "five layers": Fit(2, (16,) * 5, 1500, lambda p: np.abs(p[:, 0] - p[:, 1])),
    "peak": Fit(3, (30, 30), 2000, lambda p: np.exp(-8.0 * np.sum(p**2, axis=1)), activation="gelu"),
    "Poisson": Equation(lambda p, u: u.laplacian + 2.0 * math.pi**2 * source(p)),
    "Helmholtz": Equation(lambda p, u: u.laplacian + 36.0 * u.value - torch.exp(p.x[0]) * p.x[1]),
    "boundary layer": Equation(lambda p, u: -0.01 * u.laplacian + u.value - 1.0),
    "advection": Equation(lambda p, u: -0.02 * u.laplacian + u.d(0) - 1.0),
}


def iterations(curvature: Callable[[Array], Array], g: Array, norm: Any, least: float) -> int:
    """Return the number of iterations after which the model has fallen by `least`."""

    def enough(count: int) -> bool:
        return steihaug(curvature, g, norm, math.inf, 0.0, count).decrease >= least

    high = 1
    while high < MOST and not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def compare(name: str, seed: int) -> dict[str, tuple[int, float]]:
    """Return iterations and seconds, with what the norm takes, of three norms."""
    J, x = PROBLEMS[name].start(seed)
    x = fem.trust_region(J, x, 0.0, curvature=True, max_steps=WARM).x
    here = J.linearize(x)
    g, matrix = here.derivative, here.gram()
    least = (1.0 - LEFT) * 0.5 * float(g @ scipy.linalg.solve(matrix, g, assume_a="pos"))
    here.curvature(x)
    found = {}
    rules = {"Euclidean": lambda space, _: Euclidean(space), "Kronecker": kronecker(J)}
    rules["pulled back"] = pulled_back(PROBLEMS[name].pulled(J), DELTA)
    for kind, rule in rules.items():
        count = iterations(lambda v: matrix @ v, g, rule(J.space, here), least)
        # At a point that is new to everything.
        there = J.linearize(x + 0.0)
        there.derivative  # noqa: B018
        began = time.perf_counter()
        steihaug(there.curvature, g, rule(J.space, there), math.inf, 0.0, count)
        found[kind] = count, time.perf_counter() - began
    return found


def mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def report(seeds: int, quick: bool) -> dict[str, float]:
    """Print a table; return the keys of the JSON line."""
    numba.set_num_threads(1)
    names = list(PROBLEMS)[:: 6 if quick else 1]
    ratios: dict[tuple[str, str], dict[str, float]] = {
        (what, key): {} for what in ("cg", "time") for key in NORMS.values()
    }
    print(f"{'':18} iterations (seconds): Euclidean, {', '.join(NORMS)}")
    for name in names:
        rows = [compare(name, seed) for seed in range(1 if quick else seeds)]
        middle = {kind: [statistics.median(row[kind][k] for row in rows) for k in (0, 1)] for kind in rows[0]}
        print(f"{name:18} " + ", ".join(f"{count:g} ({seconds:.2f})" for count, seconds in middle.values()), flush=True)
        for kind, key in NORMS.items():
            for k, what in enumerate(("cg", "time")):
                ratios[what, key][name] = middle[kind][k] / middle["Euclidean"][k]
    keys = {}
    for (what, key), found in ratios.items():
        keys[f"geomean_{what}_{key}_vs_euclidean"] = mean(list(found.values()))
        for kind, ending in ((Fit, "fits"), (Equation, "equations")):
            own = [ratio for name, ratio in found.items() if isinstance(PROBLEMS[name], kind)]
            keys[f"geomean_{what}_{key}_vs_euclidean_{ending}"] = mean(own)
        if what == "cg":
            keys[f"worst_cg_{key}_vs_euclidean"] = max(found.values())
    for what in ("cg", "time"):
        keys[f"geomean_{what}_vs_euclidean"] = mean([r for key in NORMS.values() for r in ratios[what, key].values()])
    return keys
