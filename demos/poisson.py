"""
Poisson's equation: a network that knows how large its residual is
==================================================================

``-Lap u = f`` on the unit square, with values on the boundary that hold exactly, whatever the network is.  The law is
the strong residual, written with torch.  Neurons are added where the hierarchical estimate finds that they gain most,
and points where the residual is larger between the points than at them.  The right-hand side belongs to two bumps of
different widths, so that the loop has something to find.

Run the script twice: the second run finds the archive and has nothing left to do.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
goal, most = (1e-2, 150) if "--quick" in sys.argv else (1e-4, 500)


def exact(p):
    """Return the solution at points (m, 2) of NumPy or torch."""
    exp = torch.exp if isinstance(p, torch.Tensor) else np.exp
    first = exp(-((p[:, 0] - 0.3) ** 2 + (p[:, 1] - 0.4) ** 2) / (2 * 0.2**2))
    return first + 0.5 * exp(-((p[:, 0] - 0.7) ** 2 + (p[:, 1] - 0.7) ** 2) / (2 * 0.05**2))


def source(p):
    """Return ``-Lap u`` of the solution; of a Gaussian that is ``(2 - |x - c|^2 / s^2) / s^2`` times itself."""
    total = 0.0
    for height, x, y, s in ((1.0, 0.3, 0.4, 0.2), (0.5, 0.7, 0.7, 0.05)):
        square = ((p.x[0] - x) ** 2 + (p.x[1] - y) ** 2) / s**2
        total = total + height * (2.0 - square) / s**2 * torch.exp(-square / 2.0)
    return total


# %%
# The problem.  Boundary values are read on the boundary only; scaling, points and derivatives are taken care of.

problem = fem.Collocation(
    lambda p, u: u.laplacian + source(p),
    fem.Box([0, 0], [1, 1]),
    dirichlet=lambda p: exact(p.coordinates),
)
space = fem.FeedforwardSpace(inputs=2, hidden=(10, 10), outputs=1)
archive = fem.Archive.open(output / "poisson.h5", problem, space, space.initial(seed=0))
space, x, state, quadrature, previous = archive.level

# %%
# The loop.  The residual estimate looks at points that the solver did not see.

while True:
    J = problem.on(space, quadrature)
    result = fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=60, observer=archive)  # solve
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0, count=60))  # estimate
    residual = fem.residual(J, result.x)
    print(archive.solved(result, estimate))
    print(f"         {len(quadrature)} points, {residual}")
    if residual.total < goal or space.dim > most:
        break
    marked = fem.dorfler(estimate.indicators, theta=0.8)  # mark
    space, P = fem.widen(space, estimate.cells[marked])  # refine
    if residual.parts["points"] > 0.3 * residual.parts["known"]:
        quadrature = fem.refine_quadrature(quadrature, fem.dorfler(np.abs(residual.signed) ** 0.5, theta=0.8))
    x, state = P(result.x), result.state
    archive.refined(marked, space, P, quadrature)

# %%
# What came out, against the solution that the loop never saw.

fresh = np.random.default_rng(1).uniform(size=(10_000, 2))
print("\nlevel  coefficients  residual at the points  rms error")
for level in archive.levels:
    difference = problem.solution(level.space, level.x)(fresh)[:, 0] - exact(fresh)
    known = np.sqrt(2 * level.steps[-1].value)
    print(f"{level.number:5d} {level.space.dim:13d} {known:23.2e} {np.sqrt(np.mean(difference**2)):10.2e}")

# %%
# The solution, its error, and the points that the estimate asked for.

u = problem.solution(space, result.x)
grid = np.stack(np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101)), axis=-1)
values = u(grid.reshape(-1, 2)).reshape(101, 101)
difference = values - exact(grid.reshape(-1, 2)).reshape(101, 101)
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
image = axes[0].contourf(grid[..., 0], grid[..., 1], values, 24, cmap="viridis")
axes[0].set_title(f"solution, {space.dim} coefficients")
figure.colorbar(image, ax=axes[0])
bound = np.abs(difference).max()
image = axes[1].contourf(grid[..., 0], grid[..., 1], difference, np.linspace(-bound, bound, 25), cmap="RdBu_r")
axes[1].set_title("its error")
figure.colorbar(image, ax=axes[1])
axes[2].plot(*quadrature.points.T, ".", color=plotting.BLUE, markersize=2)
axes[2].set_title(f"{len(quadrature)} points")
for place in axes:
    place.set_aspect("equal")
figure.savefig(output / "poisson.png", dpi=110)
print(f"\npicture: {output / 'poisson.png'}")
