"""Ablations of ``bench_pinn.py``, as solvers of time slabs: as many coefficients on the same points, not adapted.

Each marches through the slabs on its own, with what it has itself found at the end of the slab before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from pinn_march import Level, Slab, Start

import dnnfem as fem
from dnnfem.functionals import Composed

Array = np.ndarray
Solver = Callable[[fem.Collocation, Any, Array, float], Array]
"""Minimizes a functional from some coefficients in some seconds."""

SCALES = ((0.5, 1.5), (1.0, 3.0), (3.0, 9.0))
"""Lengths of the weights of random features."""


def untrained(
    problem: Any, space: fem.FeedforwardSpace, quadrature: fem.Quadrature, seed: int, scale: tuple[float, float]
) -> tuple[Any, Composed]:
    """Return the functional on a single layer of random neurons, and what it is in the output layer alone.

    There are as many coefficients as `space` has.
    """
    features = space.inputs + len(space.periodic)
    width = (space.dim - space.outputs) // (features + 1 + space.outputs)
    single = fem.FeedforwardSpace(space.inputs, (width,), space.outputs, periodic=space.periodic)
    x, J, block = single.initial(seed), problem.on(single, quadrature), single.blocks[0]
    outer = single.condensable.ravel()
    entries = (np.ones(len(outer)), (outer, np.arange(len(outer))))
    matrix = sp.csr_array(sp.coo_array(entries, shape=(single.dim, len(outer))))
    rows = x[: block.bias_start].reshape(width, features)
    lengths = np.linalg.norm(rows, axis=1)
    logarithms = np.random.default_rng(seed).uniform(math.log(scale[0]), math.log(scale[1]), width)
    factors, drawn = np.exp(logarithms) / lengths, np.zeros(single.dim)
    drawn[: block.bias_start] = (rows * factors[:, None]).ravel()
    drawn[block.bias_start : block.stop] = x[block.bias_start : block.stop] * factors
    return J, Composed(J, fem.Transfer(matrix, drawn))


def random_features(levels: Sequence[Level], seed: int, scale: tuple[float, float]) -> Slab:
    """Return a solver for the output layer of untrained neurons, as many coefficients as the `levels` have."""

    def solve(problem: fem.Collocation, number: int, _: Start | None, seconds: float) -> Level:
        began, level = time.perf_counter(), levels[number]
        J, part = untrained(problem, level.space, level.quadrature, seed, scale)
        start = np.zeros(part.space.dim)
        found = fem.gauss_newton(part, start, 0.0, max_steps=20, max_seconds=seconds, condensed=False)
        residual = math.sqrt(2.0 * part.value(found.x))
        return Level(J.space, part.transfer(found.x), level.quadrature, residual, time.perf_counter() - began)

    return solve


def scratch(levels: Sequence[Level], seed: int, solver: Solver) -> Slab:
    """Return a solver for the final architecture from random weights."""

    def solve(problem: fem.Collocation, number: int, _: Start | None, seconds: float) -> Level:
        began, level = time.perf_counter(), levels[number]
        J = problem.on(level.space, level.quadrature)
        x = solver(problem, J, level.space.initial(seed=seed + 1000), seconds)
        residual = math.sqrt(2.0 * J.value(x))
        return Level(level.space, x, level.quadrature, residual, time.perf_counter() - began)

    return solve
