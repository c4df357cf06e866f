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
# The loop.  Each solve is only as accurate as the estimate of the level before can notice.  The goal is an error of two
# per cent of the standard deviation of the data, where the noise alone has six.  The tolerance takes care of the
# algebraic error, so that ``decide`` is asked about the width alone.

goal = 0.02
while True:
    J = problem.on(space, quadrature)
    tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
    result = fem.gauss_newton(J, x, tolerance=tolerance, state=state, observer=archive)  # solve
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))  # estimate
    print(archive.solved(result, estimate))
    decision = fem.decide({"width": estimate}, tolerance=goal, budget=400 - space.dim, algebraic=0.0)
    if decision.stop:
        break
    marked = fem.dorfler(estimate.indicators, theta=0.8)  # mark
    space, P = fem.widen(space, estimate.cells[marked])  # refine
    x, state, previous = P(result.x), result.state, estimate
    archive.refined(marked, space, P)

print(decision)

# %%
# What came out, against the truth that the loop never saw.  The estimate is the distance to what a wider network could
# reach; it must not be confused with the residual, which cannot fall below the noise.

levels = archive.levels
errors = []
for level in levels:
    u = problem.solution(level.space, level.x)
    errors.append(np.sqrt(np.mean((u(fresh)[:, 0] - franke(fresh)) ** 2)))

print("\nlevel  coefficients  rms residual  rms error: estimated      true  ratio")
for level, error in zip(levels, errors, strict=True):
    residual, estimated = problem.rms(np.sqrt(2 * level.steps[-1].value)), problem.rms(level.estimate.total)
    row = f"{level.number:5d} {level.space.dim:13d} {residual:13.2e} {estimated:21.2e} {error:9.2e}"
    print(f"{row} {estimated / error:6.2f}")
print(f"\n{archive.hierarchy}")

# %%
# Pictures: the fit, its error, the convergence, and the widths of the hierarchy.

u = problem.solution(space, result.x)
grid = np.stack(np.meshgrid(np.linspace(0, 1, 81), np.linspace(0, 1, 81)), axis=-1)
fit = u(grid.reshape(-1, 2)).reshape(81, 81)
difference = fit - franke(grid.reshape(-1, 2)).reshape(81, 81)

figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
image = axes[0, 0].contourf(grid[..., 0], grid[..., 1], fit, 24, cmap="viridis")
axes[0, 0].set_title(f"network with {space.hidden[0]} neurons")
figure.colorbar(image, ax=axes[0, 0])
bound = np.abs(difference).max()
image = axes[0, 1].contourf(grid[..., 0], grid[..., 1], difference, np.linspace(-bound, bound, 25), cmap="RdBu_r")
axes[0, 1].set_title("its error (noise of the data: 0.02)")
figure.colorbar(image, ax=axes[0, 1])
plotting.convergence(levels, errors, unit=problem.rms(1.0), ax=axes[1, 0])
plotting.hierarchy(archive.hierarchy, ax=axes[1, 1])
figure.savefig(output / "quickstart.png", dpi=110)
print(f"\npicture: {output / 'quickstart.png'}")
