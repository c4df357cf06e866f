"""Depth as an adaptive mesh: flows that are refined where estimates say so, against uniform depth and layer insertion.

    python tools/bench_depth.py localized --json
    python tools/bench_depth.py spirals --seeds 20 --json
    python tools/bench_depth.py all --quick

localized   A flow of width 4 whose weights change within four per cent of the time has to be found from 400 samples
            of it and a penalty on the distance to its weights, so that they are the solution.  The functional error is
            the functional less that on 1024 cells (at the teacher's means there, which is at most 1e-3 of it).  As the
            penalty knows the weights, it is from some ten cells on that of approximating them by constants: what is
            measured is whether estimates from samples and penalty put the cells where the best mesh has them.
spirals     Two spirals, 450 points for training, 150 for testing; a run that is not finite counts as wrong.
sincos      exp(-0.1 (x^2 + y^2)) sin x cos y on [-5, 5]^2, 1000 points for training, 500 for testing, width 8.
nested      Five levels from 2 to 32 cells, each begun with what the one before has found, against the finest from
            random weights; the problem of `localized` with a tenth of its penalty.

In all of them a level is solved by Levenberg-Marquardt; then the hierarchical estimate of the weight mesh and the
goal-oriented one of the steps are compared by `dnnfem.decide`, and cells or steps are marked and bisected.

cells_ratio, steps_ratio      localized: cells (steps) of the adaptive mesh with at most the error of the uniform mesh,
                              over those of the latter; median
error_ratio_random,           errors with random refinement (with the final mesh from random weights) over that of the
error_ratio_scratch           adaptive mesh with as many cells; medians
median_test_error, ...        spirals: part of the test points with the wrong label
sensli_..., adam_..., scratch_...   the same for SensLI's rule with gradient descent (see ``depth_peers.py``; double
                              layers, as many as 120 coefficients allow: two), Adam with its best rate and our solver
                              from random weights, both on the final architecture
median_test_mse               sincos: mean square error at the test points
random_features_mse,          as many coefficients: untrained neurons, all cells bisected, the final mesh from random
uniform_mse, scratch_mse      weights
dim_ratio_at_best_ablation    coefficients with which the adaptive run first had an error of at most the least of these,
                              over those at its end; these four over three seeds
value_ratio, work_ratio       nested: last value over that from scratch, gradients (in those of the finest level) over
                              those from scratch; medians
last_steps_over_first         steps on the last level over those on the first one
upper_quartile_...            of keys that have a goal
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import depth_peers
import numba
import numpy as np
import torch
from depth_problems import Localized, sincos, spirals
from threadpoolctl import threadpool_limits

import dnnfem as fem

Array = np.ndarray

THETA = 0.5
"""Part of squared indicators that is marked."""

SOLVE = 100
"""Steps of a solve."""

PENALTY = 1e-4
"""Weight of the penalty of the spirals, without which separable classes have infinite weights."""

UNIFORM_CELLS, LARGE = 64, 10**6
SECONDS = 60.0
ABLATED = 3
"""Seeds of `sincos` with ablations, which take twice the time of the run."""

MOST_DIM = {"spirals": 120, "sincos": 1000}
"""Coefficients beyond which meshes are not refined."""


@dataclass(frozen=True)
class Level:
    """Where a run stands after a solve."""

    space: fem.FlowSpace
    x: Array
    seconds: float


def solve(J: Any, x: Array, state: fem.State | None, tolerance: Any = 0.0, seconds: float = math.inf) -> fem.Result:
    """Take Levenberg-Marquardt steps."""
    return fem.trust_region(
        J, x, tolerance, state=state, curvature=True, max_steps=SOLVE, max_seconds=max(seconds, 0.0)
    )


def refined(J: Any, x: Array, most: int, rng: np.random.Generator | None = None) -> tuple[Any, Any] | None:
    """Return the next space and the transfer, None where nothing pays; with a generator cells are random ones."""
    space = J.space
    weights, states = fem.hierarchical(J, x), fem.goal_oriented(J, x, "states")
    decision = fem.decide({"weights": weights, "states": states}, tolerance=0.0, algebraic=0.0)
    if decision.part is None:
        return None
    if decision.part == "states":
        return fem.refine_states(space, states.cells[fem.dorfler(states.indicators, theta=THETA)])
    marked = fem.dorfler(weights.indicators, theta=THETA)
    if rng is not None:
        marked = rng.permutation(space.cells)[: len(marked)]
    allowed = (most - space.dim) // space.size
    best = marked[np.argsort(-weights.indicators[marked])][:allowed]
    return fem.bisect(space, best) if len(best) else None


# Localized weights


def localized_levels(case: Localized, refine: Any, done: Any) -> tuple[list[tuple[int, int, float]], fem.FlowSpace]:
    """Return cells, steps and functional error of all levels until they are `done`, and the last space."""
    space, state, levels = case.space(1, 1), None, []
    x = space.initial(case.seed)
    while True:
        J, tracking = case.functional(space)
        result = solve(J, x, state, 1e-6)
        error = J.value(result.x) + tracking.missed - case.least
        levels.append((space.cells, space.steps, error))
        if done(levels):
            return levels, space
        found = refine(J, result.x)
        if found is None:
            return levels, space
        space, P = found
        x, state = P(result.x), result.state


def scratch_error(case: Localized, space: fem.FlowSpace) -> float:
    """Return the functional error on a mesh from random weights."""
    J, tracking = case.functional(space)
    result = solve(J, space.initial(case.seed + 1000), None, 1e-6)
    return J.value(result.x) + tracking.missed - case.least


def localized(seed: int, quick: bool) -> dict[str, float]:
    """Refine adaptively, uniformly and at random."""
    case = Localized(seed)
    finest = 16 if quick else UNIFORM_CELLS
    uniform, _ = localized_levels(
        case, lambda J, x: fem.bisect(J.space, range(J.space.cells)), lambda levels: levels[-1][0] >= finest
    )
    cells, steps, wanted = uniform[-1]
    adaptive, space = localized_levels(
        case, lambda J, x: refined(J, x, LARGE), lambda levels: levels[-1][2] <= wanted or levels[-1][0] >= finest
    )
    last = adaptive[-1]
    rng = np.random.default_rng([seed, 3])
    random, _ = localized_levels(case, lambda J, x: refined(J, x, LARGE, rng), lambda levels: levels[-1][0] >= last[0])
    return {
        "cells_ratio": last[0] / cells if last[2] <= wanted else math.inf,
        "steps_ratio": last[1] / steps if last[2] <= wanted else math.inf,
        "uniform_error": wanted,
        "adaptive_error": last[2],
        "adaptive_cells": float(last[0]),
        "error_ratio_random": random[-1][2] / last[2],
        "error_ratio_scratch": scratch_error(case, space) / last[2],
    }


# Spirals


def penalized(problem: Any, space: fem.FlowSpace) -> fem.Sum:
    """Return misfit and penalty."""
    return fem.Sum(problem.on(space), fem.Tikhonov(space, fem.L2, PENALTY))


def wrong(problem: fem.Classification, space: Any, x: Array, points: Array, labels: Array) -> float:
    """Return the part of the points with a wrong label: all if the network is not finite."""
    if not np.isfinite(x).all():
        return 1.0
    logits = problem.solution(space, x)
    return float(np.mean(logits.labels(points) != labels)) if np.isfinite(logits(points)).all() else 1.0


def grown(make: Any, space: fem.FlowSpace, seed: int, most: int, seconds: float = math.inf) -> list[Level]:
    """Solve and refine until nothing pays any more."""
    began, state, levels = time.perf_counter(), None, []
    x = space.initial(seed)
    while True:
        J = make(space)
        result = solve(J, x, state, seconds=seconds - (time.perf_counter() - began))
        levels.append(Level(space, result.x, time.perf_counter() - began))
        if levels[-1].seconds >= seconds:
            return levels
        found = refined(J, result.x, most)
        if found is None:
            return levels
        space, P = found
        x, state = P(result.x), result.state


def spirals_run(seed: int, quick: bool) -> dict[str, Any]:
    """Grow a flow of width 4, then train its architecture otherwise."""
    points, labels, others, right = spirals(seed)
    problem = fem.Classification(points, labels)
    make = partial(penalized, problem)
    levels = grown(make, fem.FlowSpace.uniform(2, 4, 2, 1, 8), seed, MOST_DIM["spirals"])
    last = levels[-1]

    def error(space: Any, x: Array) -> float:
        return wrong(problem, space, x, others, right)

    found: dict[str, Any] = {"test_error": error(last.space, last.x), "dim": last.space.dim, "seconds": last.seconds}
    found["cells"] = last.space.cells
    start = last.space.initial(seed + 1000)
    found["scratch"] = error(last.space, solve(make(last.space), start, None).x)
    rates = slice(1, 2) if quick else slice(None)
    found["adam"] = {
        rate: error(last.space, depth_peers.adam(make(last.space), start, rate))
        for rate in depth_peers.ADAM_RATES[rates]
    }
    first = fem.FlowSpace.uniform(2, 4, 2, 1, scheme="euler", field=fem.DoubleLayer(4))
    found["sensli"] = {
        rate: error(*depth_peers.sensli(make, first, seed, rate, MOST_DIM["spirals"]))
        for rate in depth_peers.DESCENT_RATES[rates]
    }
    return found


# Regression


def features_mse(problem: fem.Regression, dim: int, seed: int, mse: Any) -> float:
    """Return the error of untrained neurons, the best of three scales."""
    space = fem.FeedforwardSpace(2, ((dim - 1) // 4,), 1)
    best = math.inf
    for scale in (0.5, 1.0, 3.0):
        x = space.initial(seed)
        x[: space.blocks[0].stop] *= scale
        reduced = fem.condense(problem.on(space))
        best = min(best, mse(space, reduced.expand(x[reduced.inner])))
    return best


def sincos_run(seed: int, quick: bool) -> dict[str, float]:
    """Grow a flow of width 8 for its time, and ablations for as long."""
    random = np.random.default_rng(seed)
    points, others = random.uniform(-5.0, 5.0, (1000, 2)), random.uniform(-5.0, 5.0, (500, 2))
    problem, right = fem.Regression(points, sincos(points)), sincos(others)
    seconds = 5.0 if quick else SECONDS

    def mse(space: Any, x: Array) -> float:
        found = float(np.mean((problem.solution(space, x)(others) - right) ** 2))
        return found if math.isfinite(found) else math.inf

    start = fem.FlowSpace.uniform(2, 8, 1, 1, 8, encoder="affine")
    levels = grown(problem.on, start, seed, MOST_DIM["sincos"], seconds)
    last, errors = levels[-1], [mse(level.space, level.x) for level in levels]
    found = {"test_mse": errors[-1], "seconds": last.seconds, "dim": float(last.space.dim)}
    found["cells"] = float(last.space.cells)
    if seed >= ABLATED:
        return found
    found["random_features_mse"] = features_mse(problem, last.space.dim, seed, mse)
    space, state, began = start, None, time.perf_counter()
    x = space.initial(seed)
    while True:
        result = solve(problem.on(space), x, state, seconds=seconds - (time.perf_counter() - began))
        x, state = result.x, result.state
        if time.perf_counter() - began >= seconds:
            break
        if space.cells < last.space.cells:
            space, P = fem.bisect(space, range(min(space.cells, last.space.cells - space.cells)))
            x = P(x)
    found["uniform_mse"] = mse(space, x)
    scratch = fem.trust_region(
        problem.on(last.space),
        last.space.initial(seed + 1000),
        0.0,
        curvature=True,
        max_steps=10**6,
        max_seconds=seconds,
    )
    found["scratch_mse"] = mse(last.space, scratch.x)
    best = min(found[key] for key in ("random_features_mse", "uniform_mse", "scratch_mse"))
    dims = [level.space.dim for level, error in zip(levels, errors, strict=True) if error <= best]
    found["dim_ratio"] = dims[0] / last.space.dim if dims else math.inf
    return found


# Nested iteration

LEVELS, MOST_STEPS, SHARE, WEAK = 5, 1000, 0.3, 1e-3
"""Number of levels, most steps of a solve, part of an estimate that the next solve may leave, and the weight of the
penalty: with a tenth of that of `localized`, random weights are far from the solution."""


def nested_run(seed: int, quick: bool) -> dict[str, float]:
    """Solve on 2, 4, 8, 16 and 32 cells with as many steps, and on 32 from the same random weights.

    A level is solved until what is left is three tenths of what the estimate of the level before has promised it, the
    first one to a thousandth of its derivative.  From random weights the finest is solved to the same tolerance.
    """
    case, levels = Localized(seed, WEAK), 3 if quick else LEVELS
    cells = [2 ** (number + 1) for number in range(levels)]
    space, state, work, counts, tolerance = case.space(cells[0], cells[0]), None, 0.0, [], fem.relative(1e-3)
    x = space.initial(seed)
    for count in cells:
        J, tracking = case.functional(space)
        result = fem.trust_region(J, x, tolerance, state=state, curvature=True, max_steps=MOST_STEPS)
        # Gradients are counted in those of the finest level.
        work += result.steps[-1].work * count / cells[-1]
        counts.append(result.steps[-1].number)
        if count < cells[-1]:
            tolerance = SHARE * fem.hierarchical(J, result.x).parts["weights"]
            space, P = fem.bisect(space, range(space.cells))
            x, state = P(result.x), result.state
    start = space.initial(seed)
    scratch = fem.trust_region(J, start, tolerance, curvature=True, max_steps=MOST_STEPS)
    return {
        "value_ratio": (J.value(result.x) + tracking.missed) / (J.value(scratch.x) + tracking.missed),
        "work_ratio": work / scratch.steps[-1].work,
        "last_steps_over_first": counts[-1] / counts[0],
        "last_steps": float(counts[-1]),
        "scratch_steps": float(scratch.steps[-1].number),
    }


RUNS = {"localized": localized, "spirals": spirals_run, "sincos": sincos_run, "nested": nested_run}
SEEDS = {"localized": 5, "spirals": 20, "sincos": 10, "nested": 20}
GOALS = {
    "localized": {"cells_ratio": 0.33, "steps_ratio": 0.5},
    "spirals": {
        "median_test_error": 0.0,
        "upper_quartile_test_error": 0.0067,
        "median_dim": 120,
        "median_seconds": 10.0,
    },
    "sincos": {"median_test_mse": 1e-7, "median_seconds": SECONDS},
    "nested": {"value_ratio": 1.0, "work_ratio": 0.33, "last_steps_over_first": 0.2},
}


def quantile(values: list[float], level: float = 0.5) -> float | None:
    """Return a quantile; None, as JSON has no infinity, if it is not finite."""
    found = float(np.quantile(values, level, method="higher"))
    return found if math.isfinite(found) else None


def summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and quartiles."""
    line: dict[str, Any] = {"problem": name, "seeds": len(runs)}
    median = lambda key: quantile([run[key] for run in runs])  # noqa: E731
    if name in ("localized", "nested"):
        quartiles = {f"upper_quartile_{key}": quantile([run[key] for run in runs], 0.75) for key in GOALS[name]}
        return line | {key: median(key) for key in runs[0]} | quartiles
    line |= {"median_seconds": median("seconds"), "median_dim": median("dim"), "median_cells": median("cells")}
    if name == "sincos":
        line |= {"median_test_mse": median("test_mse")}
        line["upper_quartile_test_mse"] = quantile([run["test_mse"] for run in runs], 0.75)
        ablated = runs[:ABLATED]
        for key in ("random_features_mse", "uniform_mse", "scratch_mse"):
            line[key] = quantile([run[key] for run in ablated])
        return line | {"dim_ratio_at_best_ablation": quantile([run["dim_ratio"] for run in ablated])}
    errors = {"": [run["test_error"] for run in runs], "scratch_": [run["scratch"] for run in runs]}
    for peer in ("adam", "sensli"):
        by_rate = {rate: [run[peer][rate] for run in runs] for rate in runs[0][peer]}
        best = min(by_rate, key=lambda rate: (np.median(by_rate[rate]), np.mean(by_rate[rate])))
        errors[f"{peer}_"], line[f"{peer}_rate"] = by_rate[best], best
    for who, values in errors.items():
        line[f"{who}median_test_error"] = quantile(values)
        line[f"{who}upper_quartile_test_error"] = quantile(values, 0.75)
        line[f"{who}diverged"] = sum(value == 1.0 for value in values)
    return line


