"""
Burgers' equation: points where the layer is
============================================

``u_t + u u_x = nu u_xx`` with ``nu = 0.01 / pi`` and ``u(x, 0) = -sin(pi x)``: at time 1/pi a layer of width 0.01 forms
at the origin.  Nobody tells the solver where it is.  After every solve the residual is computed on a finer quadrature;
where it is larger than the solver knew, cells are bisected until the points resolve it.  The reference is the formula
of Cole and Hopf.
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
rounds, width = (2, 8) if "--quick" in sys.argv else (14, 16)
nu = 0.01 / np.pi


def reference(points, nodes=400):
    """Return Cole's and Hopf's solution: means over a Gaussian, by the trapezoidal rule on the real line."""
    x, t = points.T
    height = 1.0 / (2.0 * np.pi * nu)
    eta = np.sqrt(2.0 * height + 40.0) * np.linspace(-1.0, 1.0, nodes)
    y = np.pi * (x[:, None] - np.sqrt(4.0 * nu * t)[:, None] * eta)
    exponent = -(eta**2) - height * np.cos(y)
    weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return -(weight * np.sin(y)).sum(axis=1) / weight.sum(axis=1)


# %%
# The law and its conditions.  Initial and boundary values hold exactly; time is the last coordinate of all points.

problem = fem.Collocation(
    lambda p, u: u.dt + u * u.d(0) - nu * u.laplacian,
    fem.Box([-1], [1]),
    time=(0, 1),
    dirichlet=0.0,
    initial=lambda p: -torch.sin(torch.pi * p.x[0]),
)
space = fem.FeedforwardSpace(inputs=2, hidden=(width, width, width), outputs=1)
x, state, quadrature = space.initial(seed=0), None, problem.quadrature
fresh = np.random.default_rng(1).uniform([-1, 0], [1, 1], (5000, 2))
truth = reference(fresh)

# %%
# The equation is not linear, so steps are those of Levenberg and Marquardt.  A quadrature resolves a residual when what
# finer points would add is small against what is known; as long as it is not, more steps would only fit the points.

print("points     residual     between the points    relative error    seconds")
seconds = 0.0
for _ in range(rounds):
    J = problem.on(space, quadrature)
    result = fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=30)
    x, state, seconds = result.x, result.state, seconds + result.steps[-1].seconds
    u = problem.solution(space, x)
    error = np.linalg.norm(u(fresh)[:, 0] - truth) / np.linalg.norm(truth)
    residual = fem.residual(J, x)
    parts = residual.parts
    print(f"{len(quadrature):6d} {residual.total:12.2e} {parts['points']:22.2e} {error:17.2e} {seconds:10.1f}")
    while parts["points"] > 0.3 * parts["known"] and len(quadrature) < 24 * space.dim:
        quadrature = fem.refine_quadrature(quadrature, fem.dorfler(np.abs(residual.signed) ** 0.5, theta=0.8))
        residual = fem.residual(problem.on(space, quadrature), x)
        parts = residual.parts

# %%
# The solution, its error, and the points.

grid = np.stack(np.meshgrid(np.linspace(0, 1, 101), np.linspace(-1, 1, 201), indexing="ij"), axis=-1)[..., ::-1]
values = u(grid.reshape(-1, 2)).reshape(grid.shape[:2])
difference = np.abs(values - reference(grid.reshape(-1, 2)).reshape(grid.shape[:2]))
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
image = axes[0].contourf(grid[..., 1], grid[..., 0], values, 24, cmap="RdBu_r")
axes[0].set_title(f"solution, {space.dim} coefficients")
figure.colorbar(image, ax=axes[0])
image = axes[1].contourf(grid[..., 1], grid[..., 0], np.log10(difference + 1e-12), 24, cmap="viridis")
axes[1].set_title("decimal logarithm of its error")
figure.colorbar(image, ax=axes[1])
axes[2].plot(quadrature.points[:, 1], quadrature.points[:, 0], ".", color=plotting.BLUE, markersize=1)
axes[2].set_title(f"{len(quadrature)} points")
for place in axes:
    place.set_xlabel("t")
axes[0].set_ylabel("x")
figure.savefig(output / "burgers.png", dpi=110)
print(f"\npicture: {output / 'burgers.png'}")
