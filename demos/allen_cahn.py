"""
Allen and Cahn's equation: weights that stability determines
============================================================

``u_t = 1e-4 u_xx + 5 (u - u^3)``, periodic, from ``x^2 cos(pi x)``: in a unit of time errors where ``u`` is small grow
148 times, those near ``u = -1`` and ``u = 1`` are forgotten.  The initial value has a kink where its period ends, and
least squares spend neurons on it that are needed elsewhere.  A rough march through four time slabs says how much a
residual does to the solution, now and later; the second march weighs residuals by that.
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import solve_ivp

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
rough_steps, steps, width = (10, 10, 4) if "--quick" in sys.argv else (60, 150, 10)
edges = np.linspace(0.0, 1.0, 5).tolist()
n = 512
line, times = -1.0 + 2.0 * np.arange(n) / n, np.linspace(0.0, 1.0, 41)


def reference():
    """Return the solution on a grid, shape (times, points): Fourier series in space, an implicit method in time."""
    squares = (np.pi * np.fft.rfftfreq(n, 1.0 / n)) ** 2

    def rate(_, u):
        return 1e-4 * np.fft.irfft(-squares * np.fft.rfft(u)) + 5.0 * (u - u**3)

    start = line**2 * np.cos(np.pi * line)
    return solve_ivp(rate, (0.0, 1.0), start, t_eval=times, rtol=1e-9, atol=1e-9).y.T


# %%
# The equation on the first slab.  Its initial value is no smooth periodic function, so it is a further residual; later
# slabs begin exactly with what the one before has found.

first = fem.Collocation(
    lambda p, u: u.dt - 1e-4 * u.laplacian - 5.0 * (u - u**3),
    fem.Box([-1], [1]),
    time=(edges[0], edges[1]),
    initial=lambda p: p.x[0] ** 2 * torch.cos(torch.pi * p.x[0]),
    periodic=(0,),
    exact=False,
)
space = fem.FeedforwardSpace(inputs=2, hidden=(width,) * 3, outputs=1, periodic=(0,))


def march(steps, starts, weights):
    """Solve slab after slab; return the problems and their solutions."""
    problem, found = first, []
    for number, end in enumerate(edges[1:]):
        if number:
            problem = fem.next_slab(problem, problem.solution(space, found[-1][1]), end, exact=True)
        problem = replace(problem, weight=weights[number])
        x = starts[number] if starts else found[-1][1] if found else space.initial(seed=0)
        # Points are added twice, where the residual says that they are missing.
        quadrature = fem.refine_quadrature(problem.quadrature, np.arange(problem.quadrature.cell_count))
        for part in np.diff(np.linspace(0, steps, 4, dtype=int)):
            J = problem.on(space, quadrature)
            x = fem.trust_region(J, x, 0.0, curvature=True, max_steps=int(part)).x
            missing = fem.residual(J, x)
            quadrature = fem.refine_quadrature(
                quadrature, missing.cells[fem.dorfler(np.abs(missing.signed) ** 0.5, theta=0.8)]
            )
        found.append((problem, x, quadrature))
    return found


def values(found):
    """Return what a march has found on the grid, shape (times, points)."""
    owner = np.searchsorted(edges[1:-1], times)
    rows = []
    for t, number in zip(times, owner, strict=True):
        problem, x, _ = found[number]
        rows.append(problem.solution(space, x)(np.column_stack([line, np.full(n, t)]))[:, 0])
    return np.array(rows)


# %%
# The rough march, and weights from the last slab to the first: what is wrong at its end is carried on by the next one.

rough = march(rough_steps, None, [None] * 4)
later, stabilities = None, []
for problem, x, quadrature in reversed(rough):
    later = fem.stability(problem, space, x, quadrature, later=later)
    stabilities.insert(0, later)
print("an error at the beginning is, in the mean square over all later times, multiplied by")
for place in (0.0, 0.25, 0.5, 0.75, 1.0):
    print(f"    {stabilities[0]([[place, 0.0]], 'initial')[0, 0]:5.1f}   at x = {place:g}")

# %%
# Two marches with as many steps, from the same coefficients.

starts, exact = [x for _, x, _ in rough], reference()
runs = {"all residuals alike": [None] * 4, "weighed by stability": [found.weights for found in stabilities]}
errors = {}
for name, weights in runs.items():
    found = march(steps, starts, weights)
    errors[name] = values(found) - exact
    print(f"{name}: root mean square error {np.sqrt(np.mean(errors[name] ** 2)):.1e}")

# %%
# The solution, the weights of the equation, and how the errors grow.

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
image = axes[0].contourf(times, line, exact.T, 24, cmap="RdBu_r")
axes[0].set_title("solution")
figure.colorbar(image, ax=axes[0])
owner = np.searchsorted(edges[1:-1], times)
kappa = [
    stabilities[number](np.column_stack([line, np.full(n, t)]))[:, 0] for t, number in zip(times, owner, strict=True)
]
image = axes[1].contourf(times, line, np.log10(np.array(kappa)).T, 24, cmap="viridis")
axes[1].set_title("decimal logarithm of the weights")
figure.colorbar(image, ax=axes[1])
for (name, error), color in zip(errors.items(), (plotting.ORANGE, plotting.BLUE), strict=True):
    axes[2].semilogy(times, np.sqrt(np.mean(error**2, axis=1)), color=color, label=name)
axes[2].set_title("root mean square error")
axes[2].legend()
for place in axes:
    place.set_xlabel("t")
axes[0].set_ylabel("x")
figure.savefig(output / "allen_cahn.png", dpi=110)
print(f"\npicture: {output / 'allen_cahn.png'}")
