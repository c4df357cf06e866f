"""Estimates of differential equations against what they estimate, along the loop of ``bench_pinn.py``.

    python tools/bench_estimates.py poisson2d --json
    python tools/bench_estimates.py all --quick

residual       ``fem.residual(J, x).total`` over the residual at 16 times as many points, on all levels
hierarchical   H1 seminorm of the difference between the enriched and the present solution over that of the true error,
               on the last three levels; at random points that neither has seen

A level is what has been solved before neurons are added.  Keys: ``residual_low``, ``residual_high``,
``hierarchical_low``, ``hierarchical_high``, least and greatest ratio of all seeds; goals 0.8 to 1.25 and 0.3 to 3.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

import bench_pinn
import numba
import numpy as np
import torch
from equations import CASES, Case
from pinn_march import Level, first, unseen_points
from threadpoolctl import threadpool_limits

import dnnfem as fem

PROBLEMS = ("poisson2d", "poisson2d_bump", "helmholtz2d")
CANDIDATES = 2000
LAST = 3
GOALS = {"residual": (0.8, 1.25), "hierarchical": (0.3, 3.0)}

Array = np.ndarray


@dataclass(frozen=True)
class Effectivity:
    """Ratios of one level; nan where there is none."""

    dim: int
    points: int
    residual: float
    hierarchical: float = math.nan
    saturation: float = math.nan
    true: float = math.nan


def seminorm(gradient: Array) -> float:
    """Return the root mean square length of gradients (m, d)."""
    return float(np.sqrt(np.mean(np.sum(gradient**2, axis=1))))


def exact_gradient(case: Case, places: Array) -> Array:
    """Return the gradient of the exact solution, by automatic differentiation."""
    p = torch.as_tensor(places).requires_grad_()
    return torch.autograd.grad(case.exact(p).sum(), p)[0].numpy()


def finished(history: list[Level]) -> list[Level]:
    """Return the level with the least residual of each space, in their order."""
    best: dict[int, Level] = {}
    for level in history:
        known = best.get(level.space.dim)
        if known is None or level.residual <= known.residual:
            best[level.space.dim] = level
    return list(best.values())


def of_residual(problem: fem.Collocation, level: Level) -> float:
    """Return the effectivity of the residual estimate; two bisections along both axes are 16 times as many points."""
    estimate = fem.residual(problem.on(level.space, level.quadrature), level.x).total
    finest = problem.on(level.space, level.quadrature.finer().finer())
    return estimate / math.sqrt(2.0 * finest.value(level.x))


def of_enriched(problem: fem.Collocation, level: Level, places: Array, exact: Array, seed: int) -> tuple[float, ...]:
    """Return the effectivity of the hierarchical estimate in the H1 seminorm, the saturation, and the true error."""
    space, x = level.space, level.x
    last = [len(space.hidden) - 1]
    candidates = fem.ridge_candidates(space, level.quadrature, seed=seed + 1, count=CANDIDATES, layers=last)
    found = fem.enriched(problem.on(space, level.quadrature), x, candidates)
    present = problem.solution(space, x).gradient(places)[:, 0]
    better = problem.solution(found.space, found.x).gradient(places)[:, 0]
    true = seminorm(exact - present)
    return seminorm(better - present) / true, found.saturation, true


def run(name: str, seed: int, seconds: float) -> list[Effectivity]:
    """Run the loop on a problem and return the effectivities of its levels."""
    case = CASES[name]
    problem = case.make()
    history: list[Level] = []
    bench_pinn.grow(problem, first(problem, case.hidden, seed), seed, seconds, history=history)
    levels, places = finished(history), unseen_points(problem)
    exact = exact_gradient(case, places)
    result = []
    for number, level in enumerate(levels):
        late = number >= len(levels) - LAST
        more = of_enriched(problem, level, places, exact, seed) if late else ()
        sizes = level.space.dim, bench_pinn.points(level.quadrature)
        result.append(Effectivity(*sizes, of_residual(problem, level), *more))
    return result


def report(name: str, runs: list[list[Effectivity]]) -> dict[str, Any]:
    """Return the keys of a problem."""
    levels = [level for levels in runs for level in levels]
    line: dict[str, Any] = {"problem": name}
    for key in GOALS:
        ratios = [value for level in levels if not math.isnan(value := getattr(level, key))]
        line[key + "_low"], line[key + "_high"] = min(ratios), max(ratios)
    return line


def main() -> None:
    """Run the chosen problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=[*PROBLEMS, "all"], nargs="?", default="all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="time of a run; default that of the goal of bench_pinn.py")
    parser.add_argument("--quick", action="store_true", help="ten seconds each")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    lines = []
    with threadpool_limits(1):
        for name in PROBLEMS if options.problem == "all" else (options.problem,):
            seconds = 10.0 if options.quick else options.seconds or CASES[name].seconds
            runs = []
            for seed in range(options.seeds):
                runs.append(run(name, seed, seconds))
                print(f"\n{name}, seed {seed}")
                print("coefficients  points  residual  hierarchical  left  H1 error")
                for e in runs[-1]:
                    late = f"{e.hierarchical:12.3f}  {e.saturation:.2f}  {e.true:.2e}" if e.true > 0.0 else ""
                    print(f"{e.dim:12d}  {e.points:6d}  {e.residual:8.3f}  {late}".rstrip(), flush=True)
            lines.append(report(name, runs))
            for key, (low, high) in GOALS.items():
                print(f"{key}: {lines[-1][key + '_low']:.3f} to {lines[-1][key + '_high']:.3f}, goal {low} to {high}")
    if options.json:
        print(json.dumps(lines[0] if len(lines) == 1 else {"problems": lines}))


if __name__ == "__main__":
    main()
