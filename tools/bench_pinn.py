"""Differential equations: networks that grow until their residual stalls, against exact or reference solutions.

    python tools/bench_pinn.py poisson2d --seeds 5 --json
    python tools/bench_pinn.py all --quick

One loop serves all problems, with defaults only.  A level is solved; where the residual estimate finds more between the
points than at them, points are added there; where solves of a level gain no more, the hierarchical estimate adds
neurons.  Where there is time, and once the residual is a thousandth of the solution, `dnnfem.stability` weighs it by
what it does, in its time slab and all later ones.  Laws that are affine in the solution are solved by Gauss-Newton on
the condensed functional if there is one hidden layer, others by Levenberg-Marquardt.  A run ends with its time.  What
is chosen for each problem is written in its definition: the hidden layers that a run begins with, time slabs, and
whether conditions hold exactly.

Errors are relative L2 and root mean square at 10000 random points that no run sees.  Ablations have the same time and
as many coefficients: random features (best of three scales, output layer solved) and the final architecture from
scratch, both on the final points, and the same loop with random neurons.  With time slabs each marches through the same
slabs from what it has found itself; coefficients and points are those of all slabs.  There are none for inverse
problems, whose observations have another draw of points and noise for each seed, and get their weight from
`dnnfem.confidence` after every solve.  Where noise limits the unknowns no neurons are added.

median_rel_l2, median_rms, upper_quartile_rms   errors of the seeds
median_seconds, median_dim                      time of a run and coefficients at its end
random_features_rms, uniform_rms, scratch_rms   ablations, medians
dim_ratio_at_best_ablation                      coefficients with which the adaptive run first had an error of at most
                                                the least of these three, over those at its end (with slabs: in every
                                                slab); null if it never had
parameter_error, interval_covers                of inverse problems: relative error of the worst unknown, median,
                                                and number of seeds whose 95 % intervals cover all of them
exact_parameter_error                           the former, of least squares with the exact solution: what noise allows
energy_error                                    of energies: difference of int |grad u|^2, median
goal_rel_l2, goal_rms, ..., goal_seconds        what the problem asks for

    python tools/bench_pinn.py burgers --peer deepxde --seeds 1 --json
    python tools/bench_pinn.py burgers --long

``--peer deepxde`` then trains DeepXDE (see ``pinn_peer.py``), with as many threads:

peer_rel_l2, peer_seconds    its error at the same points, and its time
time_vs_peer                 seconds that the adaptive run needs for that error, over the time of the peer
error_vs_peer                final error over final error
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numba
import numpy as np
import pinn_ablations
import pinn_energy
import pinn_peer
import torch
from equations import CASES, Case
from pinn_march import (
    Level,
    March,
    Moment,
    Slab,
    Start,
    error,
    first,
    march,
    moments,
    reached,
    rms,
    stabilities,
    unseen_points,
)
from threadpoolctl import threadpool_limits

import dnnfem as fem

Array = np.ndarray

STEPS = 30
"""Steps of a solve between two looks at the residual."""

FAST = 0.9
"""A level of a network with several layers goes on as long as a solve leaves at most this part of the residual, or the
points have changed: what more coefficients gain has to pay for steps that cost their cube.  One with a single layer,
where new neurons are found in no time, ends with its solve."""

MISSING = 0.3
"""Points are added where they miss more than this part of the residual."""

POINTS, MOST_POINTS = 4.0, 30.0
"""Least number of points, and that from which on none are added, relative to the coefficients."""

GROWTH = 1.4
"""Largest ratio of the coefficients of a level with several layers to those of the one before: steps cost the cube."""

COUNT = 300
"""Candidates of a single layer; a fifth per layer if there are several, as a neuron then has many readers."""

LARGEST, LATE = 2000, 0.6
"""Coefficients beyond which steps would no longer come from a dense matrix, and the part of the time after which no
neuron is added: none is left to make use of it."""

SCORED = 4000
"""Points that candidates are scored with: more would cost more than they tell."""

MARKED_POINTS, MARKED_NEURONS = 0.8, 0.95
"""Parts of squared indicators that are marked (Doerfler)."""

ENERGY, ENERGY_SECONDS = "lshape", 180.0
MEASURES = {
    "goal_rms": "median_rms",
    "goal_rel_l2": "median_rel_l2",
    "goal_parameter_error": "parameter_error",
    "goal_energy_error": "energy_error",
}
"""What goals are for."""

ABLATIONS = ("random_features_rms", "uniform_rms", "scratch_rms")
ROUGH, ROUGH_PART = 1e-3, 0.25
"""Residual, relative to the solution, with which weights are found, and the part of the time after which they are."""

FAR = 0.1
"""Residual, relative to the solution, from which on what is there says nothing of the stability."""

NO_PART = 0.3
"""A slab ends with this part of the largest error of those before it, which the sum of the squares hardly sees."""

SPARE = 0.1
"""Part of the time that is worth another march."""

QUICK = 5.0
"""Seconds of a quick run."""


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
    problem: fem.Collocation,
    start: Start,
    seed: int,
    seconds: float,
    adaptive: bool = True,
    most: int = LARGEST,
    history: list[Level] | None = None,
    accuracy: float = 0.0,
    enough: float = 0.0,
) -> Level:
    """Run the loop until its time is over, or the residual is small `enough`, or that part of the solution.

    There are at most `most` coefficients.

    What is returned has the least residual: a level that has just begun may stand worse than the one before.  A
    `history` gets what every solve ends with.
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
        limited = False
        if problem.unknowns:
            confidence = fem.confidence(J, x)
            quadrature = confidence.reweighted(quadrature)
            # What the noise does to the unknowns no neuron can undo.
            limited = bool((np.diagonal(confidence.parts["equation"]) < np.diagonal(confidence.parts["noise"])).all())
        quadrature, residual, refined = resolved(problem, space, x, quadrature)
        level = Level(space, x, quadrature, residual.total, time.perf_counter() - began)
        best = level if best is None or level.residual <= best.residual else best
        if history is not None:
            history.append(level)
        wanted = max(enough, accuracy * size(problem, level) if accuracy else 0.0)
        if level.seconds >= seconds or residual.total <= wanted:
            return replace(best, seconds=time.perf_counter() - began)
        slow, last = not refined and residual.total > FAST * last, residual.total
        if limited or (len(space.hidden) > 1 and not slow):
            continue
        last = math.inf
        if level.seconds > LATE * seconds or space.dim >= most:
            continue
        neurons = chosen(problem, J, x, quadrature, seed, adaptive)
        limit = most if len(space.hidden) == 1 else min(most, GROWTH * space.dim)
        while neurons and fem.widen(space, neurons)[0].dim > limit:
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
    candidates = fem.ridge_candidates(space, quadrature, seed=seed, count=count, directions="sparse")
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


