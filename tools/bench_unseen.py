"""How good are estimates of the error at unseen samples?  Effectivities on noisy data, and what choices by them cost.

    python tools/bench_unseen.py --seeds 10 --json

1. A network of a given width, trained from a random start to its minimum: estimates over the error at fresh samples.
2. The same, against leave-one-out by really training without each sample: relative deviations.
3. Networks that grow, with several weights of the penalty: width and weight chosen by each criterion, the estimate over
   the error of what was chosen, and that error over the best one among all networks of the same run.

All figures are medians with quartiles over functions and seeds; what is infinite counts as such.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np

import dnnfem as fem
from dnnfem.norms.decay import weight_decay

Array = np.ndarray

FUNCTIONS: dict[str, tuple[int, Callable[[Array], Array]]] = {
    "wave": (2, lambda p: np.sin(3.0 * p[:, 0]) * p[:, 1]),
    "bump": (2, lambda p: np.exp(-((p[:, 0] - 0.3) ** 2 + (p[:, 1] + 0.2) ** 2) / 0.08) + p[:, 0] * p[:, 1]),
    "five": (5, lambda p: np.sin(2.0 * p[:, 0] + p[:, 1]) + p[:, 2] * p[:, 3]),
}
NOISE = 0.3
"""Deviation of the noise over that of the function."""

SAMPLES, FRESH = 150, 20000
WIDTH = 8
ALPHAS = (1e-2, 1e-3, 1e-4)
GROWTH, LEVELS = 4, 6


def drawn(name: str, seed: int) -> tuple[fem.Regression, Callable[[object, Array], float]]:
    """Return a problem, and its error at fresh noisy samples."""
    random = np.random.default_rng(seed)
    dimension, function = FUNCTIONS[name]
    points, fresh = (random.uniform(-1.0, 1.0, (count, dimension)) for count in (SAMPLES, FRESH))
    size = NOISE * float(np.std(function(fresh)))
    values, truth = (function(p) + size * random.standard_normal(len(p)) for p in (points, fresh))
    problem = fem.Regression(points, values)
    quadrature = fem.Quadrature.samples(fresh, truth)
    return problem, lambda space, x: math.sqrt(2.0 * problem.on(space, quadrature).value(x))


def penalized(integral: object, alpha: float) -> fem.Sum:
    """Return the functional with weight decay."""
    return fem.Sum(integral, fem.Tikhonov(integral.space, weight_decay, alpha))


def solved(functional: object, x: Array) -> Array:
    """Return the minimizer."""
    x = fem.trust_region(functional, x, 1e-3, curvature=True, max_steps=100).x
    return fem.trust_region(functional, x, 1e-6, max_steps=200).x


def given(name: str, seed: int, alpha: float) -> dict[str, float]:
    """Return the effectivities for one network of given width."""
    problem, error = drawn(name, seed)
    space = fem.FeedforwardSpace(FUNCTIONS[name][0], (WIDTH,), 1)
    functional = penalized(problem.on(space), alpha)
    x = solved(functional, space.initial(seed))
    rough = fem.trust_region(functional, space.initial(seed), 0.05, curvature=True).x

    def path(quadrature: fem.Quadrature, _: object) -> Iterator[tuple[object, Array]]:
        yield space, solved(penalized(problem.on(space, quadrature), alpha), space.initial(seed))

    found = {
        "training": fem.leave_one_out(functional, x, retrained=0).parts["training"],
        "gcv, curvature": fem.generalized_cross_validation(functional, x, hessian="curvature").total,
        "gcv": fem.generalized_cross_validation(functional, x).total,
        "leave-one-out, curvature, not trained again": fem.leave_one_out(
            functional, x, hessian="curvature", retrained=0
        ).total,
        "leave-one-out, not trained again": fem.leave_one_out(functional, x, retrained=0).total,
        "leave-one-out, curvature": fem.leave_one_out(functional, x, hessian="curvature").total,
        "leave-one-out": fem.leave_one_out(functional, x).total,
        "4 folds": fem.cross_validation(problem, path, [alpha], max_levels=1).estimate.total,
    }
    result = {key: total / error(space, x) for key, total in found.items()}
    result["leave-one-out, solved to 5 %"] = fem.leave_one_out(functional, rough).total / error(space, rough)
    return result


def refitted(name: str, seed: int, alpha: float) -> dict[str, float]:
    """Return the deviations from leave-one-out by really training without each sample, from the minimizer on."""
    problem, _ = drawn(name, seed)
    space = fem.FeedforwardSpace(FUNCTIONS[name][0], (WIDTH,), 1)
    functional = penalized(problem.on(space), alpha)
    x, samples, losses = solved(functional, space.initial(seed)), problem.quadrature, []
    for sample in range(SAMPLES):
        keep, alone = np.arange(SAMPLES) != sample, np.array([sample])
        rest = fem.Quadrature(samples.points[keep], samples.weights[keep], samples.data[keep])
        without = fem.trust_region(functional.on(quadrature=rest), x, 1e-5, max_steps=100).x
        losses.append(problem.on(space, samples.subset(alone)).value(without))
    exact = math.sqrt(2.0 * float(np.mean(losses)))
    result = {}
    for hessian in ("curvature", "full"):
        for retrained in (0, 10):
            total = fem.leave_one_out(functional, x, hessian=hessian, retrained=retrained).total
            result[f"{hessian}, {retrained} at most trained again"] = abs(total / exact - 1.0)
    return result


def grown(name: str, seed: int) -> dict[str, tuple[float, float]]:
    """Return effectivity and loss of the choices by each criterion."""
    problem, error = drawn(name, seed)

    def path(quadrature: fem.Quadrature, alpha: object) -> Iterator[tuple[object, Array]]:
        space = fem.FeedforwardSpace(FUNCTIONS[name][0], (GROWTH,), 1)
        x = space.initial(seed)
        while True:
            functional = penalized(problem.on(space, quadrature), float(alpha))
            x = solved(functional, x)
            yield space, x
            rule = fem.ridge_candidates(space, quadrature, seed=seed)
            space, transfer = fem.widen(space, fem.hierarchical(functional, x, rule, count=GROWTH).cells)
            x = transfer(x)

    table = []
    for alpha in ALPHAS:
        for level, (space, x) in zip(range(LEVELS), path(problem.quadrature, alpha), strict=False):
            functional = penalized(problem.on(space), alpha)
            one, evidence = fem.leave_one_out(functional, x), fem.evidence(functional, x)
            gcv = fem.generalized_cross_validation(functional, x).total
            table.append((alpha, level, error(space, x), one.total, gcv, -evidence.logarithm))
    best = min(row[2] for row in table)
    by = {"leave-one-out": 3, "gcv": 4, "evidence": 5}
    result = {}
    for key, column in by.items():
        row = min(table, key=lambda row: row[column])
        result[key] = ((row[3] if key == "evidence" else row[column]) / row[2], row[2] / best)
    chosen = fem.cross_validation(problem, path, ALPHAS, max_levels=LEVELS)
    row = next(row for row in table if (row[0], row[1]) == (chosen.setting, chosen.level))
    result["4 folds over the path"] = (chosen.estimate.total / row[2], row[2] / best)
    return result


def quartiles(values: list[float]) -> list[float]:
    """Return the three quartiles."""
    return [float(q) for q in np.percentile(values, [25, 50, 75], method="nearest")]


def line(name: str, *groups: list[float]) -> str:
    """Return a row of the table."""
    return f"{name:>45}" + "".join("   " + " ".join(f"{q:6.3f}" for q in group) for group in groups)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds per function")
    parser.add_argument("--refits", type=int, default=5, help="number of seeds for the second part")
    parser.add_argument("--quick", action="store_true", help="one seed, and nothing trained again")
    parser.add_argument("--json", action="store_true", help="print one JSON line last")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.refits = 1, 0
    report: dict[str, dict[str, object]] = {"given": {}, "refitted": {}, "grown": {}}
    for alpha in ALPHAS:
        runs = [given(name, seed, alpha) for name in FUNCTIONS for seed in range(options.seeds)]
        print(f"width {WIDTH}, penalty {alpha:g}: estimate over error, quartiles of {len(runs)} runs")
        found = {key: quartiles([run[key] for run in runs]) for key in runs[0]}
        print("\n".join(line(key, values) for key, values in found.items()), flush=True)
        report["given"][f"{alpha:g}"] = found
    for alpha in ALPHAS if options.refits else ():
        runs = [refitted(name, seed, alpha) for name in FUNCTIONS for seed in range(options.refits)]
        print(f"penalty {alpha:g}: deviation from training again, quartiles and largest of {len(runs)} runs")
        found = {key: [*quartiles([run[key] for run in runs]), max(run[key] for run in runs)] for key in runs[0]}
        print("\n".join(line(key, values) for key, values in found.items()), flush=True)
        report["refitted"][f"{alpha:g}"] = found
    both = [grown(name, seed) for name in FUNCTIONS for seed in range(options.seeds)]
    print(f"grown: estimate over error, and error over the best, quartiles of {len(both)} runs")
    for key in both[0]:
        groups = [quartiles([run[key][part] for run in both]) for part in (0, 1)]
        print(line(key, *groups), flush=True)
        report["grown"][key] = dict(zip(("effectivity", "error_over_best"), groups, strict=True))
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
