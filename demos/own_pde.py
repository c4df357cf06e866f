"""
An equation of your own: a system, its conditions, and what estimates say of it
===============================================================================

The stationary equations of Navier and Stokes, two for the momentum and one for the mass, with velocity and pressure as
the three outputs of one network.  This is all that has to be written: a function with the residuals, and one with those
of the boundary conditions, which hold for the velocity alone.  Derivatives, sizes of the equations and points are taken
care of, and mistakes are named before anything is solved.

Kovasznay's solution, the flow behind a grid at Reynolds number 40, is known and used for boundary values and errors.
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
rounds, width = (2, 10) if "--quick" in sys.argv else (8, 16)
reynolds = 40.0
rate = reynolds / 2.0 - np.sqrt(reynolds**2 / 4.0 + 4.0 * np.pi**2)


def kovasznay(x, y, library):
    """Return velocity and pressure at points, with functions of NumPy or torch."""
    decay, phase = library.exp(rate * x), 2.0 * np.pi * y
    across = rate / (2.0 * np.pi) * decay * library.sin(phase)
    return 1.0 - decay * library.cos(phase), across, 0.5 * (1.0 - decay**2)


# %%
# The law: what is left over, one tensor per equation.  ``u[0]`` and ``u[1]`` are the velocity, ``u[2]`` the pressure.


def navier_stokes(p, u):
    """Return the residuals of both momenta and of the mass."""
    momenta = [u[0].value * u[i].d(0) + u[1].value * u[i].d(1) + u[2].d(i) - u[i].laplacian / reynolds for i in (0, 1)]
    return [*momenta, u[0].d(0) + u[1].d(1)]


def velocity(p, u):
    """Return the residuals of the conditions on the boundary; the pressure has none."""
    along, across, _ = kovasznay(p.x[0], p.x[1], torch)
    return [u[0].value - along, u[1].value - across]


problem = fem.Collocation(navier_stokes, fem.Box([-0.5, -0.5], [1.0, 1.5]), boundary=velocity, outputs=3)
print("sizes of the equations:", {name: law.scale.round(2).tolist() for name, law in problem.laws.items()})

# %%
# A wrong law says what is wrong with it.

try:
    fem.Collocation(lambda p, u: u.laplacian.sum(dim=1), problem.domain, outputs=3)
except ValueError as error:
    print(f"a mistake: {error}\n")

# %%
# The loop.  A pressure is known up to a constant: its mean is taken out before it is compared.

fresh = np.random.default_rng(0).uniform(problem.domain.low, problem.domain.high, (5000, 2))
exact = np.stack(kovasznay(*fresh.T, np), axis=1)
exact[:, 2] -= exact[:, 2].mean()


def errors(u):
    """Return root mean square errors of velocity and pressure."""
    values = u(fresh)
    values[:, 2] -= values[:, 2].mean()
    return np.sqrt(np.mean((values - exact) ** 2, axis=0))


space = fem.FeedforwardSpace(inputs=2, hidden=(width, width), outputs=3)
x, state, quadrature, history = space.initial(seed=0), None, problem.quadrature, []
print("coefficients  points  residual   between the points   rms errors of u, v, p")
for _ in range(rounds):
    J = problem.on(space, quadrature)
    result = fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=30)  # solve
    x, state = result.x, result.state
    residual = fem.residual(J, x)  # estimate
    history.append((residual.total, *errors(problem.solution(space, x))))
    figures = "  ".join(f"{error:.1e}" for error in history[-1][1:])
    print(f"{space.dim:12d}  {len(quadrature):6d}  {residual.total:.2e}   {residual.parts['points']:.2e}   {figures}")
    if residual.parts["points"] > 0.3 * residual.parts["known"]:
        marked = fem.dorfler(np.abs(residual.signed) ** 0.5, theta=0.8)  # mark
        quadrature = fem.refine_quadrature(quadrature, residual.cells[marked])  # refine

# %%
# Streamlines, the pressure, and how residual and errors fell together.

u = problem.solution(space, x)
grid = np.stack(np.meshgrid(np.linspace(-0.5, 1.0, 81), np.linspace(-0.5, 1.5, 101)), axis=-1)
along, across, pressure = u(grid.reshape(-1, 2)).T.reshape(3, 101, 81)
figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
axes[0].streamplot(grid[..., 0], grid[..., 1], along, across, color=np.hypot(along, across), cmap="viridis")
axes[0].set_title(f"velocity, {space.dim} coefficients")
figure.colorbar(axes[1].contourf(grid[..., 0], grid[..., 1], pressure, 24, cmap="RdBu_r"), ax=axes[1])
axes[1].set_title("pressure")
for place in axes[:2]:
    place.set_aspect("equal")
names, colors = ("residual", "u", "v", "p"), (plotting.GREY, plotting.BLUE, plotting.BLUE, plotting.ORANGE)
for name, color, style, values in zip(names, colors, ("--", "-", ":", "-"), zip(*history, strict=True), strict=True):
    axes[2].semilogy(range(1, len(values) + 1), values, style, color=color, marker="o", markersize=3, label=name)
axes[2].set(xlabel="round", title="residual and errors")
axes[2].legend()
figure.savefig(output / "own_pde.png", dpi=110)
print(f"\npicture: {output / 'own_pde.png'}")