def size(problem: fem.Collocation, level: Level) -> float:
    """Return the root mean square of a solution."""
    values = problem.solution(level.space, level.x)(level.quadrature.points)
    return math.sqrt(float(level.quadrature.weights @ np.sum(values**2, axis=1)))


def adaptive(case: Case, problem: fem.Collocation, seed: int, seconds: float, histories: list[list[Level]]) -> March:
    """Run the loop, slab by slab; `histories` gets a list for each.

    Where there is time a rough march comes first.  It says what residuals do where, and how much of them later slabs
    amplify: by that they are weighed in the second one.  They then are errors of the whole, and a slab ends when it has
    no part in these.  Time that is left over goes into another march, from what is there.
    """
    began, spent = time.perf_counter(), [0.0] * case.slabs
    histories[:] = [[] for _ in spent]

    def grown(accuracy: float, no_part: float) -> Slab:
        done: list[Level] = []

        def solve(part: fem.Collocation, number: int, start: Start | None, seconds: float) -> Level:
            own: list[Level] = []
            begin = start or first(part, case.hidden, seed)
            # Weighed residuals are means over the time from a slab on.
            times = np.sqrt(np.arange(case.slabs, case.slabs - number - 1, -1))
            errors = [time * level.residual for time, level in zip(times[:-1], done, strict=True)]
            enough = no_part * max(errors, default=0.0) / times[-1]
            done.append(grow(part, begin, seed, seconds, history=own, accuracy=accuracy, enough=enough))
            histories[number] += [replace(now, seconds=now.seconds + spent[number]) for now in own]
            spent[number] += done[-1].seconds
            return done[-1]

        return solve

    if problem.unknowns or problem.time is None:
        return march(case, problem, seconds, grown(0.0, 0.0), [1.0])
    # None takes much more than half of what is left for it and those after it.
    halves = [0.5**number for number in range(case.slabs)]
    found = march(case, problem, ROUGH_PART * seconds, grown(ROUGH, 0.0), halves)
    pairs = list(zip(found.problems, found.levels, strict=True))
    weights = stabilities(found) if all(level.residual < FAR * size(part, level) for part, level in pairs) else None
    # What was hard is hard, but nobody knows how hard.
    solves = [len(history) for history in histories]
    shares = [own + sum(solves) / len(solves) for own in solves]
    # Slabs begin otherwise from now on, and residuals have other weights: what was rough is compared with nothing.
    histories[:] = [[] for _ in spent]
    # Points are found anew: the first ones are where a rough solution is wrong.
    how: dict[str, Any] = {"start": (found.levels[0].space, found.levels[0].x)}
    left = seconds - (time.perf_counter() - began)
    while "start" in how or left > SPARE * seconds:
        found = march(case, problem, left, grown(0.0, NO_PART if weights else 0.0), shares, weights, **how)
        how = {"onward": found}
        left = seconds - (time.perf_counter() - began)
    return found


