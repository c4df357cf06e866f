"""
An inverse problem: how well does a rod conduct heat?
=====================================================

A rod with cold ends cools down, ``u_t = kappa u_xx - gamma u``: heat is conducted along it and lost to the air.
Neither coefficient is known; what is known are its temperatures at random places and times, with an error of about
0.02.  The coefficients are further unknowns of the same least-squares problem, and they come out with intervals.

The solution must follow the equation and not the noise, so observations must not weigh too much; nor too little, or
they would drown in what the network cannot resolve of the equation.  Their weight is found after every solve.
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
rounds, width = (2, 6) if "--quick" in sys.argv else (7, 10)
truth = {"kappa": 0.05, "gamma": 0.4}


def temperature(points):
    """Return the temperature of a rod with the true coefficients: two waves, each with a decay of its own."""
    x, t = points.T
    first, third = (np.sin(k * np.pi * x) * np.exp(-truth["kappa"] * (k * np.pi) ** 2 * t) for k in (1, 3))
    return (first + 0.5 * third) * np.exp(-truth["gamma"] * t)


random = np.random.default_rng(0)
points = random.uniform([0, 0], [1, 1], (200, 2))
values = temperature(points) + 0.02 * random.standard_normal(200)

# %%
# The problem.  Unknowns come with values to start from, and the law takes them as keywords.  A space needs as many.

problem = fem.Collocation(
    lambda p, u, kappa, gamma: u.dt - kappa * u.laplacian + gamma * u,
    fem.Box([0], [1]),
    time=(0, 1),
    dirichlet=0.0,
    initial=lambda p: torch.sin(torch.pi * p.x[0]) + 0.5 * torch.sin(3 * torch.pi * p.x[0]),
    unknowns={"kappa": 1.0, "gamma": 0.0},
    observations=(points, values),
)
space = fem.FeedforwardSpace(inputs=2, hidden=(width, width), outputs=1, unknowns=2)
x, quadrature, history = space.initial(seed=0), problem.quadrature, []

# %%
# The loop.  What is said of the noise, the unknowns and the weight of the observations comes from the same curvature.
# The equation holds well enough when no degree of freedom follows the noise any more: the weight then stays as it is.
# A spike that fits an observation must not hide between the points where the equation is looked at, so points are added
# where the residual is larger than the solver knew.

for _ in range(rounds):
    J = problem.on(space, quadrature)
    x = fem.trust_region(J, x, 0.0, curvature=True, max_steps=60).x
    found = fem.confidence(J, x)
    weight = quadrature.regions["observations"].total
    print(f"observations weigh {weight:.2e}, {found.fitted:.1f} degrees of freedom fitted, {len(quadrature)} points")
    print(f"{found}\n")
    history.append(found)
    quadrature = found.reweighted(quadrature)
    residual = fem.residual(problem.on(space, quadrature), x)
    while residual.parts["points"] > 0.3 * residual.parts["known"]:
        missing = fem.dorfler(np.abs(residual.signed) ** 0.5, theta=0.8)
        quadrature = fem.refine_quadrature(quadrature, residual.cells[missing])
        residual = fem.residual(problem.on(space, quadrature), x)

# %%
# The solution with the observations, and the intervals of all solves.

u = problem.solution(space, x)
grid = np.stack(np.meshgrid(np.linspace(0, 1, 81), np.linspace(0, 1, 81)), axis=-1)
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
levels = np.linspace(-0.3, 1.2, 31)
image = axes[0].contourf(grid[..., 1], grid[..., 0], u(grid.reshape(-1, 2)).reshape(81, 81), levels, cmap="viridis")
axes[0].scatter(points[:, 1], points[:, 0], c=values, norm=image.norm, cmap="viridis", s=14, edgecolors="w", lw=0.4)
axes[0].set_title(f"temperature, and {len(points)} observations")
axes[0].set_xlabel("time")
figure.colorbar(image, ax=axes[0])
for place, (name, value) in zip(axes[1:], truth.items(), strict=True):
    low, high = np.array([found.intervals()[name] for found in history]).T
    solves, middle = np.arange(1, len(history) + 1), np.array([found.values[name] for found in history])
    place.errorbar(solves, middle, [middle - low, high - middle], fmt="o", color=plotting.BLUE, capsize=4)
    place.axhline(value, color=plotting.ORANGE)
    place.set_title(f"{name} = {middle[-1]:.4f}, 95 % in [{low[-1]:.4f}, {high[-1]:.4f}]")
    place.set(xlabel="solves", xticks=solves)
figure.savefig(output / "inverse.png", dpi=110)
error = np.sqrt(np.mean((u(grid.reshape(-1, 2))[:, 0] - temperature(grid.reshape(-1, 2))) ** 2))
print(f"rms error of the temperature {error:.1e}; picture: {output / 'inverse.png'}")
