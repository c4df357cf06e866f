"""
Handwritten digits: how deep does a flow have to be?
====================================================

The digits of scikit-learn, 8 by 8 pixels, are carried by a flow from a trained affine encoder to a decoder with ten
classes.  Is it deep enough?  The hierarchical estimate of the cross-entropy says what cells of half the length would
gain, after what they gain from noise alone is subtracted, and `dnnfem.decide` says whether that pays.  Here it does
not: test errors hardly change if the one cell of constant weights is bisected all the same.  Width is what counts.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
widths, steps = ((4,), 5) if "--quick" in sys.argv else ((4, 8, 16), 30)

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
given, test = order[:1200], order[1200:]
problem = fem.Classification(images[given], labels[given])

# %%
# Each width is solved on one cell; then the estimate; then all cells are bisected against its advice.  The penalty is
# that of L2(0, T) for the weights: prolongation to more cells leaves it as it is.

print("width  cells  coefficients  functional  cells could gain  test error  solver")
for width in widths:
    space, state = fem.FlowSpace.uniform(64, width, 10, cells=1, steps=8, encoder="affine", scheme="heun"), None
    x = space.initial(seed=0)
    for level in range(2):
        J = fem.Sum(problem.on(space), fem.Tikhonov(space, fem.L2, 1e-3))
        result = fem.trust_region(J, x, 1e-3, state=state, curvature=True, max_steps=steps)  # solve
        estimate = fem.hierarchical(J, result.x)  # estimate
        u = problem.solution(space, result.x)
        wrong = np.mean(u.labels(images[test]) != labels[test])
        figures = f"{result.value:10.4f}  {0.5 * estimate.parts['weights'] ** 2:16.1e}  {100 * wrong:8.2f} %"
        print(f"{width:5d}  {space.cells:5d}  {space.dim:12d}  {figures}  {result.status.name}")
        if level == 0:
            print(f"       {fem.decide({'weights': estimate}, tolerance=0.0, algebraic=0.0)}")
            kept = space, u, wrong
            space, P = fem.bisect(space, range(space.cells))
            x, state = P(result.x), result.state

# %%
# How far classes are apart while time goes by: means of the states of each class, in the two directions in which these
# means differ most at the end.

space, u, wrong = kept
states = u.network.trajectories(images[test])
means = np.stack([states[:, labels[test] == digit].mean(axis=1) for digit in range(10)], axis=1)
directions = np.linalg.svd(means[-1] - means[-1].mean(axis=0))[2][:2]
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
colors = plt.cm.tab10(np.arange(10))
for digit in range(10):
    path = means[:, digit] @ directions.T
    axes[0].plot(*path.T, "-", color=colors[digit])
    axes[0].plot(*path[-1], "o", color=colors[digit])
    axes[0].annotate(str(digit), path[-1], xytext=(4, 4), textcoords="offset points")
axes[0].set_title(f"means of the classes; {100 * wrong:.1f} % of the test labels wrong")
spread = np.stack([states[:, labels[test] == digit].std(axis=1).mean(axis=1) for digit in range(10)], axis=1)
between = np.linalg.norm(means - means.mean(axis=1, keepdims=True), axis=2).mean(axis=1)
axes[1].plot(space.state_mesh, between / spread.mean(axis=1), color=plotting.BLUE)
axes[1].set(xlabel="t", ylabel="distance of the means over spread of the classes")
figure.savefig(output / "digits_flow.png", dpi=110)
print(f"picture: {output / 'digits_flow.png'}")