def uniform(case: Case, seed: int, found: March) -> Slab:
    """Return the same loop with random neurons, at most as many as it has `found` to be good."""

    def solve(part: fem.Collocation, number: int, start: Start | None, seconds: float) -> Level:
        most = found.levels[number].space.dim
        return grow(part, start or first(part, case.hidden, seed), seed, seconds, False, most)

    return solve


def ablations(case: Case, problem: fem.Collocation, seed: int, seconds: float, found: March) -> dict[str, float]:
    """Return the errors of all ablations."""

    weights, shares = [part.weight for part in found.problems], [level.seconds for level in found.levels]

    def of(slab: Slab) -> float:
        return error(case, problem, march(case, problem, seconds, slab, shares, weights))[1]

    def whole(part: fem.Collocation, J: Any, x: Array, seconds: float) -> Array:
        return solve(part, J, x, None, seconds, steps=10**6).x

    drawn = [pinn_ablations.random_features(found.levels, seed, scale) for scale in pinn_ablations.SCALES]
    slabs = (uniform(case, seed, found), pinn_ablations.scratch(found.levels, seed, whole))
    return dict(zip(ABLATIONS, (min(map(of, drawn)), *map(of, slabs)), strict=True))


def versus(
    case: Case,
    problem: fem.Collocation,
    found: dict[str, float],
    history: list[list[Moment]],
    seed: int,
    threads: int,
    quick: bool,
) -> dict[str, float]:
    """Train the peer and compare."""
    places = unseen_points(problem)
    exact = case.exact(places)
    seconds, values = pinn_peer.deepxde(places, seed, threads, *((100, 0) if quick else ()))
    left = rms(values - exact)
    return {
        "peer_rel_l2": left / rms(exact),
        "peer_seconds": seconds,
        "time_vs_peer": reached(history, left)[1] / seconds,
        "error_vs_peer": found["rms"] / left,
    }


def run(
    name: str, seed: int, seconds: float, threads: int, ablated: bool, peer: bool, quick: bool, device: str | None
) -> tuple[dict[str, float], list[list[Moment]]]:
    """Run a problem with one seed; return its figures, and the errors over time in each slab."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    case = CASES[name]
    with threadpool_limits(threads):
        problem = case.make(seed) if case.unknowns else case.make()
        problem = replace(problem, device=device) if device else problem
        began, histories = time.perf_counter(), []
        solution = adaptive(case, problem, seed, seconds, histories)
        taken = time.perf_counter() - began
        relative, absolute = error(case, problem, solution)
        found = {"rel_l2": relative, "rms": absolute, "seconds": taken, "dim": float(solution.dim)}
        found["points"] = float(sum(points(level.quadrature) for level in solution.levels))
        found["residual"] = max(level.residual for level in solution.levels)
        history = moments(case, problem, solution, histories)
        if case.unknowns:
            level = solution.levels[0]
            found |= estimated(case, problem, fem.confidence(problem.on(level.space, level.quadrature), level.x))
        elif ablated:
            found |= ablations(case, problem, seed, seconds, solution)
        if peer:
            found |= versus(case, problem, found, history, seed, threads, quick)
    return found, history


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


def quantile(runs: list[dict[str, float]], key: str, level: float = 0.5) -> float | None:
    """Return a quantile of a figure of the runs that have it."""
    values = [run[key] for run in runs if key in run]
    found = float(np.quantile(values, level, method="higher")) if values else math.inf
    # JSON has no infinity: where a run that diverged is the median there is no error.
    return found if math.isfinite(found) else None


def summary_of_energies(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians of the runs of the energy."""
    line: dict[str, Any] = {"problem": ENERGY, "median_seconds": quantile(runs, "seconds")}
    line |= {"median_dim": quantile(runs, "dim"), "energy_error": quantile(runs, "energy_error")}
    line |= {"upper_quartile_energy_error": quantile(runs, "energy_error", 0.75)}
    line |= {key: quantile(runs, key) for key in (*pinn_energy.ABLATIONS, "effectivity")}
    line["dim_ratio_at_best_ablation"] = quantile(runs, "dim_ratio")
    return line | {"goal_seconds": ENERGY_SECONDS, "goal_energy_error": 1e-4}


