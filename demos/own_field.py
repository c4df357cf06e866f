"""
A field of your own: a flow that cannot leave its bowl
======================================================

What a flow has to know of its field is little: its affine maps, and how their weights come from the parameters at one
time.  Here the field is a gradient, ``f(z) = -W^T tanh(W z + b)``: both maps share the matrix W, and the flow descends
on ``E(z) = sum_i log cosh((W z + b)_i)``.  Such a flow is a contraction, so that small changes of the inputs stay
small, whatever W and b are (Celledoni, Ehrhardt, Etmann, McLachlan, Owren, Schönlieb and Sherry, European J. Appl.
Math. 32 (2021) 888-936).  Derivatives, second derivatives, estimates, refinement and archives come with it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp

import dnnfem as fem
from dnnfem import plotting, testing

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
levels = 2 if "--quick" in sys.argv else 5

# %%
# The field: W and b are the parameters, ``-W^T`` is made of them.


@dataclass(frozen=True)
class GradientField:
    """``f(z) = -W^T tanh(W z + b)``, theta = (W row by row, b)."""

    inner: int

    def maps(self, width):
        """Return the two affine maps."""
        return fem.AffineMap(self.inner, width, "tanh"), fem.AffineMap(width, self.inner, "identity", bias=False)

    def embedding(self, width):
        """Return the matrix from theta to all weights: W, b, and ``-W^T`` row by row."""
        number = np.arange(self.inner * width)
        row, column = np.divmod(number, width)
        transposed = sp.coo_array((-np.ones(number.size), (column * self.inner + row, number)))
        size = self.inner * (width + 1)
        transposed.resize((number.size, size))
        return sp.csr_array(sp.vstack([sp.eye_array(size), transposed])), np.zeros(size + number.size)

    def initial(self, width, random):
        """Draw W and b."""
        return random.standard_normal(self.inner * (width + 1)) / np.sqrt(width)

    def attributes(self):
        """Return what archives store."""
        return {"field": "gradient", "inner": self.inner}


fem.register_field("gradient", GradientField)

# %%
# A test that everything fits: derivatives of a functional on such a space have the right orders.

random = np.random.default_rng(0)
points = random.uniform(-2, 2, (400, 2))
target = np.tanh(points[:, :1] * points[:, 1:])
problem = fem.Regression(points, target)
space = fem.FlowSpace.uniform(2, 4, 1, cells=1, steps=8, field=GradientField(6), encoder="affine")
x = space.initial(seed=0)
print(f"{space}: order of the second derivatives {testing.taylor_test(problem.on(space), x, order=3):.2f} (3 expected)")

# %%
# The loop in depth.

print("cells  coefficients   rms error   estimate")
state = None
for level in range(levels):
    J = problem.on(space)
    result = fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=60)  # solve
    estimate = fem.hierarchical(J, result.x)  # estimate
    error = problem.rms(np.sqrt(2 * result.value))
    print(f"{space.cells:5d}  {space.dim:12d}   {error:.2e}    {problem.rms(estimate.total):.2e}")
    if level < levels - 1:
        marked = fem.dorfler(estimate.indicators, theta=0.5)  # mark
        space, P = fem.bisect(space, estimate.cells[marked])  # refine
        x, state = P(result.x), result.state

# %%
# Neighbouring points come closer in the flow, at all times.

u = problem.solution(space, result.x)
pairs = u.trajectories(np.vstack([points, points + 0.05 * random.standard_normal(points.shape)]))
distances = np.linalg.norm(pairs[:, : len(points)] - pairs[:, len(points) :], axis=2)
growth = np.diff(distances, axis=0).max()
print(f"largest increase of a distance in a step: {growth:.1e}")

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
axes[0].plot(space.state_mesh, distances[:, :60] / distances[0, :60], color=plotting.BLUE, alpha=0.4, linewidth=0.8)
axes[0].set(xlabel="t", ylabel="distance of neighbours, relative")
line = np.linspace(-2, 2, 120)
plane = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
figure.colorbar(axes[1].contourf(line, line, u(plane).reshape(120, 120), 20, cmap="RdBu_r"), ax=axes[1])
axes[1].set_title(f"{space.cells} cells, {space.dim} coefficients")
figure.savefig(output / "own_field.png", dpi=110)
print(f"picture: {output / 'own_field.png'}")
