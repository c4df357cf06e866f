"""Adaptive regression of given functions: test errors, coefficients, times, and three ablations at equal size.

    python tools/bench_regression.py --function sincos --seeds 10 --json
    python tools/bench_regression.py --data DIR --folds 3 --jobs 2 --json
    python tools/bench_regression.py --data DIR --folds 3 --coverage --json

The second form fits tables, see `tables.py` beside this file; the third one counts what the intervals of
`AdaptiveRegressor` cover on them, see `intervals.py`.  In the first form every run uses defaults only.  A seed
draws the sample and everything that is random in the method.  The ablations have as many coefficients as the adaptive
network, frozen ones counted:

random features   untrained neurons drawn as the candidates are, best of three scales of their weights, and one linear
                  least-squares solve
uniform           the same loop, with candidates added as they are drawn instead of those that the estimate marks
scratch           the same solver on the final architecture, from a random starting point

Errors are medians over the seeds of mean squares at fresh points; a run that fails counts as an infinite error.
`dim_ratio_at_best_ablation` is the median over the seeds of the number of coefficients at which the adaptive run first
reaches the best of the three ablations' errors of that seed, over the final number; it is 1 if only the final level
does, and infinite (null in JSON) if no level does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import intervals
import numpy as np
import tables

import dnnfem as fem
from dnnfem.spaces.feedforward import Neuron, ridges

Array = np.ndarray
Levels = list[tuple[int, float]]


@dataclass(frozen=True)
class Function:
    """A function to be fitted on a box, with sample sizes and the largest number of coefficients."""

    value: Callable[[Array], Array]
    box: tuple[float, float]
    dimension: int
    training: int
    limit: int
    goal: float


def sincos(p: Array) -> Array:
    """The regression example of arXiv 2607.07637."""
    return np.exp(-0.1 * (p[:, 0] ** 2 + p[:, 1] ** 2)) * np.sin(p[:, 0]) * np.cos(p[:, 1])


def bump(p: Array) -> Array:
    """A narrow Gaussian on a saddle."""
    square = (p[:, 0] - 0.3) ** 2 + (p[:, 1] + 0.2) ** 2
    return np.exp(-square / (2 * 0.2**2)) + p[:, 0] * p[:, 1]


def ridge5(p: Array) -> Array:
    """Two ridge functions in five dimensions."""
    a = np.array([1.0, 2.0, -1.0, 2.0, 1.0]) / np.sqrt(11.0)
    b = np.array([2.0, -1.0, 1.0, 1.0, -2.0]) / np.sqrt(11.0)
    return np.tanh(8 * p @ a) + np.sin(3 * p @ b)


FUNCTIONS = {
    "sincos": Function(sincos, (-5.0, 5.0), 2, 1000, 400, 1e-9),
    "bump": Function(bump, (-1.0, 1.0), 2, 2000, 250, 1e-8),
    "ridge5": Function(ridge5, (-1.0, 1.0), 5, 4000, 200, 1e-10),
}
FIRST_WIDTH = 6
LEVEL_STEPS, FINAL_STEPS = 20, 100
TEST_POINTS = 500


@dataclass(frozen=True)
class Data:
    """One draw of the data."""

    function: Function
    problem: fem.Regression
    test: Array
    values: Array
    seed: int

    @classmethod
    def draw(cls, function: Function, seed: int) -> Data:
        """Draw training and test points."""
        random = np.random.default_rng(seed)
        points = random.uniform(*function.box, (function.training, function.dimension))
        test = random.uniform(*function.box, (TEST_POINTS, function.dimension))
        return cls(function, fem.Regression(points, function.value(points)), test, function.value(test), seed)

    def error(self, space: fem.FeedforwardSpace, x: Array) -> float:
        """Return the mean square error at the test points."""
        error = float(np.mean((self.problem.solution(space, x)(self.test)[:, 0] - self.values) ** 2))
        return error if math.isfinite(error) else math.inf

    def largest(self) -> fem.FeedforwardSpace:
        """Return the largest space that the limit allows."""
        d = self.function.dimension
        return fem.FeedforwardSpace(d, ((self.function.limit - 1) // (d + 2),), 1)


def grow(data: Data, adaptive: bool = True) -> Levels:
    """Run the loop to the limit; return coefficients and test error of every level."""
    problem, last = data.problem, data.largest()
    space = fem.FeedforwardSpace(data.function.dimension, (FIRST_WIDTH,), 1)
    x, state, previous = space.initial(seed=data.seed), None, None
    path: Levels = []
    while True:
        J = problem.on(space)
        final = space == last
        # The last level is solved to where its own estimate would not see the difference, all others to a tenth of
        # the error that the level before was estimated to have.
        tolerance = (1e-3 if final else 0.1) * previous.total if previous else fem.relative(1e-2)
        result = fem.gauss_newton(J, x, tolerance, state=state, max_steps=FINAL_STEPS if final else LEVEL_STEPS)
        path.append((space.dim, data.error(space, result.x)))
        if final:
            return path
        room = last.hidden[0] - space.hidden[0]
        candidates = fem.ridge_candidates(space, problem.quadrature, seed=data.seed)
        estimate = fem.hierarchical(J, result.x, candidates)
        neurons = list(estimate.cells[fem.dorfler(estimate.indicators, theta=1.0)])[:room]
        if not adaptive:
            neurons = candidates.draw(problem.ansatz.reference, result.x)[: len(neurons)]
        space, P = fem.widen(space, neurons)
        x, state, previous = P(result.x), result.state, estimate


def random_features(data: Data) -> float:
    """Return the best error of untrained features of three scales, with one linear solve."""
    space, best = data.largest(), math.inf
    points = data.problem.ansatz.reference(data.problem.quadrature.points)
    for scales in ((0.5, 1.5), (1.0, 3.0), (2.0, 6.0)):
        random = np.random.default_rng((data.seed, 1))
        centers = points[random.integers(len(points), size=space.hidden[0])]
        weights, bias = ridges(random, centers, scales)
        neurons = [Neuron(0, w, b) for w, b in zip(weights[1:], bias[1:], strict=True)]
        start = fem.FeedforwardSpace(data.function.dimension, (1,), 1)
        first = np.concatenate([weights[0], bias[:1], np.zeros(2)])
        wide, P = fem.widen(start, neurons)
        reduced = fem.condense(data.problem.on(wide))
        best = min(best, data.error(wide, reduced.expand(P(first)[reduced.inner])))
    return best


def scratch(data: Data) -> float:
    """Return the error of the final architecture, solved from a random starting point."""
    space = data.largest()
    x = space.initial(seed=data.seed)
    return data.error(space, fem.gauss_newton(data.problem.on(space), x, 1e-12, max_steps=FINAL_STEPS).x)


@dataclass(frozen=True)
class Run:
    """What one seed gave."""

    path: Levels
    seconds: float
    random: float
    uniform: float
    scratch: float

    @property
    def error(self) -> float:
        """Test error of the last level."""
        return self.path[-1][1]

    @property
    def ratio(self) -> float:
        """Coefficients that reach the best ablation, over the last number."""
        best = min(self.random, self.uniform, self.scratch)
        reached = [dim for dim, error in self.path if error <= best]
        return min(reached) / self.path[-1][0] if reached else math.inf


def guarded(compute: Callable[[], float]) -> float:
    """Return infinity for a run that fails: it counts as wrong, not as missing."""
    try:
        return compute()
    except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        print(f"  failed: {error}", file=sys.stderr)
        return math.inf


def run(function: Function, seed: int) -> Run:
    """Run the adaptive loop and its ablations on one draw of the data."""
    data = Data.draw(function, seed)
    path: Levels = []

    def adaptive() -> float:
        path.extend(grow(data))
        return path[-1][1]

    began = time.perf_counter()
    if not math.isfinite(guarded(adaptive)):
        path.append((data.largest().dim, math.inf))
    seconds = time.perf_counter() - began
    uniform = guarded(lambda: grow(data, adaptive=False)[-1][1])
    return Run(path, seconds, guarded(lambda: random_features(data)), uniform, guarded(lambda: scratch(data)))


def quantile(values: Array, level: float) -> float:
    """Return a quantile that is one of the values: the worse one where two are as near, so that infinity may occur."""
    return float(np.quantile(values, level, method="higher"))


def report(name: str, runs: list[Run]) -> dict[str, float | str | int]:
    """Print the table and return the keys of the JSON line."""
    function = FUNCTIONS[name]
    errors = np.array([r.error for r in runs])
    print(f"\n{name}: {function.training} training points, at most {function.limit} coefficients, {len(runs)} seeds")
    print(f"{'test mean square error':28s} {'lower':>9s} {'median':>9s} {'upper':>9s}")
    rows = {
        "adaptive": errors,
        "random features": np.array([r.random for r in runs]),
        "uniform refinement": np.array([r.uniform for r in runs]),
        "final size from scratch": np.array([r.scratch for r in runs]),
    }
    for label, values in rows.items():
        lower, median, upper = (quantile(values, level) for level in (0.25, 0.5, 0.75))
        print(f"{label:28s} {lower:9.1e} {median:9.1e} {upper:9.1e}")
    ratio = quantile(np.array([r.ratio for r in runs]), 0.5)
    reached = f"{ratio:.2f}" if math.isfinite(ratio) else "not reached"
    print(f"goal: median {function.goal:.0e}; coefficients at the best ablation's error, relative: {reached}")
    levels = " ".join(f"{dim}:{error:.1e}" for dim, error in runs[0].path)
    print(f"levels of the first seed (coefficients:error): {levels}")
    return {
        "function": name,
        "seeds": len(runs),
        "median_test_mse": quantile(errors, 0.5),
        "upper_quartile_test_mse": quantile(errors, 0.75),
        "median_dim": float(np.median([r.path[-1][0] for r in runs])),
        "median_seconds": float(np.median([r.seconds for r in runs])),
        "random_features_mse": quantile(rows["random features"], 0.5),
        "uniform_mse": quantile(rows["uniform refinement"], 0.5),
        "scratch_mse": quantile(rows["final size from scratch"], 0.5),
        # JSON knows no infinity: null says that the ablation's error was not reached.
        "dim_ratio_at_best_ablation": ratio if math.isfinite(ratio) else None,
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--function", choices=[*FUNCTIONS, "all"], default="all")
    parser.add_argument("--data", type=Path, help="folder with one folder per table: data.csv.gz, test_mask.csv.gz")
    parser.add_argument("--folds", type=int, default=3, help="with --data: the first columns of the test masks")
    parser.add_argument("--sets", help="with --data: names of some tables, separated by commas; default all")
    parser.add_argument("--jobs", type=int, default=1, help="with --data: processes, each with one thread")
    parser.add_argument("--coverage", action="store_true", help="with --data: intervals, without peers and ablations")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two seeds and half the coefficients, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line per function, last")
    options = parser.parse_args()
    if options.data is not None:
        names = options.sets and options.sets.split(",")
        (intervals if options.coverage else tables).main(options.data, names, options.folds, options.jobs, options.json)
        return
    lines = []
    for name in FUNCTIONS if options.function == "all" else [options.function]:
        function = FUNCTIONS[name]
        if options.quick:
            function = replace(function, limit=function.limit // 2)
        runs = []
        for seed in range(2 if options.quick else options.seeds):
            runs.append(run(function, seed))
            last = runs[-1]
            print(
                f"{name} seed {seed}: {last.path[-1][0]} coefficients, mse {last.error:.1e}, {last.seconds:.1f} s; "
                f"random {last.random:.1e}, uniform {last.uniform:.1e}, scratch {last.scratch:.1e}",
                flush=True,
            )
        lines.append(report(name, runs))
    if options.json:
        for line in lines:
            print(json.dumps(line))


if __name__ == "__main__":
    main()
