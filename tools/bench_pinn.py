"""Differential equations: networks that grow until their residual stalls, against exact or reference solutions.

    python tools/bench_pinn.py poisson2d --seeds 5 --json
    python tools/bench_pinn.py all --quick

One loop serves all problems, with defaults only.  A level is solved; where the residual estimate sees more between the
points than at them, points are added there; where a level has gained less than a factor of two, the hierarchical
estimate adds neurons.  Laws that are affine in the solution are solved by Gauss-Newton on the condensed functional,
others by Levenberg-Marquardt.  A run ends with its time.  What is chosen for each problem is written in its definition:
the hidden layers that a run begins with, the number of time slabs, and whether conditions hold exactly.

Errors are relative L2 and root mean square at 10000 random points that no run sees.  Ablations have the same time and
as many coefficients: random features (best of three scales, output layer solved) and the final architecture from
scratch, both on the final points, and the same loop with random neurons.  With time slabs there are none, and
coefficients and points are those of all slabs.  Nor are there any for inverse problems, whose observations have another
draw of points and noise for each seed, and get their weight from `dnnfem.confidence` after every solve; neurons are
added only if it is not the noise that limits what is known of the unknowns.

median_rel_l2, median_rms, upper_quartile_rms   errors of the seeds
median_seconds, median_dim                      time of a run and coefficients at its end
random_features_rms, uniform_rms, scratch_rms   ablations, medians
parameter_error, interval_covers                of inverse problems: relative error of the worst unknown, median,
                                                and number of seeds whose 95 % intervals cover all of them
exact_parameter_error                           the former, of least squares with the exact solution: what noise allows
goal_rel_l2, goal_rms or goal_parameter_error   what the problem asks for
goal_seconds
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
import torch
from equations import CASES, Case
from threadpoolctl import threadpool_limits

import dnnfem as fem
from dnnfem.functionals import Composed

Array = np.ndarray
Start = tuple[fem.FeedforwardSpace, Array]
Values = Callable[[Array], Array]

STEPS = 30
"""Steps of a solve between two looks at the residual."""

FAST = 0.7
"""A level of a network with several layers goes on as long as a solve leaves at most this part of the residual, or the
points have changed; one with a single layer, where new neurons are found in no time, ends with its solve."""

MISSING = 0.3
"""Points are added where they miss more than this part of the residual."""

POINTS, MOST_POINTS = 4.0, 12.0
"""Least number of points, and that from which on none are added, relative to the coefficients."""

COUNT = 300
"""Candidates of a single layer; a fifth per layer if there are several, as a neuron then has many readers."""

LARGEST, LATE = 2000, 0.75
"""Coefficients beyond which steps would no longer come from a dense matrix, and the part of the time after which no
neuron is added: none is left to make use of it."""

SCORED = 4000
"""Points that candidates are scored with: more would cost more than they tell."""

MARKED_POINTS, MARKED_NEURONS = 0.8, 0.95
"""Parts of squared indicators that are marked (Doerfler)."""

TEST = 10_000
SCALES = ((0.5, 1.5), (1.0, 3.0), (3.0, 9.0))
"""Lengths of the weights of random features."""

MEASURES = {"goal_rms": "median_rms", "goal_rel_l2": "median_rel_l2", "goal_parameter_error": "parameter_error"}
"""What goals are for."""


@dataclass(frozen=True)
class Level:
    """Where a run stands."""

    space: fem.FeedforwardSpace
    x: Array
    quadrature: fem.Quadrature
    residual: float
    seconds: float


def everywhere(quadrature: fem.Quadrature) -> Array:
    """Return the numbers of all cells, those of regions too, but not those of observations: they have no mesh."""
    parts = (quadrature, *quadrature.regions.values())
    ends = np.cumsum([part.cell_count for part in parts])
    cells = [np.arange(end - part.cell_count, end) for part, end in zip(parts, ends, strict=True) if part.mesh]
    return np.concatenate(cells)


def points(quadrature: fem.Quadrature) -> int:
    """Return the number of points, those of regions too."""
    return len(quadrature) + sum(len(region) for region in quadrature.regions.values())


def solve(
    problem: fem.Collocation, J: Any, x: Array, state: fem.State | None, seconds: float, steps: int = STEPS
) -> fem.Result:
    """Run some steps of the method that the problem asks for.

    A single layer and an affine law: Gauss-Newton on the condensed functional, where the output layer is solved for by
    orthogonal factorizations, down to the last digits.  Otherwise Levenberg-Marquardt, whose steps cost less.
    """
    if len(J.space.hidden) == 1 and all(law.affine for law in problem.laws.values()):
        return fem.gauss_newton(J, x, 0.0, state=state, max_steps=steps, max_seconds=seconds)
    return fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=steps, max_seconds=seconds)


def resolved(
    problem: fem.Collocation, space: fem.FeedforwardSpace, x: Array, quadrature: fem.Quadrature
) -> tuple[fem.Quadrature, fem.Estimate, bool]:
    """Add points until they resolve the present residual; return them, its estimate, and whether there are new ones."""
    before = points(quadrature)
    while True:
        residual = fem.residual(problem.on(space, quadrature), x)
        enough = residual.parts["points"] <= MISSING * residual.parts["known"]
        if enough or points(quadrature) > MOST_POINTS * space.dim:
            return quadrature, residual, points(quadrature) > before
        missing = np.sqrt(np.abs(residual.signed))
        quadrature = fem.refine_quadrature(quadrature, residual.cells[fem.dorfler(missing, theta=MARKED_POINTS)])


def grow(
    problem: fem.Collocation, start: Start, seed: int, seconds: float, adaptive: bool = True, most: int = LARGEST
) -> Level:
    """Run the loop until its time is over, with at most `most` coefficients.

    What is returned has the least residual: a level that has just begun may stand worse than the one before.
    """
    began = time.perf_counter()
    (space, x), state, quadrature, last = start, None, problem.quadrature, math.inf
    best = None
    while True:
        while points(quadrature) < POINTS * space.dim:
            quadrature = fem.refine_quadrature(quadrature, everywhere(quadrature))
        J = problem.on(space, quadrature)
        result = solve(problem, J, x, state, max(seconds - (time.perf_counter() - began), 0.0))
        x, state = result.x, result.state
        enough = False
        if problem.unknowns:
            confidence = fem.confidence(J, x)
            quadrature = confidence.reweighted(quadrature)
            # What the noise does to the unknowns no neuron can undo.
            enough = bool((np.diagonal(confidence.parts["equation"]) < np.diagonal(confidence.parts["noise"])).all())
        quadrature, residual, refined = resolved(problem, space, x, quadrature)
        level = Level(space, x, quadrature, residual.total, time.perf_counter() - began)
        best = level if best is None or level.residual <= best.residual else best
        if level.seconds >= seconds:
            return replace(best, seconds=time.perf_counter() - began)
        slow, last = not refined and residual.total > FAST * last, residual.total
        if enough or (len(space.hidden) > 1 and not slow):
            continue
        last = math.inf
        if level.seconds > LATE * seconds or space.dim >= most:
            continue
        neurons = chosen(problem, J, x, quadrature, seed, adaptive)
        while neurons and fem.widen(space, neurons)[0].dim > most:
            neurons.pop()
        if neurons:
            space, P = fem.widen(space, neurons)
            x = P(x)
        else:
            most = space.dim


def chosen(
    problem: fem.Collocation, J: Any, x: Array, quadrature: fem.Quadrature, seed: int, adaptive: bool
) -> list[Any]:
    """Return the neurons to be added: those of the hierarchical estimate, or random ones."""
    space = J.space
    count = COUNT if len(space.hidden) == 1 else COUNT // 5
    candidates = fem.ridge_candidates(space, quadrature, seed=seed, count=count)
    if adaptive:
        if len(quadrature) > SCORED:
            some = np.random.default_rng(seed).permutation(len(quadrature))[:SCORED]
            J = problem.on(space, quadrature.subset(np.sort(some)))
        estimate = fem.hierarchical(J, x, candidates)
        marked = fem.dorfler(estimate.indicators, theta=MARKED_NEURONS)
        if len(marked):
            return list(estimate.cells[marked])
    pool = candidates.draw(problem.ansatz.reference, x)
    order = np.random.default_rng(seed).permutation(len(pool))
    return [pool[k] for k in order[: max(4, sum(space.hidden) // 3)]]


def first(problem: fem.Collocation, hidden: tuple[int, ...], seed: int) -> Start:
    """Return the space that a run begins with, and random coefficients."""
    inputs = problem.domain.dim + (problem.time is not None)
    unknowns = len(problem.unknowns or ())
    space = fem.FeedforwardSpace(inputs, hidden, problem.outputs, periodic=problem.periodic, unknowns=unknowns)
    return space, space.initial(seed=seed)


def march(case: Case, problem: fem.Collocation, seed: int, seconds: float) -> tuple[Values, list[Level]]:
    """Solve one time slab after another, each with its share of the time; return the solution and the levels."""
    if case.slabs == 1:
        level = grow(problem, first(problem, case.hidden, seed), seed, seconds)
        return problem.solution(level.space, level.x), [level]
    began, (begin, end) = time.perf_counter(), problem.time
    edges = np.linspace(begin, end, case.slabs + 1).tolist()
    part, start = replace(problem, time=(begin, edges[1]), quadrature=None), None
    solutions, levels = [], []
    for number in range(1, case.slabs + 1):
        # What the slabs before did not need, or needed more, is shared by the others.
        left = seconds - (time.perf_counter() - began)
        level = grow(part, start or first(part, case.hidden, seed), seed, left / (case.slabs - number + 1))
        levels.append(level)
        solutions.append(part.solution(level.space, level.x))
        # What the network of one slab looks like is a good guess for the next one.
        start = level.space, level.x
        if number < case.slabs:
            part = fem.next_slab(part, solutions[-1], edges[number + 1])

    def values(places: Array) -> Array:
        result, owner = np.empty((len(places), 1)), np.searchsorted(edges[1:-1], places[:, -1])
        for number, solution in enumerate(solutions):
            result[owner == number] = solution(places[owner == number])
        return result

    return values, levels


def error(case: Case, problem: fem.Collocation, solution: Values) -> tuple[float, float]:
    """Return the relative and the root mean square error at random points."""
    low, high = (list(corner) for corner in (problem.domain.low, problem.domain.high))
    if problem.time is not None:
        low, high = [*low, problem.time[0]], [*high, problem.time[1]]
    places = np.random.default_rng(12345).uniform(low, high, (TEST, len(low)))
    exact = case.exact(places)
    rms = float(np.sqrt(np.mean((solution(places)[:, 0] - exact) ** 2)))
    rms = rms if math.isfinite(rms) else math.inf
    return rms / float(np.sqrt(np.mean(exact**2))), rms


def random_features(case: Case, problem: fem.Collocation, level: Level, seed: int, seconds: float) -> float:
    """Return the best error of untrained neurons of three scales, as many coefficients, the output layer solved for."""
    inputs, best = level.space.inputs, math.inf
    features = inputs + len(problem.periodic)
    width = (level.space.dim - problem.outputs) // (features + 1 + problem.outputs)
    space, x = first(problem, (width,), seed)
    J, block, outer = problem.on(space, level.quadrature), space.blocks[0], space.condensable.ravel()
    entries = (np.ones(len(outer)), (outer, np.arange(len(outer))))
    matrix = sp.csr_array(sp.coo_array(entries, shape=(space.dim, len(outer))))
    rows = x[: block.bias_start].reshape(width, features)
    lengths = np.linalg.norm(rows, axis=1)
    for low, high in SCALES:
        factors = np.exp(np.random.default_rng(seed).uniform(math.log(low), math.log(high), width)) / lengths
        drawn = np.zeros(space.dim)
        drawn[: block.bias_start] = (rows * factors[:, None]).ravel()
        drawn[block.bias_start : block.stop] = x[block.bias_start : block.stop] * factors
        part = Composed(J, fem.Transfer(matrix, drawn))
        start = np.zeros(len(outer))
        found = fem.gauss_newton(part, start, 0.0, max_steps=20, max_seconds=seconds, condensed=False)
        best = min(best, error(case, problem, problem.solution(space, part.transfer(found.x)))[1])
    return best


def scratch(case: Case, problem: fem.Collocation, level: Level, seed: int, seconds: float) -> float:
    """Return the error of the final architecture from random weights, on the final points."""
    J, x = problem.on(level.space, level.quadrature), level.space.initial(seed=seed + 1000)
    result = solve(problem, J, x, None, seconds, steps=10**6)
    return error(case, problem, problem.solution(level.space, result.x))[1]


def run(name: str, seed: int, seconds: float, ablations: bool) -> dict[str, float]:
    """Run a problem with one seed."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    case = CASES[name]
    with threadpool_limits(1):
        problem = case.make(seed) if case.unknowns else case.make()
        began = time.perf_counter()
        solution, levels = march(case, problem, seed, seconds)
        taken = time.perf_counter() - began
        relative, rms = error(case, problem, solution)
        found = {"rel_l2": relative, "rms": rms, "seconds": taken}
        found["dim"] = float(sum(level.space.dim for level in levels))
        found["points"] = float(sum(points(level.quadrature) for level in levels))
        found["residual"] = max(level.residual for level in levels)
        if case.unknowns:
            level = levels[0]
            found |= estimated(case, problem, fem.confidence(problem.on(level.space, level.quadrature), level.x))
        if ablations and case.slabs == 1 and not case.unknowns:
            level = levels[0]
            found["random_features_rms"] = random_features(case, problem, level, seed, seconds)
            other = grow(problem, first(problem, case.hidden, seed), seed, seconds, False, level.space.dim)
            found["uniform_rms"] = error(case, problem, problem.solution(other.space, other.x))[1]
            found["scratch_rms"] = scratch(case, problem, level, seed, level.seconds)
    return found


