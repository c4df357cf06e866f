"""
A network that grows until its own estimate is small enough
===========================================================

Scattered measurements of a surface, with noise, are to be turned into a smooth function.  How wide must the network be?
Nobody has to know: we start with four neurons and let an estimate decide, in the loop of adaptive finite elements,

    solve -> estimate -> mark -> refine.

The surface is Franke's function (1982), the classical test of scattered-data methods; 2000 measurements carry noise of
standard deviation 0.02.  Run the script twice: the second run finds the archive and has nothing left to do.  Delete
``output/quickstart.h5`` to start anew, or stop the script at any moment and run it again.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)


def franke(p):
    """Two hills, a dip and a slope on the unit square; p has shape (m, 2)."""
    x, y = 9 * p[:, 0], 9 * p[:, 1]
    return (
        0.75 * np.exp(-((x - 2) ** 2 + (y - 2) ** 2) / 4)
        + 0.75 * np.exp(-((x + 1) ** 2) / 49 - (y + 1) / 10)
        + 0.5 * np.exp(-((x - 7) ** 2 + (y - 3) ** 2) / 4)
        - 0.2 * np.exp(-((x - 4) ** 2) - (y - 7) ** 2)
    )


# %%
# The data.  Inputs and targets are scaled by the problem; nothing has to be done by hand.

random = np.random.default_rng(1)
points = random.uniform(size=(2000, 2))
targets = franke(points) + 0.02 * random.standard_normal(2000)
fresh = random.uniform(size=(10_000, 2))  # only to look at the true error afterwards

problem = fem.Regression(points, targets)
space = fem.FeedforwardSpace(inputs=2, hidden=(4,), outputs=1)
archive = fem.Archive.open(output / "quickstart.h5", problem, space, space.initial(seed=0))
space, x, state, quadrature, previous = archive.level

# %%
# The loop.  Each solve is only as accurate as the estimate of the level before can notice, and the loop ends when the
# estimated error is a hundredth of the variation of the data.

while True:
    J = problem.on(space, quadrature)
    tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
    result = fem.gauss_newton(J, x, tolerance=tolerance, state=state, observer=archive)  # solve
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))  # estimate
    error = np.sqrt(np.mean((problem.solution(space, result.x)(fresh)[:, 0] - franke(fresh)) ** 2))
    estimated = problem.rms(estimate.total)
    print(archive.solved(result, estimate))
    print(f"    rms error estimated {estimated:.2e}, true {error:.2e}, ratio {estimated / error:.2f}")
    if estimate.total < 0.03 or space.dim > 400:
        break
    marked = fem.dorfler(estimate.indicators, theta=0.8)  # mark
    space, P = fem.widen(space, estimate.cells[marked])  # refine
    x, state, previous = P(result.x), result.state, estimate
    archive.refined(marked, space, P)

print(archive.hierarchy)
