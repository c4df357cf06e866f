"""
An L-shaped domain: an energy, a corner, and points where they count
====================================================================

``-Lap u = 1`` in an L, ``u = 0`` on its boundary: the torsion of a bar.  At the corner that points inwards the gradient
is infinite.  Ritz' method minimizes the energy ``int |grad u|^2 / 2 - u``, which needs first derivatives alone; a
factor that vanishes on the boundary makes every network admissible.  `dnnfem.decide` chooses in every round: to add
points, which end up near the corner, to solve on, or to add neurons.

The energy of the exact solution is known to ten digits, and as it is the least one the error in the energy norm is the
root of twice the difference.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
goal, rounds = (4e-2, 4) if "--quick" in sys.argv else (6e-3, 40)
torsion = 0.2140758036  # the integral of |grad u|^2, which is that of u

# %%
# Three squares make an L.  The density is convex in the value and the gradient of ``u``; the rest is taken care of.

domain = fem.Boxes([fem.Box([-1, -1], [0, 0]), fem.Box([-1, 0], [0, 1]), fem.Box([0, 0], [1, 1])])
problem = fem.Energy(lambda p, u: 0.5 * (u.grad**2).sum(dim=0) - u.value, domain, dirichlet=0.0)
space = fem.FeedforwardSpace(inputs=2, hidden=(8, 8), outputs=1)
x, state, quadrature = space.initial(seed=0), None, problem.quadrature

# %%
# The loop.  An energy has no lower bound between the points: there have to be many of them from the beginning, and then
# more where a finer quadrature would change the energy.  All estimates are of one quantity, the error in the energy
# norm.

while len(quadrature) < 30 * space.dim:
    quadrature = fem.refine_quadrature(quadrature, np.arange(quadrature.cell_count))
print("coefficients  points  error      estimate   then")
history = []
for _ in range(rounds):
    J = problem.on(space, quadrature)
    result = fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=30)  # solve
    x, state = result.x, result.state
    width = fem.hierarchical(J, x, fem.ridge_candidates(space, quadrature, seed=0, count=20), count=8)  # estimate
    points = fem.quadrature_error(J, x)
    decision = fem.decide({"width": width, "points": points}, tolerance=goal)
    energy = problem.on(space, quadrature.finer()).value(x)
    error = np.sqrt(max(torsion + 2.0 * energy, 0.0))
    history.append((space.dim, error, width.total))
    print(f"{space.dim:12d} {len(quadrature):7d}  {error:.3e}  {width.total:.3e}  {decision.reason}")
    if decision.part is None:
        break
    if decision.part == "points":
        quadrature = fem.refine_quadrature(quadrature, fem.dorfler(points.indicators, theta=0.8))  # mark, refine
    elif decision.part == "width":
        marked = fem.dorfler(width.indicators, theta=0.9)
        space, P = fem.widen(space, width.cells[marked])
        x, state = P(x), None

print(f"\nint |grad u|^2 = {-2.0 * energy:.6f}, exact {torsion:.6f}")

# %%
# The solution, the length of its gradient, and the points.

u = problem.solution(space, x)
grid = np.stack(np.meshgrid(np.linspace(-1, 1, 161), np.linspace(-1, 1, 161)), axis=-1)
flat = grid.reshape(-1, 2)
outside = ((flat[:, 0] > 0) & (flat[:, 1] < 0)).reshape(161, 161)
values = np.ma.array(u(flat).reshape(161, 161), mask=outside)
slope = np.ma.array(np.linalg.norm(u.gradient(flat)[:, 0], axis=1).reshape(161, 161), mask=outside)
figure, axes = plt.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
for place, what, title in ((axes[0], values, f"solution, {space.dim} coefficients"), (axes[1], slope, "its slope")):
    figure.colorbar(place.contourf(grid[..., 0], grid[..., 1], what, 24, cmap="viridis"), ax=place)
    place.set_title(title)
axes[2].plot(*quadrature.points.T, ".", color=plotting.BLUE, markersize=1)
axes[2].set_title(f"{len(quadrature)} points")
for place in axes[:3]:
    place.set_aspect("equal")
axes[3].semilogy([error for _, error, _ in history], "o-", color=plotting.BLUE, label="error")
axes[3].semilogy([estimate for _, _, estimate in history], "s--", color=plotting.ORANGE, label="estimate")
axes[3].set(xlabel="round", title="in the energy norm")
axes[3].legend()
figure.savefig(output / "lshape.png", dpi=110)
print(f"picture: {output / 'lshape.png'}")
