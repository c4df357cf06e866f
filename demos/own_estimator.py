"""
An estimator of one's own
=========================

An estimator is a function ``(J, x, ...) -> Estimate``; nothing has to be registered or derived from a base class.  Here
is one in twenty lines: the *sensitivity* of the functional to a new neuron, the derivative with respect to its outgoing
weight.  It costs one derivative on the enriched space and knows nothing of what the other neurons could do instead.

The loop is run with it and with the library's own hierarchical estimate, which re-solves for all coefficients.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import dnnfem as fem

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)

# %%
# The estimator.  ``J.on(space=...)`` is the same functional on a wider space; its derivative is a dual vector, of which
# a norm takes the length.  Cells are what the refinement takes: neurons.


def sensitivity(J, x, candidates):
    """Estimate how fast J falls when a neuron is switched on: |dJ/dc| per candidate."""
    neurons = candidates.draw(problem.ansatz.reference, x)
    wide, P = fem.widen(J.space, neurons)
    derivative = J.on(space=wide, transfer=P).linearize(P(x)).derivative
    first = J.space.hidden[-1]
    indicators = np.array([np.linalg.norm(derivative[wide.outgoing(0, first + k)]) for k in range(len(neurons))])
    best = np.argsort(-indicators)[: max(4, J.space.hidden[-1] // 2)]
    cells = np.empty(len(best), dtype=object)
    cells[:] = [neurons[k] for k in best]
    return fem.Estimate(
        quantity="sensitivity to new neurons",
        cells=cells,
        indicators=indicators[best],
        total=float(np.linalg.norm(indicators[best])),
    )


# %%
# The same loop with either estimator.

random = np.random.default_rng(0)
points = random.uniform(-1, 1, size=(1500, 2))


def peak(p):
    return np.exp(-np.sum((p - 0.3) ** 2, axis=1) / 0.05) + p[:, 0]


problem = fem.Regression(points, peak(points))
fresh = random.uniform(-1, 1, size=(4000, 2))
paths = {}
for name, estimator in (("sensitivity", sensitivity), ("hierarchical", fem.hierarchical)):
    space = fem.FeedforwardSpace(inputs=2, hidden=(4,), outputs=1)
    x, state, tolerance, path = space.initial(seed=0), None, fem.relative(1e-2), []
    while space.dim < 120:
        J = problem.on(space)
        result = fem.gauss_newton(J, x, tolerance, state=state, max_steps=40)
        error = np.sqrt(np.mean((problem.solution(space, result.x)(fresh)[:, 0] - peak(fresh)) ** 2))
        path.append((space.dim, error))
        estimate = estimator(J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=0))
        marked = fem.dorfler(estimate.indicators, theta=0.9)
        space, P = fem.widen(space, estimate.cells[marked])
        # An estimator without a total that means an error cannot set the tolerance: a tenth of the residual does.
        x, state, tolerance = P(result.x), result.state, 0.1 * np.sqrt(2 * result.value)
    paths[name] = np.array(path)
    print(f"{name}: coefficients and rms error")
    for dim, error in path:
        print(f"    {dim:4.0f}  {error:.2e}")

figure, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
for name, path in paths.items():
    ax.loglog(path[:, 0], path[:, 1], "o-", markersize=4, label=name)
ax.set_xlabel("coefficients")
ax.set_ylabel("rms error at fresh points")
ax.legend(frameon=False)
figure.savefig(output / "own_estimator.png", dpi=110)
print(f"picture: {output / 'own_estimator.png'}")
