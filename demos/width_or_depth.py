"""
Two spirals: width or depth?
============================

Two classes of points wind around each other, the example of layer insertion by Kreis, Herberg, Köhne, Schiela and
Herzog (arXiv 2311.15995).  A network with three neurons is too small.  At every level `dnnfem.insertion_sensitivity`
says what new neurons and what a new layer would gain, and `dnnfem.decide` takes what gains most per coefficient.  For
comparison the same loop runs with its choice ignored: always wider, always deeper.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import dnnfem as fem
from dnnfem import plotting
from dnnfem.norms import weight_decay

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
seeds, most = (2, 60) if "--quick" in sys.argv else (10, 100)

number = np.arange(1, 301)
angle, radius = 2 * np.pi * number / 300, 0.5 + number / 300
arm = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
points, labels = np.vstack([arm, -arm]), np.repeat([0, 1], 300)

# %%
# The loop.  A level is solved until the dual norm of the derivative is three tenths of what refinement promised; the
# insertion sensitivity of a layer needs what is left of the derivative, so that nothing is gained by solving further.


def grow(seed, part=None):
    """Grow from three neurons; yield problem, space, coefficients, value and share of wrong test labels per level."""
    order = np.random.default_rng(seed).permutation(600)
    given, test = order[:450], order[450:]
    problem = fem.Classification(points[given], labels[given])
    space, state, tolerance = fem.FeedforwardSpace(inputs=2, hidden=(3,), outputs=2), None, fem.relative(0.1)
    x = space.initial(seed=seed)
    while True:
        J = fem.Sum(problem.on(space), fem.Tikhonov(space, weight_decay, 1e-4))
        result = fem.trust_region(J, x, tolerance, state=state, curvature=True, max_steps=20)
        wrong = np.mean(problem.solution(space, result.x).labels(points[test]) != labels[test])
        yield problem, space, result.x, result.value, wrong
        candidates = fem.ridge_candidates(space, problem.quadrature, seed=seed, count=50)
        estimates = {
            "width": fem.insertion_sensitivity(J, result.x, candidates),
            "depth": fem.insertion_sensitivity(J, result.x),
        }
        decision = fem.decide(estimates, tolerance=1e-3, budget=most - space.dim)
        if decision.stop:
            return
        chosen = part or decision.part
        estimate = estimates[chosen]
        if chosen == "depth":
            space, P = fem.insert_layer(space, estimate.cells[np.argmax(estimate.indicators)])
        else:
            space, P = fem.widen(space, estimate.cells[fem.fixed_fraction(estimate.indicators, 2 / 50)])
        x, state, tolerance = P(result.x), result.state, 0.3 * estimate.total


# %%
# Ten divisions into training and test samples, each from its own random start.

policies = {"chosen per coefficient": None, "always wider": "width", "always deeper": "depth"}
runs = {label: [list(grow(seed, part)) for seed in range(seeds)] for label, part in policies.items()}
for label, own in runs.items():
    lower, median, upper = np.quantile([levels[-1][3] for levels in own], (0.25, 0.5, 0.75))
    wrong = 100 * np.mean([levels[-1][4] for levels in own])
    print(f"{label:22s} J {median:.4f} (quartiles {lower:.4f}, {upper:.4f}), {wrong:.1f} % of the test labels wrong")
for _, space, _, value, wrong in runs["chosen per coefficient"][0]:
    print(f"  {space}: {space.dim} coefficients, J {value:.4f}, {100 * wrong:.1f} % wrong")

# %%
# The values of all runs, and how the first one divides the plane.

levels = runs["chosen per coefficient"][0]
shown = [levels[0], levels[1], levels[-1]]
figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
colors, styles = (plotting.BLUE, plotting.ORANGE, "0.6"), ("o-", "s--", "x:")
for (label, own), color, style in zip(runs.items(), colors, styles, strict=True):
    for place, path in enumerate(own):
        coefficients, values = [level[1].dim for level in path], [level[3] for level in path]
        axes[0].semilogy(
            coefficients, values, style, color=color, alpha=0.6, markersize=3, label=None if place else label
        )
axes[0].set_xlabel("coefficients")
axes[0].set_ylabel("functional")
axes[0].legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.73))
line = np.linspace(-1.6, 1.6, 200)
plane = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
for place, (problem, space, x, _, _) in zip(axes[1:], shown, strict=True):
    probability = problem.solution(space, x).probabilities(plane)[:, 1].reshape(200, 200)
    place.contourf(line, line, probability, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.6)
    for label, color in ((0, "tab:blue"), (1, "tab:red")):
        place.plot(*points[labels == label].T, ".", color=color, markersize=2)
    place.set_title(f"{space}, {space.dim} coefficients", fontsize=10)
    place.set_aspect("equal")
    place.set_axis_off()
figure.savefig(output / "width_or_depth.png", dpi=110)
print(f"picture: {output / 'width_or_depth.png'}")
