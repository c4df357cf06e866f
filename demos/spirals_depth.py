"""
Two spirals, taken apart by a flow in the plane
===============================================

Points of two spirals are moved by ``z' = tanh(W(t) z + b(t))`` in the plane itself until a straight line separates
them. Trajectories cannot cross, so that the flow has to turn and to stretch, one thing after another: how many there
are is the depth.  Weights are constant on one cell of the time at first.  At every level `dnnfem.decide` compares what
halves of the cells would gain (the hierarchical estimate) with what the Runge-Kutta steps are off (the goal-oriented
one).
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
starts, levels, steps = (1, 2, 20) if "--quick" in sys.argv else (5, 10, 60)

number = np.arange(1, 301)
angle, radius = 2 * np.pi * number / 300, 0.5 + number / 300
arm = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
points, labels = np.vstack([arm, -arm]), np.repeat([0, 1], 300)
order = np.random.default_rng(0).permutation(600)
given, test = order[:450], order[450:]
problem = fem.Classification(points[given], labels[given])

# %%
# The first level is small, and solved from several random starts; the best one goes on.


def functional(space):
    """Return the cross-entropy, and a penalty in L2(0, T) without which separated classes have no solution."""
    return fem.Sum(problem.on(space), fem.Tikhonov(space, fem.L2, 1e-4))


space = fem.FlowSpace.uniform(inputs=2, width=2, outputs=2, cells=1, steps=32, T=4.0)
J = functional(space)
first = [fem.trust_region(J, space.initial(seed), 1e-2, curvature=True, max_steps=steps) for seed in range(starts)]
best = min(first, key=lambda result: result.value)
x, state, history, hierarchy = best.x, best.state, [], fem.Hierarchy((space,))

# %%
# The loop: solve, estimate, mark, refine.

print("cells  steps  coefficients  functional  cells gain  steps change  test error")
for _ in range(levels):
    J = functional(space)
    result = fem.trust_region(J, x, 1e-2, state=state, curvature=True, max_steps=steps)  # solve
    weights, states = fem.hierarchical(J, result.x), fem.goal_oriented(J, result.x, "states")  # estimate
    u = problem.solution(space, result.x)
    wrong = np.mean(u.labels(points[test]) != labels[test])
    history.append((space, u, wrong))
    gain, change = 0.5 * weights.parts["weights"] ** 2, states.parts["change"]
    print(
        f"{space.cells:5d}  {space.steps:5d}  {space.dim:12d}  {result.value:10.4f}  {gain:10.1e}  {change:12.1e}"
        f"  {100 * wrong:8.1f} %"
    )
    decision = fem.decide({"weights": weights, "states": states}, tolerance=1e-2, algebraic=0.0)
    if decision.stop:
        print(decision.reason)
        break
    if decision.part == "weights":
        space, P = fem.bisect(space, weights.cells[fem.dorfler(weights.indicators, theta=0.5)])  # mark, refine
    else:
        space, P = fem.refine_states(space, states.cells[fem.dorfler(states.indicators, theta=0.5)])
    x, state, hierarchy = P(result.x), result.state, hierarchy.refined(space, P)

# %%
# Above, where the points are as time goes by; below, what the first and the last network say about the plane, and the
# mesh of layers.

space, u, wrong = history[-1]
paths = u.network.trajectories(points)
figure = plt.figure(figsize=(12, 6.6), layout="constrained")
axes = figure.subplots(2, 4)
colors = np.where(labels == 0, plotting.BLUE, plotting.ORANGE)
for place, step in zip(axes[0], np.linspace(0, space.steps, 4).round().astype(int), strict=True):
    place.scatter(*paths[step].T, s=3, c=colors)
    for start in range(0, 600, 60):
        place.plot(*paths[: step + 1, start].T, color=plotting.GREY, linewidth=0.6)
    place.set_title(f"t = {space.state_mesh[step]:.2g}", fontsize=10)
    place.set_aspect("equal", adjustable="datalim")
line = np.linspace(-1.7, 1.7, 200)
plane = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
for place, (own, function, share) in zip(axes[1], (history[0], history[-1]), strict=False):
    probability = function.probabilities(plane)[:, 1].reshape(200, 200)
    place.contourf(line, line, probability, np.linspace(0, 1, 11), cmap="PuOr_r", alpha=0.6)
    place.scatter(*points.T, s=2, c=colors)
    place.set_title(f"{own.cells} cell{'s' * (own.cells > 1)}, {100 * share:.1f} % wrong", fontsize=10)
    place.set_aspect("equal")
plotting.hierarchy(hierarchy, axes[1, 2])
axes[1, 2].set_title("nodes of cells (and steps)")
lengths = np.linalg.norm(space.theta(u.network.x), axis=1)
axes[1, 3].stairs(lengths, space.weight_mesh, baseline=None, color=plotting.BLUE)
axes[1, 3].set(xlabel="t", title="length of the weights", ylim=(0, None))
figure.savefig(output / "spirals_depth.png", dpi=110)
print(f"picture: {output / 'spirals_depth.png'}")
