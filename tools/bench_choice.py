"""Which solver when: all of them on four problems, from the same starting points.

    python tools/bench_choice.py --json
    python tools/bench_choice.py --quick

fit             2000 noisy samples of Franke's function, 2-40-1, with weight decay
classification  three of ten digits by 1000 images, 64-16-3, with weight decay
equation        Poisson's equation, 2-20-20-1
flow            400 samples of a flow whose weights jump, 32 cells, with a penalty in L2
many            100 000 samples in ten inputs, 10-40-1, with weight decay

A run is stopped after its time.  What counts is the value after an eighth of it and at its end, over the least value
that any of the runs has found from the same start: solvers find different minima.  Medians over the seeds.

PROBLEM_SOLVER_early, PROBLEM_SOLVER_late    null for a solver that refuses the problem
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from depth_problems import Localized
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import dnnfem as fem
from dnnfem.norms import kronecker, weight_decay

Array = np.ndarray

EARLY = 1.0 / 8.0
"""Part of the time after which values are compared first."""

UNLIMITED = 10**6


def franke(p: Array) -> Array:
    """Return Franke's function at points (m, 2) of the unit square."""
    x, y = 9.0 * p[:, 0], 9.0 * p[:, 1]
    return (
        0.75 * np.exp(-((x - 2) ** 2 + (y - 2) ** 2) / 4)
        + 0.75 * np.exp(-((x + 1) ** 2) / 49 - (y + 1) / 10)
        + 0.5 * np.exp(-((x - 7) ** 2 + (y - 3) ** 2) / 4)
        - 0.2 * np.exp(-((x - 4) ** 2) - (y - 7) ** 2)
    )


def decayed(problem: Any, space: fem.FeedforwardSpace, weight: float, seed: int) -> tuple[Any, Array]:
    """Return a functional with weight decay, and a start."""
    return fem.Sum(problem.on(space), fem.Tikhonov(space, weight_decay, weight)), space.initial(seed)


def fit(seed: int) -> tuple[Any, Array]:
    """Return functional and start of the regression."""
    random = np.random.default_rng(seed)
    points = random.uniform(0.0, 1.0, (2000, 2))
    problem = fem.Regression(points, franke(points) + 0.02 * random.standard_normal(2000))
    return decayed(problem, fem.FeedforwardSpace(2, (40,), 1), 1e-6, seed)


def classification(seed: int) -> tuple[Any, Array]:
    """Return functional and start of the classification."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(seed).permutation(len(images))[:1000]
    problem = fem.Classification(images[chosen], labels[chosen] % 3)
    return decayed(problem, fem.FeedforwardSpace(64, (16,), 3), 1e-4, seed)


def equation(seed: int) -> tuple[Any, Array]:
    """Return functional and start of the differential equation."""
    pi = math.pi
    problem = fem.Collocation(
        lambda p, u: u.laplacian + 5.0 * pi**2 * torch.sin(pi * p.x[0]) * torch.sin(2.0 * pi * p.x[1]),
        fem.Box([0.0, 0.0], [1.0, 1.0]),
        dirichlet=0.0,
    )
    space = fem.FeedforwardSpace(2, (20, 20), 1)
    return problem.on(space), space.initial(seed)


def flow(seed: int) -> tuple[Any, Array]:
    """Return functional and start of the flow."""
    case = Localized(seed)
    space = case.space(32, 32)
    return fem.Sum(case.problem.on(space), fem.Tikhonov(space, fem.L2, 1e-4)), space.initial(seed)


def many(seed: int) -> tuple[Any, Array]:
    """Return functional and start of the large regression."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, (100_000, 10))
    values = np.sin(2.0 * points @ random.standard_normal(10)) + 0.05 * random.standard_normal(len(points))
    return decayed(fem.Regression(points, values), fem.FeedforwardSpace(10, (40,), 1), 1e-6, seed)


PROBLEMS = {"fit": fit, "classification": classification, "equation": equation, "flow": flow, "many": many}

Solver = Callable[..., fem.Result]

SOLVERS: dict[str, Solver] = {
    "gauss_newton": lambda J, x, **limits: fem.gauss_newton(J, x, 0.0, **limits),
    "levenberg_marquardt": lambda J, x, **limits: fem.trust_region(J, x, 0.0, curvature=True, **limits),
    "trust_region": lambda J, x, **limits: fem.trust_region(J, x, 0.0, dense=False, **limits),
    "trust_region_kronecker": lambda J, x, **limits: fem.trust_region(
        J, x, 0.0, dense=False, curvature=True, norm=kronecker(J), **limits
    ),
    "newton": lambda J, x, **limits: fem.newton(J, x, 0.0, curvature=True, **limits),
    "stochastic": lambda J, x, **limits: fem.stochastic(J, x, 0.0, **limits),
}


def run(name: str, seed: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Return the ratios of each solver to the least value, early and at the end; NaN for one that refuses."""
    J, x = PROBLEMS[name](seed)
    J.linearize(x).hessian(x)
    tables: dict[str, Any] = {}
    for solver, solve in SOLVERS.items():
        try:
            result = solve(J, x, max_steps=UNLIMITED, max_seconds=seconds)
        except ValueError:
            continue
        values, times = result.steps.column("value"), result.steps.column("seconds")
        early = values[np.flatnonzero(times <= EARLY * seconds)[-1]]
        # Values of an eliminated output layer are those with the penalty of elimination.
        tables[solver] = float(early), J.value(result.x)
    least = min(late for _, late in tables.values() if math.isfinite(late))
    refused = (math.nan, math.nan)
    return {solver: tuple(value / least for value in tables.get(solver, refused)) for solver in SOLVERS}


def main() -> None:
    """Run the chosen problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=[*PROBLEMS, "all"], nargs="?", default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--quick", action="store_true", help="one problem and seed, two seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    options = parser.parse_args()
    names = list(PROBLEMS) if options.problem == "all" else [options.problem]
    names, seeds, seconds = (names[:1], 1, 2.0) if options.quick else (names, options.seeds, options.seconds)
    keys: dict[str, float | None] = {}
    with threadpool_limits(1):
        for name in names:
            runs = [run(name, seed, seconds) for seed in range(seeds)]
            print(f"{name}: value over the least one, early and late")
            for solver in SOLVERS:
                middle = [statistics.median_high([row[solver][k] for row in runs]) for k in (0, 1)]
                print(f"  {solver:24} {middle[0]:9.3g} {middle[1]:9.3g}", flush=True)
                for what, value in zip(("early", "late"), middle, strict=True):
                    keys[f"{name}_{solver}_{what}"] = value if math.isfinite(value) else None
    if options.json:
        print(json.dumps(keys))


if __name__ == "__main__":
    main()
