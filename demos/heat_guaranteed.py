"""
Heat conduction with a guaranteed bound of the error
====================================================

A plate of a poor conductor with a core that conducts heat ten times as well: ``-div(A grad u) = f``, with the
temperature given on the boundary.  How far is the computed temperature from the right one?  Any vector field `y` gives
a bound of the energy norm of the error::

    |A^(1/2) grad(u - v)| <= |A^(-1/2) (y - A grad v)| + C |div y + f|

and the better `y` is as a heat flux, the closer it is to the error.  So there are two networks: one for the
temperature `v`, and one for the flux `y`.  The flux gets neurons as long as its hierarchical estimate says that the
bound would become smaller, then the temperature does, until the *bound* is below the goal.
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
goal, most = (5e-3, 200) if "--quick" in sys.argv else (2e-4, 600)

# %%
# The material.  Around a circle the conductivity falls from 10 to 1; its inverse, the resistance, is a smooth step in
# ``q = r^2``.  Then ``-integral of s / A(s) ds`` has a closed form, and so has the temperature of this example.

center, inside, outside, place, width = 0.5, 10.0, 1.0, 0.3**2, 0.03


def resistance(q):
    """Return ``1 / A``."""
    return 1 / inside + (1 / outside - 1 / inside) * 0.5 * (1 + torch.tanh((q - place) / width))


def radius(x):
    """Return ``r^2`` at coordinates (2, m)."""
    return (x[0] - center) ** 2 + (x[1] - center) ** 2


def exact(x):
    """Return the temperature at coordinates (2, m)."""
    q = radius(x)
    z = (q - place) / width
    # log(cosh(z)), also for large arguments.
    step = width * (torch.nn.functional.softplus(2 * z) - z - np.log(2.0))
    primitive = q / inside + (1 / outside - 1 / inside) * 0.5 * (q + step)
    return (0.25 - 0.5 * primitive) * (1 + 0.5 * x[0])


def source(p):
    """Return ``f = -div(A grad u)`` by automatic differentiation."""
    with torch.enable_grad():
        x = p.x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(exact(x).sum(), x, create_graph=True)
        flux = slope / resistance(radius(x))
        parts = [torch.autograd.grad(flux[k].sum(), x, retain_graph=True)[0][k] for k in range(2)]
    return -(parts[0] + parts[1]).detach()


def conductivity(p):
    """Return ``A``."""
    return 1 / resistance(radius(p.x))


def heat(p, u):
    """Return the strong residual ``A Lap u + grad A . grad u + f``, by the chain rule for ``1 / (1 / A)``."""
    z = (radius(p.x) - place) / width
    slope = (1 / outside - 1 / inside) * 0.5 / width / torch.cosh(z) ** 2
    a = conductivity(p)
    outward = 2 * ((p.x[0] - center) * u.d(0) + (p.x[1] - center) * u.d(1))
    return a * u.laplacian - a**2 * slope * outward + source(p)


# %%
# The true error, on a fine mesh: for comparison only.

fine = fem.BoxMesh.uniform([0, 0], [1, 1], 40, 4).quadrature()
where = torch.tensor(fine.points.T.copy(), requires_grad=True)
slopes = torch.autograd.grad(exact(where).sum(), where)[0].T.numpy()
material = 1 / resistance(radius(where.detach())).numpy()


def errors(v):
    """Return the error in the energy norm on the cells of the fine mesh."""
    squares = material * np.sum((v.gradient(fine.points)[:, 0] - slopes) ** 2, axis=1)
    return np.sqrt(np.bincount(fine.cells, fine.weights * squares))


# %%
# The loop.

problem = fem.Collocation(heat, fem.Box([0, 0], [1, 1]), dirichlet=lambda p: exact(p.x))
space, fluxes = fem.FeedforwardSpace(2, (4, 4), 1), fem.FeedforwardSpace(2, (4, 4), 2)
x, y, quadrature = space.initial(seed=0), fluxes.initial(seed=0), problem.quadrature
balance, rows = 1.0, []


def enriched(J, x, points):
    """Return the hierarchical estimate."""
    return fem.hierarchical(J, x, fem.ridge_candidates(J.space, points, seed=0, count=60))


def grown(space, x, estimate):
    """Return a space with the neurons that an estimate adds, and the prolonged iterate."""
    space, P = fem.widen(space, estimate.cells[fem.dorfler(estimate.indicators, theta=0.8)])
    return space, P(x)


print("coefficients: u   flux   points  true error   majorant       flux  equilibrium   index")
while True:
    J = problem.on(space, quadrature)
    x = fem.trust_region(J, x, 0.0, curvature=True, max_steps=60).x
    v = problem.solution(space, x)
    flux = fem.Flux(v, source, conductivity, lowest=outside, quadrature=quadrature, balance=balance)
    while True:
        F = flux.on(fluxes)
        y = fem.trust_region(F, y, 0.0, curvature=True, max_steps=60).x
        bound = fem.majorant(F, y)
        flux = flux.balanced(bound)
        balance = flux.balance
        gain = enriched(flux.on(fluxes), y, flux.quadrature)
        # The bound is sqrt(2 J) with the best weight, and what could be gained is its distance to the best flux.
        if balance < 0.25 or gain.total < 0.4 * bound.total or fluxes.dim > most:
            break
        fluxes, y = grown(fluxes, y, gain)
    error, first, second = np.linalg.norm(errors(v)), bound.parts["flux"], bound.parts["equilibrium"]
    rows.append((space.dim, error, bound.total))
    print(
        f"{space.dim:15d} {fluxes.dim:6d} {len(quadrature):8d} {error:11.2e} {bound.total:10.2e} {first:10.2e} "
        f"{second:12.2e} {bound.total / error:7.2f}{'' if bound.guaranteed else '   quadrature not verified'}",
        flush=True,
    )
    if bound.total < goal or space.dim > most:
        break
    residual = fem.residual(J, x)
    if residual.parts["points"] > 0.3 * residual.parts["known"]:
        quadrature = fem.refine_quadrature(quadrature, fem.dorfler(np.abs(residual.signed) ** 0.5, theta=0.8))
    space, x = grown(space, x, enriched(J, x, quadrature))

# %%
# The temperature; its error, cell by cell, as the first term of the bound sees it, and as it is; bounds and errors.

grid = np.stack(np.meshgrid(np.linspace(0, 1, 81), np.linspace(0, 1, 81)), axis=-1)
mesh = fem.BoxMesh.uniform([0, 0], [1, 1], 40, 4)
cellwise = fem.majorant(flux.on(fluxes, mesh.quadrature()), y)
figure, axes = plt.subplots(2, 2, figsize=(10, 8.4), layout="constrained")
image = axes[0, 0].contourf(grid[..., 0], grid[..., 1], v(grid.reshape(-1, 2)).reshape(81, 81), 24, cmap="inferno")
axes[0, 0].set_title(f"temperature, {space.dim} coefficients")
figure.colorbar(image, ax=axes[0, 0])
true = errors(v)
titles = ("first term of the bound", "true error")
for axis, values, title in zip((axes[0, 1], axes[1, 0]), (cellwise.indicators, true), titles, strict=True):
    image = axis.imshow(values.reshape(40, 40).T, origin="lower", extent=(0, 1, 0, 1), vmin=0.0, vmax=true.max())
    axis.set_title(f"{title}, {len(true)} cells")
    figure.colorbar(image, ax=axis)
for axis in axes.ravel()[:3]:
    axis.set_aspect("equal")
    axis.add_patch(plt.Circle((center, center), place**0.5, fill=False, color="white", linewidth=0.8, linestyle="--"))
dims, found, bounds = zip(*rows, strict=True)
axes[1, 1].loglog(dims, bounds, "o-", color=plotting.BLUE, label="bound")
axes[1, 1].loglog(dims, found, "s--", color=plotting.ORANGE, label="true error")
axes[1, 1].set_xlabel("coefficients of the temperature")
axes[1, 1].set_title("energy norm")
axes[1, 1].legend()
figure.savefig(output / "heat_guaranteed.png", dpi=110)
print(f"\npicture: {output / 'heat_guaranteed.png'}")
