"""The energy of ``bench_pinn.py``: the torsion of an L, by Ritz' method; `dnnfem.decide` chooses what to do next."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pinn_ablations
import torch
from threadpoolctl import threadpool_limits

import dnnfem as fem

Array = np.ndarray

TORSION = 0.2140758036
"""``int |grad u|^2`` of ``-Lap u = 1`` on the L of area 3, with u = 0 on its boundary."""

HIDDEN = (10, 10)
STEPS = 30
"""Steps of a solve between two decisions."""

POINTS = 30
"""Points per coefficient: an energy has no lower bound between them."""

COUNT = 20
"""Candidates per layer."""

NEW = 6
"""Neurons that are chosen at a time."""

MARKED_POINTS, MARKED_NEURONS = 0.8, 0.9


@dataclass(frozen=True)
class Stand:
    """Where a run stands after a solve."""

    space: fem.FeedforwardSpace
    x: Array
    quadrature: fem.Quadrature
    error: float
    estimate: float
    seconds: float


def lshape() -> fem.Energy:
    """Return the energy of ``-Lap u = 1`` on three unit squares."""
    squares = [fem.Box([-1, -1], [0, 0]), fem.Box([-1, 0], [0, 1]), fem.Box([0, 0], [1, 1])]
    return fem.Energy(lambda p, u: 0.5 * (u.grad**2).sum(dim=0) - u.value, fem.Boxes(squares), dirichlet=0.0)


def energy_error(problem: fem.Energy, space: fem.FeedforwardSpace, x: Array, quadrature: fem.Quadrature) -> float:
    """Return the difference of ``int |grad u|^2``, with four times as many points as the solver had."""
    found = -2.0 * problem.on(space, quadrature.finer()).value(x)
    return abs(found - TORSION) if math.isfinite(found) else math.inf


def enough(space: fem.FeedforwardSpace, quadrature: fem.Quadrature) -> fem.Quadrature:
    """Return a quadrature with all cells bisected until there are enough points."""
    while len(quadrature) < POINTS * space.dim:
        quadrature = fem.refine_quadrature(quadrature, np.arange(quadrature.cell_count))
    return quadrature


def grow(problem: fem.Energy, seed: int, seconds: float, adaptive: bool = True, most: float = math.inf) -> list[Stand]:
    """Run the loop until its time is over; neurons are random unless it is `adaptive`."""
    began, excluded, history = time.perf_counter(), 0.0, []
    space = fem.FeedforwardSpace(2, HIDDEN, 1)
    x, state, quadrature = space.initial(seed), None, problem.quadrature
    while True:
        quadrature = enough(space, quadrature)
        J = problem.on(space, quadrature)
        left = max(seconds - (time.perf_counter() - began - excluded), 0.0)
        result = fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=STEPS, max_seconds=left)
        x, state = result.x, result.state
        candidates = fem.ridge_candidates(space, quadrature, seed=seed, count=COUNT)
        width, points = fem.hierarchical(J, x, candidates, count=NEW), fem.quadrature_error(J, x)
        decision = fem.decide({"width": width, "points": points}, tolerance=0.0)
        now = time.perf_counter() - began - excluded
        history.append(Stand(space, x, quadrature, energy_error(problem, space, x, quadrature), width.total, now))
        # That of the error is none of the loop.
        excluded = time.perf_counter() - began - now
        if now >= seconds:
            return history
        if decision.part == "points":
            marked = fem.dorfler(points.indicators, theta=MARKED_POINTS)
            quadrature = fem.refine_quadrature(quadrature, points.cells[marked])
        elif decision.part == "width" and space.dim < most:
            cells = list(width.cells[fem.dorfler(width.indicators, theta=MARKED_NEURONS)])
            if not adaptive:
                cells = candidates.draw(problem.ansatz.reference, x)[: len(cells)]
            space, P = fem.widen(space, cells)
            x, state = P(x), None


def run_energy(seed: int, seconds: float, threads: int, ablated: bool) -> dict[str, float]:
    """Run with one seed; return its figures, those of ablations too."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    with threadpool_limits(threads):
        problem = lshape()
        history = grow(problem, seed, seconds)
        last = history[-1]
        found: dict[str, float] = {"energy_error": last.error, "seconds": last.seconds, "dim": float(last.space.dim)}
        found |= {"points": float(len(last.quadrature)), "effectivity": last.estimate / math.sqrt(last.error)}
        if ablated:
            found |= ablations(problem, seed, seconds, last)
            best = min(found[key] for key in ABLATIONS)
            dims = [stand.space.dim for stand in history if stand.error <= best]
            found["dim_ratio"] = dims[0] / last.space.dim if dims else math.inf
    return found


ABLATIONS = ("random_features_energy_error", "uniform_energy_error", "scratch_energy_error")


def ablations(problem: fem.Energy, seed: int, seconds: float, last: Stand) -> dict[str, float]:
    """Return errors with as many coefficients: untrained neurons, random ones, the final network from scratch."""

    def of(space: fem.FeedforwardSpace, x: Array, quadrature: fem.Quadrature) -> float:
        return energy_error(problem, space, x, quadrature)

    def drawn(scale: tuple[float, float]) -> float:
        J, part = pinn_ablations.untrained(problem, last.space, last.quadrature, seed, scale)
        start = np.zeros(part.space.dim)
        result = fem.trust_region(part, start, 0.0, curvature=True, max_steps=20, max_seconds=seconds)
        return of(J.space, part.transfer(result.x), last.quadrature)

    other = grow(problem, seed, seconds, adaptive=False, most=last.space.dim)[-1]
    J: Any = problem.on(last.space, last.quadrature)
    whole = fem.trust_region(
        J, last.space.initial(seed + 1000), 0.0, curvature=True, max_steps=10**6, max_seconds=seconds
    )
    errors = (
        min(map(drawn, pinn_ablations.SCALES)),
        of(other.space, other.x, other.quadrature),
        of(last.space, whole.x, last.quadrature),
    )
    return dict(zip(ABLATIONS, errors, strict=True))