def summary(name: str, case: Case, outcomes: list[tuple[dict[str, float], list[list[Moment]]]]) -> dict[str, Any]:
    """Return medians and quartiles of the runs of a problem."""
    runs = [found for found, _ in outcomes]
    median = partial(quantile, runs)
    line = {
        "problem": name,
        "median_rel_l2": median("rel_l2"),
        "median_rms": median("rms"),
        "upper_quartile_rms": median("rms", 0.75),
        "median_seconds": median("seconds"),
        "median_dim": median("dim"),
        **{key: median(key) for key in ABLATIONS},
    }
    known = [value for key in ABLATIONS if (value := line[key]) is not None]
    for found, history in outcomes if known else ():
        found["dim_ratio"] = reached(history, min(known))[0] / found["dim"]
    line["dim_ratio_at_best_ablation"] = median("dim_ratio")
    if "peer_seconds" in runs[0]:
        line |= {key: median(key) for key in ("peer_rel_l2", "peer_seconds", "time_vs_peer", "error_vs_peer")}
    line["goal_seconds"] = case.seconds
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
    parser.add_argument("problem", choices=[*CASES, ENERGY, "all"], nargs="?", default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="time of a run; default that of the goal")
    parser.add_argument("--long", action="store_true", help="the longer time and the goal that some problems have")
    parser.add_argument("--no-ablations", action="store_true")
    parser.add_argument("--peer", choices=["deepxde"], help="for burgers; `make peers` installs it")
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK:.0f} seconds")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--device", help="e.g. cuda; default the compiled kernels on the CPU")
    parser.add_argument("--threads", type=int, default=1, help="of each run, and of the peer")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    options = parser.parse_args()
    cases = {name: case.longer for name, case in CASES.items() if case.long_seconds} if options.long else CASES
    others = () if options.long else (ENERGY,)
    if options.problem not in (*cases, *others, "all"):
        parser.error(f"--long: only {', '.join(cases)} have a longer time")
    if options.peer and options.problem != "burgers":
        parser.error("--peer: only burgers has a peer")
    if options.peer and not pinn_peer.available():
        parser.error("--peer: it is not installed, see `make peers`")
    if options.device and options.problem == ENERGY:
        parser.error("--device: not for energies")
    names = [*cases, *others] if options.problem == "all" else [options.problem]
    seeds = range(1 if options.quick else options.seeds)
    how = (options.threads, not options.no_ablations, options.peer is not None, options.quick, options.device)
    lines = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for name in names:
            usual = ENERGY_SECONDS if name == ENERGY else cases[name].seconds
            seconds = options.seconds or (QUICK if options.quick else usual)
            if name == ENERGY:
                waiting = [pool.submit(pinn_energy.run_energy, seed, seconds, *how[:2]) for seed in seeds]
            else:
                waiting = [pool.submit(run, name, seed, seconds, *how) for seed in seeds]
            outcomes: list[Any] = []
            for seed, future in zip(seeds, waiting, strict=True):
                outcomes.append(future.result())
                found = outcomes[-1] if name == ENERGY else outcomes[-1][0]
                figures = ", ".join(f"{k} {v:.3g}" for k, v in found.items())
                print(f"{name}, seed {seed}: {figures}", flush=True)
            lines.append(summary_of_energies(outcomes) if name == ENERGY else summary(name, cases[name], outcomes))
            goal = next(key for key in MEASURES if key in lines[-1])
            reached_error = lines[-1][MEASURES[goal]] or math.inf
            print(
                f"{name}: median {reached_error:.2e}, goal {lines[-1][goal]:.0e} in {lines[-1]['goal_seconds']:.0f} s",
                flush=True,
            )
    if options.json:
        print(json.dumps(lines[0] if len(lines) == 1 else {"problems": lines}))


if __name__ == "__main__":
    main()
