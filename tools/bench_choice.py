"""Which solver when: all of them on five problems, from the same starting points.

    python tools/bench_choice.py --json
    python tools/bench_choice.py --quick

fit             2000 noisy samples of Franke's function, 2-40-1, with weight decay
classification  three of ten digits by 1000 images, 64-16-3, with weight decay
equation        Poisson's equation, 2-20-20-1
flow            400 samples of a flow whose weights jump, 32 cells, with a penalty in L2
many            100 000 samples in ten inputs, 10-40-1, with weight decay

A run is stopped after its time.  What counts is the value after an eighth of it and at its end, over the least value
that any of the runs has found from the same start: solvers find different minima.  Medians over the seeds.

A ``_penalty`` at the end of a name: steps are measured in the norm of the penalty, which also preconditions, and not in
that which a solver takes if none is given.  Newton's method and Levenberg-Marquardt steps are from dense matrices,
``_krylov`` says that they are not.  `multilevel` has levels of 4, 8, 16 and 32 cells and begins on the finest.

PROBLEM_SOLVER_early, PROBLEM_SOLVER_late    null for a solver that the problem is not for: it says so, or there is no
                                             penalty, or there are no levels
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numba
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

COARSER = (8, 4, 2, 1)
"""Cells of levels, in those of the finest."""


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

REFUSALS = (
    "functional: got one that is no sum of squares, expected residual laws",
    "functional: got one on .*, expected a space whose layers have biases and coefficients of their own",
)
"""What solvers and norms say of problems that they are not for, as patterns; any other error is one."""


class NotFor(Exception):
    """A solver needs what a problem does not have."""


def penalty(J: Any) -> Any:
    """Return the norm of the penalty of a functional."""
    norms = [term.norm for term in getattr(J, "terms", ()) if isinstance(term, fem.Tikhonov)]
    if not norms:
        raise NotFor
    return norms[0]


def multilevel(J: Any, x: Array, **limits: Any) -> fem.Result:
    """Begin on the finest of some levels."""
    space = J.space
    if not isinstance(space, fem.FlowSpace):
        raise NotFor
    meshes = [(space.weight_mesh[::k], space.state_mesh[::k]) for k in COARSER]
    spaces = [replace(space, weight_mesh=weights, state_mesh=states) for weights, states in meshes]
    transfers = [fem.prolongation(*pair) for pair in pairwise(spaces)]
    options = {"norm": penalty(J), "dense": False, "curvature": True}
    return fem.multilevel([J.on(space=level) for level in spaces], transfers, x, 0.0, **options, **limits)


def solver(method: Callable[..., fem.Result], norm: Callable[[Any], Any] | None = None, **options: Any) -> Solver:
    """Return a solver that goes on as long as it may."""

    def solve(J: Any, x: Array, **limits: Any) -> fem.Result:
        chosen = options if norm is None else {**options, "norm": norm(J)}
        return method(J, x, 0.0, **chosen, **limits)

    return solve


SOLVERS: dict[str, Solver] = {
    "gauss_newton": solver(fem.gauss_newton),
    "levenberg_marquardt": solver(fem.trust_region, curvature=True),
    "levenberg_marquardt_penalty": solver(fem.trust_region, penalty, curvature=True, dense=True),
    "trust_region": solver(fem.trust_region, dense=False),
    "trust_region_penalty": solver(fem.trust_region, penalty, dense=False),
    "trust_region_curvature_penalty": solver(fem.trust_region, penalty, dense=False, curvature=True),
    "trust_region_kronecker": solver(fem.trust_region, kronecker, dense=False, curvature=True),
    "cubic": solver(fem.cubic, dense=False),
    "cubic_penalty": solver(fem.cubic, penalty, dense=False),
    "newton": solver(fem.newton, curvature=True),
    "newton_krylov_penalty": solver(fem.newton, penalty, curvature=True, dense=False),
    "multilevel": multilevel,
    "stochastic": solver(fem.stochastic),
}


def run(name: str, seed: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Return the ratios of each solver to the least value, early and at the end; NaN if it is not for the problem."""
    J, x = PROBLEMS[name](seed)
    J.linearize(x).hessian(x)
    tables: dict[str, Any] = {}
    for solver, solve in SOLVERS.items():
        try:
            result = solve(J, x, max_steps=UNLIMITED, max_seconds=seconds)
        except NotFor:
            continue
        except ValueError as error:
            if not any(re.match(refusal, str(error)) for refusal in REFUSALS):
                raise
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
    parser.add_argument("--quick", action="store_true", help="one problem and seed, half a second")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    options = parser.parse_args()
    names = list(PROBLEMS) if options.problem == "all" else [options.problem]
    names, seeds, seconds = (names[:1], 1, 0.5) if options.quick else (names, options.seeds, options.seconds)
    keys: dict[str, float | None] = {}
    # The kernels have threads of their own.
    numba.set_num_threads(1)
    with threadpool_limits(1):
        for name in names:
            runs = [run(name, seed, seconds) for seed in range(seeds)]
            print(f"{name}: value over the least one, early and late")
            for solver in SOLVERS:
                middle = [statistics.median_high([row[solver][k] for row in runs]) for k in (0, 1)]
                print(f"  {solver:30} {middle[0]:9.3g} {middle[1]:9.3g}", flush=True)
                for what, value in zip(("early", "late"), middle, strict=True):
                    keys[f"{name}_{solver}_{what}"] = value if math.isfinite(value) else None
    if options.json:
        print(json.dumps(keys))


if __name__ == "__main__":
    main()
