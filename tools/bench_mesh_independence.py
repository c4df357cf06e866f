"""Whether the number of iterations depends on the mesh of time: a flow with 8 to 512 cells, graded towards its start.

    python tools/bench_mesh_independence.py --json

Flows of width 4 fit exp(-0.1 (x^2 + y^2)) sin x cos y at 100 points of [-2, 2]^2.  The penalty alpha/2 |theta|^2 is in
the norm in which steps are measured and which preconditions conjugate gradients: L2(0, 1) for piecewise constant
weights (alpha = 0.1), H1(0, 1) for piecewise linear ones (alpha = 0.01).  The nodes of N cells are (i/N)^3, and each
cell has four steps of Heun's method.  All levels begin with the same weights, constant in time.  They are solved by the
trust-region method with the full Hessian and truncated conjugate gradients until the dual norm has fallen to 1e-5 of
that at the start.  Seeds are data and starts.

newton_spread        Newton steps, most over least of all levels
cg_spread            iterations of `conjugate_gradients`, most over least of all levels, for the linearized problem at
                     the start: (C + alpha M) d = -J' with the curvature C of the fit, until the energy norm of the
                     error, bounded by means of alpha, is 1e-6 of that of the step
euclidean_cg_growth  the same without preconditioner, that on the finest mesh over that on the coarsest: iterations up
                     to the iterate whose error those after it show to be as small; at most 3000 are taken
time_exponent        slope of the logarithm of the time of a curvature product over that of the number of cells
discrepancy_spread   newton_spread for piecewise constant weights in L2 with alpha = 0.01, on the meshes up to 128 cells
                     (no goal): the second derivative in theta is not continuous in L2, and where the penalty does not
                     prevail the number of steps is not bounded

Spreads are the largest of both norms and all seeds, the growth the least, the exponent the larger of both norms.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from depth_problems import sincos

import dnnfem as fem
from dnnfem.solvers.conjugate_gradients import conjugate_gradients

Array = np.ndarray

WIDTH, STEPS, GRADING, POINTS = 4, 4, 3, 100
NEWTON, LINEAR = 1e-5, 1e-6
"""Relative tolerances: of the dual norm, and of the error in the energy norm."""

MOST_STEPS, MOST_ITERATIONS = 500, 3000
SECONDS, ROUNDS = 0.5, 4
"""Time for the products of one mesh, at least three of them, and how often all meshes have their turn."""

LARGEST_DISCREPANCY = 128
GOALS = {"newton_spread": 1.5, "cg_spread": 1.5, "euclidean_cg_growth": 5.0, "time_exponent": 1.1}


@dataclass(frozen=True)
class Case:
    """A degree of the weights with the norm of penalty, steps and preconditioner."""

    degree: int
    norm: Callable[[fem.FlowSpace], Any]
    alpha: float

    @property
    def name(self) -> str:
        """For people."""
        return f"P{self.degree} in {self.norm.__name__}, alpha {self.alpha:g}"

    def level(self, cells: int, seed: int) -> tuple[fem.Sum, Array]:
        """Return the functional on a graded mesh, and the start: weights that are constant in time."""
        points = np.random.default_rng(seed).uniform(-2.0, 2.0, (POINTS, 2))
        mesh = graded(cells)
        states = [np.linspace(a, b, STEPS, endpoint=False) for a, b in pairwise(mesh)]
        state_mesh = (*np.concatenate(states).tolist(), mesh[-1])
        space = fem.FlowSpace(2, WIDTH, 1, mesh, state_mesh, degree=self.degree, scheme="heun")
        J = fem.Sum(fem.Regression(points, sincos(points)).on(space), fem.Tikhonov(space, self.norm, self.alpha))
        return J, constant(space, seed)


CASES = (Case(0, fem.L2, 0.1), Case(1, fem.H1, 0.01))
DISCREPANT = Case(0, fem.L2, 0.01)


def graded(cells: int) -> tuple[float, ...]:
    """Return the nodes ``(i/N)^3``."""
    return tuple(((np.arange(cells + 1) / cells) ** GRADING).tolist())


def constant(space: fem.FlowSpace, seed: int) -> Array:
    """Return a start that is the same function of time on all meshes."""
    one = fem.FlowSpace(2, WIDTH, 1)
    drawn = one.initial(seed)
    x = np.empty(space.dim)
    space.theta(x)[:] = one.theta(drawn)[0]
    x[space.theta_stop :] = drawn[one.theta_stop :]
    return x


def newton(case: Case, cells: int, seed: int) -> fem.Result:
    """Solve on one mesh."""
    J, x = case.level(cells, seed)
    norm = case.norm(J.space)
    return fem.trust_region(J, x, fem.relative(NEWTON), norm=norm, dense=False, max_steps=MOST_STEPS)


def linear(case: Case, cells: int, seed: int, euclidean: bool = False) -> int:
    """Return the iterations for the linearized problem at the start."""
    J, x = case.level(cells, seed)
    here = J.linearize(x)
    # The penalty bounds the spectrum in its own norm only; without a bound, the error is known some iterations later.
    norm, bound = (fem.Euclidean(J.space), 0.0) if euclidean else (case.norm(J.space), case.alpha)
    step = conjugate_gradients(here.curvature, here.derivative, norm, LINEAR, MOST_ITERATIONS, bound)
    return step.iterations - step.delay if step.accurate else MOST_ITERATIONS


def product_seconds(case: Case, cells: int) -> float:
    """Return the lowest time of a curvature product."""
    J, x = case.level(cells, 0)
    here, times, began = J.linearize(x), [], time.perf_counter()
    here.curvature(x)
    while len(times) < 3 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        here.curvature(x)
        times.append(time.perf_counter() - start)
    return min(times)


def seconds_of(case: Case, meshes: Sequence[int]) -> list[float]:
    """Return the times on all meshes."""
    return [product_seconds(case, cells) for cells in meshes]


def spread(counts: Sequence[float]) -> float:
    """Return the largest over the least."""
    return max(counts) / min(counts)


def steps(case: Case, meshes: Sequence[int], seed: int) -> list[float]:
    """Return the Newton steps on all meshes; infinity where there was no convergence."""
    counts = []
    for cells in meshes:
        result = newton(case, cells, seed)
        counts.append(float(result.steps[-1].number) if result.status.converged else math.inf)
    return counts


def measured(case: Case, meshes: Sequence[int], seeds: int, rounds: int) -> dict[str, float]:
    """Print the counts of one norm, and return its worst ratios."""
    print(f"{case.name}: cells " + ", ".join(map(str, meshes)))
    found: dict[str, list[float]] = {"newton_spread": [], "cg_spread": [], "euclidean_cg_growth": []}
    for seed in range(seeds):
        newtons = steps(case, meshes, seed)
        linears = [linear(case, cells, seed) for cells in meshes]
        plain = [linear(case, cells, seed, euclidean=True) for cells in (meshes[0], meshes[-1])]
        found["newton_spread"].append(spread(newtons))
        found["cg_spread"].append(spread(linears))
        found["euclidean_cg_growth"].append(plain[1] / plain[0])
        print(f"  seed {seed}: Newton steps " + ", ".join(f"{n:g}" for n in newtons))
        print(f"          conjugate gradients {', '.join(map(str, linears))}; without norm {plain[0]}, {plain[1]}")
    times = [min(column) for column in zip(*(seconds_of(case, meshes) for _ in range(rounds)), strict=True)]
    print("  product, ms: " + ", ".join(f"{1e3 * t:.3g}" for t in times), flush=True)
    exponent = float(np.polyfit(np.log(meshes), np.log(times), 1)[0])
    worst = {key: min(values) if key == "euclidean_cg_growth" else max(values) for key, values in found.items()}
    return worst | {"time_exponent": exponent}


def main() -> None:
    """Run both norms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, 8 to 32 cells, times taken once")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    options = parser.parse_args()
    numba.set_num_threads(1)
    meshes = [2**k for k in range(3, 6 if options.quick else 10)]
    seeds = 1 if options.quick else options.seeds
    both = [measured(case, meshes, seeds, 1 if options.quick else ROUNDS) for case in CASES]
    line: dict[str, Any] = {
        key: (min if key == "euclidean_cg_growth" else max)(found[key] for found in both) for key in GOALS
    }
    weak = [steps(DISCREPANT, [n for n in meshes if n <= LARGEST_DISCREPANCY], seed) for seed in range(seeds)]
    print(f"{DISCREPANT.name}: Newton steps " + "; ".join(", ".join(f"{n:g}" for n in counts) for counts in weak))
    line["discrepancy_spread"] = max(map(spread, weak))
    for key, goal in GOALS.items():
        sign = ">" if key == "euclidean_cg_growth" else "at most"
        print(f"{key} {line[key]:.3g}, goal {sign} {goal:g}")
    if options.json:
        print(json.dumps({key: value if math.isfinite(value) else None for key, value in line.items()}))


if __name__ == "__main__":
    main()