def run(name: str, seed: int, quick: bool, threads: int) -> dict[str, Any]:
    """Run a problem with one seed."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    with threadpool_limits(threads):
        return RUNS[name](seed, quick)


def main() -> None:
    """Run the chosen problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=[*RUNS, "all"], nargs="?", default="all")
    parser.add_argument("--seeds", type=int, help="default 5, 20, 10 and 20")
    parser.add_argument("--quick", action="store_true", help="one seed, smaller problems")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    options = parser.parse_args()
    lines = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for name in RUNS if options.problem == "all" else [options.problem]:
            count = 1 if options.quick else options.seeds or SEEDS[name]
            waiting = [pool.submit(run, name, seed, options.quick, options.threads) for seed in range(count)]
            runs = []
            for seed, future in enumerate(waiting):
                runs.append(future.result())
                print(f"{name}, seed {seed}: " + ", ".join(f"{k} {_short(v)}" for k, v in runs[-1].items()), flush=True)
            lines.append(summary(name, runs))
            for key, goal in GOALS[name].items():
                print(f"{name}: {key} {_short(lines[-1][key])}, goal {goal:g}", flush=True)
    if options.json:
        print(json.dumps(lines[0] if len(lines) == 1 else {"problems": lines}))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "/".join(f"{item:.3g}" for item in value.values())
    return "none" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
