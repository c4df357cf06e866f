"""
Depth as a mesh: refined where the weights change
=================================================

A flow ``z' = tanh(W(t) z + b(t))`` on [0, 2] moves points; its weights change within four per cent of the time.  They
are to be found again from 400 samples and a penalty on the distance to the true ones, which makes these the solution.
With piecewise constant weights, uniform refinement spends its layers everywhere.  The hierarchical estimate predicts
for every cell what two halves would gain, the goal-oriented estimate says what the Runge-Kutta steps are off, and
`dnnfem.decide` weighs one against the other.
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
levels, uniform_levels = (5, 4) if "--quick" in sys.argv else (12, 7)
T, centre, layer, alpha, width = 2.0, 1.4, 0.04, 1e-2, 4

# %%
# The true weights, their means over cells, and where they take the points.

random = np.random.default_rng(1)
before, change = random.standard_normal((2, width * (width + 1))) / 2


def means(mesh):
    """Return the means of the true weights over the cells of a mesh: the integral of tanh is log cosh."""
    s = (np.asarray(mesh) - centre) / layer
    return before + np.multiply.outer(layer * np.diff(np.logaddexp(s, -s)) / np.diff(mesh), change)


fine = np.linspace(0.0, T, 2001)
points = random.uniform(-1, 1, (400, width))
z = points
for h, theta in zip(np.diff(fine), means(fine), strict=True):
    W, b = theta[: width**2].reshape(width, width), theta[width**2 :]
    middle = z + 0.5 * h * np.tanh(z @ W.T + b)
    z = z + h * np.tanh(middle @ W.T + b)
problem = fem.Regression(points, z)

# %%
# Inputs and targets are scaled by the problem; encoder and decoder undo it, so that states are those of the true flow.

ansatz = problem.ansatz
encoder = np.column_stack([np.diag(ansatz.input_scale), ansatz.input_shift])
decoder = np.append(np.diag(1 / ansatz.output_scale).ravel(), -ansatz.output_shift / ansatz.output_scale)


class Tracking:
    """``alpha/2 int |theta - true theta|^2 dt`` on any mesh, but for what its cells cannot resolve."""

    condensable = None

    def __init__(self, space):
        self.space, self.true = space, means(space.weight_mesh)
        self.tikhonov = fem.Tikhonov(space, fem.L2, alpha, np.append(self.true.ravel(), decoder))
        self.value, self.linearize = self.tikhonov.value, self.tikhonov.linearize

    def on(self, *, space=None, quadrature=None, transfer=None):
        """Return the same on another mesh: its true means are others."""
        return self if space is None else Tracking(space)

    @property
    def missed(self):
        """Return what the cells cannot resolve."""
        cell = np.searchsorted(self.space.weight_mesh, fine[1:] - 1e-9) - 1
        return 0.5 * alpha * np.sum(np.diff(fine) @ (means(fine) - self.true[cell]) ** 2)


# %%
# The loop, with everything refined, or with what is marked.


def run(adaptive, count):
    """Return space, coefficients, functional and estimates of all levels."""
    space, state, history = fem.FlowSpace.uniform(width, width, width, 1, T=T, encoder=encoder), None, []
    x = space.initial(seed=0)
    for _ in range(count):
        J = fem.Sum(problem.on(space), Tracking(space))
        result = fem.trust_region(J, x, 1e-6, state=state, curvature=True, max_steps=100)  # solve
        weights, states = fem.hierarchical(J, result.x), fem.goal_oriented(J, result.x, "states")  # estimate
        history.append((space, result.x, J.value(result.x) + J.terms[1].missed, weights, states))
        decision = fem.decide({"weights": weights, "states": states}, tolerance=0.0, algebraic=0.0)
        if decision.stop:
            return history
        if not adaptive:
            space, P = fem.bisect(space, range(space.cells))
        elif decision.part == "weights":
            space, P = fem.bisect(space, weights.cells[fem.dorfler(weights.indicators, theta=0.5)])  # mark, refine
        else:
            space, P = fem.refine_states(space, states.cells[fem.dorfler(states.indicators, theta=0.5)])
        x, state = P(result.x), result.state
    return history


runs = {"adaptive": run(True, levels), "uniform": run(False, uniform_levels)}
for name, history in runs.items():
    print(f"{name}:\n cells  steps  functional  predicted by cells and by steps")
    for space, _, value, weights, states in history:
        parts = 0.5 * weights.parts["weights"] ** 2, abs(states.parts["change"])
        print(f"{space.cells:6d} {space.steps:6d}   {value:.2e}    {parts[0]:.2e}   {parts[1]:.2e}")

# %%
# The functional vanishes at the solution, so that its value is its error.  On the left the errors; in the middle one of
# the true weights and what the adaptive mesh has made of it; on the right lengths of cells.

figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for (name, history), color, style in zip(runs.items(), (plotting.BLUE, plotting.ORANGE), ("o-", "s--"), strict=True):
    axes[0].loglog(
        [level[0].cells for level in history], [level[2] for level in history], style, color=color, label=name
    )
axes[0].set(xlabel="cells", ylabel="functional error")
axes[0].legend(frameon=False)
space, x = runs["adaptive"][-1][:2]
number = int(np.argmax(np.abs(change)))
axes[1].plot(fine[1:], means(fine)[:, number], color=plotting.GREY, label="true")
axes[1].stairs(
    space.theta(x)[:, number], space.weight_mesh, baseline=None, color=plotting.BLUE, label=f"{space.cells} cells"
)
axes[1].set(xlabel="t", title="one weight")
axes[1].legend(frameon=False)
axes[2].stairs(np.diff(space.weight_mesh), space.weight_mesh, color=plotting.BLUE, fill=True, alpha=0.6)
axes[2].set(xlabel="t", title="length of the cells", yscale="log")
figure.savefig(output / "depth_vs_uniform.png", dpi=110)
print(f"picture: {output / 'depth_vs_uniform.png'}")
