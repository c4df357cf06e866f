"""
Errors that grow: weights that stability determines
===================================================

``u_t = 5 (u - u^3)``: in a unit of time errors where ``u`` is small grow 148 times, those near ``u = 1`` are forgotten.
The initial value has kinks at 0.8, and least squares spend neurons on them that are needed elsewhere.  A rough march
through two time slabs says how much a residual does to the solution, now and later; the second march weighs by that.
"""

import sys
from dataclasses import replace
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
rough_steps, steps, width = (10, 10, 4) if "--quick" in sys.argv else (40, 100, 10)
edges = (0.0, 0.5, 1.0)


def exact(points):
    """Return the solution: at every point an ordinary differential equation of Bernoulli's kind."""
    x, t = points.T
    begin, growth = 0.5 * x**2 + 2.0 * np.maximum(np.abs(x) - 0.8, 0.0), np.exp(5.0 * t)
    return begin * growth / np.sqrt(1.0 + begin**2 * (growth**2 - 1.0))


# %%
# The equation on the first slab.  Its initial value is a further residual; the second slab begins exactly with what has
# been found at the end of the first one.

first = fem.Collocation(
    lambda p, u: u.dt - 5.0 * (u - u**3),
    fem.Box([-1], [1]),
    time=edges[:2],
    initial=lambda p: 0.5 * p.x[0] ** 2 + 2.0 * torch.relu(p.x[0].abs() - 0.8),
    exact=False,
)
space = fem.FeedforwardSpace(inputs=2, hidden=(width, width), outputs=1)


def march(steps, starts, weights):
    """Solve slab after slab; return the problems and their solutions."""
    problem, found = first, []
    for number, end in enumerate(edges[1:]):
        if number:
            problem = fem.next_slab(problem, problem.solution(space, found[-1][1]), end, exact=True)
        problem = replace(problem, weight=weights[number])
        J = problem.on(space, problem.quadrature.finer())
        result = fem.trust_region(J, starts[number], 0.0, curvature=True, max_steps=steps)
        found.append((problem, result.x))
    return found


# %%
# The rough march, and weights from the last slab to the first: what is wrong at its end is carried on by the next one.

rough = march(rough_steps, [space.initial(seed=0), space.initial(seed=1)], [None, None])
later, stabilities = None, []
for problem, x in reversed(rough):
    later = fem.stability(problem, space, x, later=later)
    stabilities.insert(0, later)
print("an error at the beginning is, in the mean square over all later times, multiplied by")
for place in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
    print(f"    {stabilities[0]([[place, 0.0]], 'initial')[0, 0]:5.1f}   at x = {place:g}")

# %%
# Two marches with as many steps, from the same coefficients.  With weights the residual is of the size of the error.

line, times = np.linspace(-1.0, 1.0, 401), np.linspace(0.0, 1.0, 81)
owner = np.searchsorted(edges[1:-1], times)
grid = np.stack(np.meshgrid(times, line, indexing="ij"), axis=-1)[..., ::-1]
truth, errors = exact(grid.reshape(-1, 2)).reshape(grid.shape[:2]), {}
for name, weights in {"alike": [None, None], "by stability": [found.weights for found in stabilities]}.items():
    found = march(steps, [x for _, x in rough], weights)
    values = [found[k][0].solution(space, found[k][1])(row)[:, 0] for k, row in zip(owner, grid, strict=True)]
    residual = max(np.sqrt(2.0 * problem.on(space).value(x)) for problem, x in found)
    errors[name] = np.array(values) - truth
    error = np.sqrt(np.mean(errors[name] ** 2))
    print(f"residuals weighed {name}: residual {residual:.1e}, root mean square error {error:.1e}")

# %%
# The solution, the weights of the equation, and how the errors grow.

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
image = axes[0].contourf(times, line, truth.T, 24, cmap="viridis")
axes[0].set_title(f"solution, two networks of {space.dim} coefficients")
kappa = [stabilities[k](row)[:, 0] for k, row in zip(owner, grid, strict=True)]
figure.colorbar(image, ax=axes[0])
image = axes[1].contourf(times, line, np.array(kappa).T, 24, cmap="viridis")
axes[1].set_title("weights of the equation")
figure.colorbar(image, ax=axes[1])
for (name, error), color in zip(errors.items(), (plotting.ORANGE, plotting.BLUE), strict=True):
    axes[2].semilogy(times, np.sqrt(np.mean(error**2, axis=1)), color=color, label=f"residuals weighed {name}")
axes[2].set_title("root mean square error")
axes[2].legend()
for place in axes:
    place.set_xlabel("t")
axes[0].set_ylabel("x")
figure.savefig(output / "growing_errors.png", dpi=110)
print(f"\npicture: {output / 'growing_errors.png'}")
