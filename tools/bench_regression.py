"""Adaptive regression of given functions: test errors, coefficients, times, and three ablations at equal size.

    python tools/bench_regression.py --function sincos --seeds 10 --json

Every run uses defaults only.  A seed draws the sample and everything that is random in the method.  The ablations have
as many coefficients as the adaptive network, frozen ones counted:

random features   untrained neurons drawn as the candidates are (best of three scales of their weights) and one linear
                  least-squares solve
uniform           the same loop, with neurons added at random instead of those that the estimate marks
scratch           the same solver on the final architecture, from a random starting point
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import dnnfem as fem
from dnnfem.spaces.feedforward import Neuron

Array = np.ndarray


@dataclass(frozen=True)
class Function:
    """A function to be fitted, on a box, with sample sizes and the largest number of coefficients."""

    value: Callable[[Array], Array]
    box: tuple[float, float]
    dimension: int
    training: int
    limit: int
    goal: float
    test: int = 500


def sincos(p: Array) -> Array:
    """arXiv 2607.07637, section on regression."""
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


@dataclass(frozen=True)
class Run:
    """One adaptive run: the path of (coefficients, test error), seconds, and the final space."""

    path: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    space: fem.FeedforwardSpace | None = None
