"""The functional majorant on ``poisson2d``: a bound of the energy error, against the error itself.

    python tools/bench_majorant.py --seeds 3 --json

A network grows until the majorant of its energy error is below the goal.  On every level the flux has a network of its
own, which goes on from that of the level before and grows until the second term of the bound, ``C |div y + f|``, is a
quarter of the first one: then the bound is not far from the error, and nothing of that needs the solution.  The true
error comes from Gauss points 16 times as many as those that the networks are fitted at, 6 per axis and cell.

lowest_index    least ratio of majorant and error of all fluxes that were computed: it has to be at least one
highest_index   largest ratio of those that a level ended with
smallest_error  energy error of the last level, largest of the seeds
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import references
import torch
from equations import CASES
from threadpoolctl import threadpool_limits

import dnnfem as fem

Array = np.ndarray
PI = math.pi

GOAL, QUICK = 1e-6, 1e-5
SHARP = 0.25
"""A flux is good enough if its defect in the equilibrium is at most this part of the first term."""

STEPS = 20
LARGEST = 2000
"""Coefficients of a flux that are never exceeded."""

MARKED = 0.95


HEAD = "level    dim   flux      error   majorant       flux  equilib. quadrature   index seconds"


@dataclass(frozen=True)
class Row:
    """A flux with its bound and the true error."""

    level: int
    dim: int
    flux_dim: int
    error: float
    bound: fem.Estimate
    last: bool
    seconds: float

    @property
    def index(self) -> float:
        return self.bound.total / self.error

    def __str__(self) -> str:
        parts = " ".join(f"{value:10.2e}" for value in self.bound.parts.values())
        verified = "" if self.bound.guaranteed else " not verified"
        line = f"{self.level:5d} {self.dim:6d} {self.flux_dim:6d} {self.error:10.2e} {self.bound.total:10.2e} {parts}"
        return f"{line} {self.index:7.3f} {self.seconds:6.1f}{verified}"


def gradient(points: Array) -> Array:
    """Return the gradient of the solution, shape (m, 2)."""
    (sx, sy), (cx, cy) = np.sin(PI * points.T), np.cos(PI * points.T)
    return PI * np.stack([cx * sy, sx * cy], axis=1)


def energy_error(solution: fem.Solution, mesh: fem.BoxMesh) -> float:
    """Return the true error."""
    rule = replace(mesh.finer(), points=6).quadrature()
    difference = solution.gradient(rule.points)[:, 0] - gradient(rule.points)
    return float(np.sqrt(np.sum(rule.weights[:, None] * difference**2)))


def widened(J: Any, x: Array, quadrature: fem.Quadrature, seed: int) -> tuple[fem.FeedforwardSpace, Array]:
    """Add the neurons of the hierarchical estimate."""
    estimate = fem.hierarchical(J, x, fem.ridge_candidates(J.space, quadrature, seed=seed))
    space, P = fem.widen(J.space, estimate.cells[fem.dorfler(estimate.indicators, theta=MARKED)])
    return space, P(x)


def run(seed: int, goal: float) -> list[Row]:
    """Grow a network and its flux until the bound is below the goal; return what was found."""
    problem, began, rows = CASES["poisson2d"].make(), time.perf_counter(), []
    space, fluxes = fem.FeedforwardSpace(2, (8,), 1), fem.FeedforwardSpace(2, (12,), 2)
    x, y, balance = space.initial(seed=seed), fluxes.initial(seed=seed), 1.0
    while True:
        J = problem.on(space)
        x = fem.gauss_newton(J, x, 0.0, max_steps=STEPS).x
        solution = problem.solution(space, x)
        error = energy_error(solution, problem.quadrature.mesh)
        flux = fem.Flux(solution, lambda p: references.poisson2d_source(p.coordinates), balance=balance)
        while True:
            F = flux.on(fluxes)
            y = fem.gauss_newton(F, y, 0.0, max_steps=STEPS).x
            bound = fem.majorant(F, y)
            flux = flux.balanced(bound)
            balance = flux.balance
            last = balance <= SHARP or fluxes.dim > LARGEST
            level = rows[-1].level + rows[-1].last if rows else 0
            rows.append(Row(level, space.dim, fluxes.dim, error, bound, last, time.perf_counter() - began))
            print(rows[-1], flush=True)
            if last:
                break
            fluxes, y = widened(flux.on(fluxes), y, flux.quadrature, seed)
        if bound.total < goal or fluxes.dim > LARGEST:
            return rows
        space, x = widened(J, x, problem.quadrature, seed)


def main() -> None:
    """Run all seeds and print what the bound was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, and a goal of 1e-5 in place of 1e-6")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    runs = []
    with threadpool_limits(1):
        for seed in range(1 if options.quick else options.seeds):
            print(f"seed {seed}\n{HEAD}")
            runs.append(run(seed, QUICK if options.quick else GOAL))
    line = {
        "lowest_index": min(row.index for rows in runs for row in rows),
        "highest_index": max(row.index for rows in runs for row in rows if row.last),
        "smallest_error": max(rows[-1].error for rows in runs),
        "verified": all(row.bound.guaranteed for rows in runs for row in rows),
    }
    print("indices from {lowest_index:.3f} to {highest_index:.3f}, down to {smallest_error:.1e}".format(**line))
    if options.json:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
