"""
How wide a network does a landscape need?
=========================================

Elevations of the terrain along the Jacksboro fault in Tennessee, which ship with matplotlib, on a grid of 344 x 403
points.  2000 points are given, 10000 others are used for testing.  Mountains have detail on all scales, so there is no
width at which the error vanishes: the loop runs until a budget of coefficients is used up, and the estimate says at
every level what more neurons would still gain.  At the end the neurons that do least are removed again.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.cbook as cbook
import matplotlib.pyplot as plt
import numpy as np

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
budget = 60 if "--quick" in sys.argv else 150

# %%
# Longitude and latitude in degrees, elevation in metres: the problem scales all of them, and reports in metres.

with cbook.get_sample_data("jacksboro_fault_dem.npz") as dem:
    elevation = np.asarray(dem["elevation"], dtype=float)
    east = np.linspace(dem["xmin"], dem["xmax"], elevation.shape[1])
    # The first row is the northernmost.
    latitudes = sorted((float(dem["ymin"]), float(dem["ymax"])))
    north = np.linspace(latitudes[1], latitudes[0], elevation.shape[0])
where = np.stack(np.meshgrid(east, north), axis=-1).reshape(-1, 2)
heights = elevation.ravel()

random = np.random.default_rng(0)
order = random.permutation(len(heights))
given, test = order[:2000], order[2000:12000]
problem = fem.Regression(where[given], heights[given])

# %%
# The loop, with the budget in the hands of ``decide``.  A level gets 20 steps; where the estimate shows that this was
# not enough, ``decide`` asks for more of them before anything is refined.

space = fem.FeedforwardSpace(inputs=2, hidden=(8,), outputs=1)
x, state, previous = space.initial(seed=0), None, None
rows = []
print("coefficients  steps  rms residual  estimate  test error (all in metres)")
while True:
    J = problem.on(space)
    tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
    result = fem.gauss_newton(J, x, tolerance, state=state, max_steps=20)
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=0))
    error = np.sqrt(np.mean((problem.solution(space, result.x)(where[test])[:, 0] - heights[test]) ** 2))
    rows.append((space.dim, problem.rms(estimate.total), error))
    residual = problem.rms(np.sqrt(2 * result.value))
    print(f"{space.dim:12d} {result.steps[-1].number:6d} {residual:13.1f} {rows[-1][1]:9.1f} {error:11.1f}")
    decision = fem.decide({"width": estimate}, tolerance=0.01, budget=budget - space.dim)
    if decision.stop:
        break
    if decision.part == "solve" and not result.status.final:
        x, state = result.x, result.state
        continue
    space, P = fem.widen(space, estimate.cells[fem.dorfler(estimate.indicators, theta=0.9)])
    x, state, previous = P(result.x), result.state, estimate
print(decision)

# %%
# Coarsening.  For every neuron the rise of J is predicted, if it alone is removed: of neurons that are nearly parallel
# each is dispensable, but not all of them.  So a quarter may go at once, those that cost less than a hundredth of the
# residual, and a few steps let the others take over.

rise = fem.removal(J, result.x)
least = np.argsort(rise.indicators)[: space.hidden[0] // 4]
marked = least[rise.indicators[least] ** 2 < 0.01 * 2 * result.value]
if len(marked):
    smaller, P = fem.coarsen(space, rise.cells[marked])
    after = fem.gauss_newton(problem.on(smaller), P.project(result.x), 0.1 * estimate.total, max_steps=20)
    print(
        f"{len(marked)} neurons removed: {space.dim} -> {smaller.dim} coefficients, "
        f"rms residual {problem.rms(np.sqrt(2 * result.value)):.1f} -> {problem.rms(np.sqrt(2 * after.value)):.1f} m"
    )
else:
    print("no neuron is dispensable")

# %%
# The landscape, the network, and how error and estimate fell.

fit = problem.solution(space, result.x)(where).reshape(elevation.shape)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
extent = (east[0], east[-1], north[-1], north[0])
for ax, data, title in (
    (axes[0], elevation, "elevation [m]"),
    (axes[1], fit, f"network, {space.hidden[0]} neurons"),
):
    image = ax.imshow(data, extent=extent, cmap="terrain", vmin=elevation.min(), vmax=elevation.max(), aspect="auto")
    ax.set_title(title)
    ax.locator_params(nbins=4)
figure.colorbar(image, ax=axes[:2], shrink=0.9)
dims, estimates, errors = np.array(rows).T
axes[2].loglog(dims, estimates, "o-", color=plotting.BLUE, markersize=4, label="estimate")
axes[2].loglog(dims, errors, "s--", color=plotting.ORANGE, markersize=4, label="test error")
axes[2].set_xlabel("coefficients")
axes[2].set_ylabel("metres")
axes[2].legend(frameon=False)
figure.savefig(output / "regression_width.png", dpi=110)
print(f"picture: {output / 'regression_width.png'}")