def estimated(case: Case, problem: fem.Collocation, confidence: Any) -> dict[str, float]:
    """Return errors of the unknowns, their standard deviation, and whether the intervals cover them."""
    intervals = confidence.intervals()

    def error(values: dict[str, float]) -> float:
        return max(abs(values[name] / true - 1.0) for name, true in case.unknowns.items())

    return {
        "parameter_error": error(confidence.values),
        "exact_parameter_error": error(case.known(problem)) if case.known else math.nan,
        "parameter_deviation": max(confidence.deviations[name] / abs(true) for name, true in case.unknowns.items()),
        "interval_covers": float(all(a <= case.unknowns[name] <= b for name, (a, b) in intervals.items())),
    }


def summary(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians and quartiles of the runs of a problem."""
    case = CASES[name]

    def median(key: str, quantile: float = 0.5) -> float | None:
        values = [run[key] for run in runs if key in run]
        found = float(np.quantile(values, quantile, method="higher")) if values else math.inf
        # JSON has no infinity: where a run that diverged is the median there is no error.
        return found if math.isfinite(found) else None

    line = {
        "problem": name,
        "median_rel_l2": median("rel_l2"),
        "median_rms": median("rms"),
        "upper_quartile_rms": median("rms", 0.75),
        "median_seconds": median("seconds"),
        "median_dim": median("dim"),
        **{key: median(key) for key in ("random_features_rms", "uniform_rms", "scratch_rms")},
        "goal_seconds": case.seconds,
    }
    if case.unknowns:
        line |= {key: median(key) for key in ("parameter_error", "exact_parameter_error")}
        line["goal_parameter_error"] = case.parameter
        line["interval_covers"] = int(sum(run["interval_covers"] for run in runs))
    else:
        line["goal_rms" if case.rms else "goal_rel_l2"] = case.rms or case.relative
    return line


def main() -> None:
    """Run the chosen problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=[*CASES, "all"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="time of a run; default that of the goal")
    parser.add_argument("--no-ablations", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed, ten seconds, no ablations")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one core each")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    options = parser.parse_args()
    names = list(CASES) if options.problem == "all" else [options.problem]
    seeds = range(1 if options.quick else options.seeds)
    ablations = not (options.quick or options.no_ablations)
    lines = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for name in names:
            seconds = 10.0 if options.quick else options.seconds or CASES[name].seconds
            waiting = [pool.submit(run, name, seed, seconds, ablations) for seed in seeds]
            runs = []
            for seed, future in zip(seeds, waiting, strict=True):
                runs.append(future.result())
                print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.3g}" for k, v in runs[-1].items()), flush=True)
            lines.append(summary(name, runs))
            goal = next(key for key in MEASURES if key in lines[-1])
            reached = lines[-1][MEASURES[goal]] or math.inf
            print(
                f"{name}: median {reached:.2e}, goal {lines[-1][goal]:.0e} in {lines[-1]['goal_seconds']:.0f} s",
                flush=True,
            )
    if options.json:
        print(json.dumps(lines[0] if len(lines) == 1 else {"problems": lines}))


if __name__ == "__main__":
    main()
