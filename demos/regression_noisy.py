"""
How large a network do noisy data carry?
========================================

The progression of diabetes in 442 patients, from ten measurements; the data ship with scikit-learn.  Most of what is to
be predicted is noise as far as these ten numbers can tell, so a network that fits the samples well has learned them by
heart.  Here the weight of the penalty is re-estimated by the evidence while the network is solved, and cross-validation
over the whole growth path says how wide it should be, and how large its error will be at unseen patients.
A quarter of the patients is held back, only to see in the end whether that was true.
"""

import itertools
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

import dnnfem as fem
from dnnfem import plotting
from dnnfem.norms import weight_decay

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
levels = 3 if "--quick" in sys.argv else 5

data = load_diabetes(scaled=False)
order = np.random.default_rng(0).permutation(len(data.target))
test, given = order[:110], order[110:]
problem = fem.Regression(data.data[given], data.target[given])

# %%
# Solve.  After every few steps the penalty gets the weight with which the data are most probable.  That sets the
# weight for *this* network; it is too kind to networks that are too wide, so it is not asked about the width.


def solved(quadrature, space, x, alpha, estimated=True):
    """Return coefficients and weight of the penalty."""
    for _ in range(4):
        J = fem.Sum(problem.on(space, quadrature), fem.Tikhonov(space, weight_decay, alpha))
        x = fem.trust_region(J, x, tolerance=1e-3, curvature=True, max_steps=10).x
        alpha = fem.penalty_weight(J, x) if estimated else alpha
    return x, alpha


# %%
# The growth path: solve, estimate, mark, refine.  What a neuron would gain by itself is the estimate.  The path is a
# generator, and must not look at other samples than those that it is given.  For comparison there is one with next to
# no penalty.

ESTIMATED, NONE = "penalty by evidence", "hardly any penalty"


def path(quadrature, setting):
    """Yield the network of every level."""
    space = fem.FeedforwardSpace(inputs=10, hidden=(2,), outputs=1)
    x, alpha = space.initial(seed=0), 1e-3 if setting == ESTIMATED else 1e-8
    while True:
        x, alpha = solved(quadrature, space, x, alpha, setting == ESTIMATED)
        yield space, x
        candidates = fem.ridge_candidates(space, quadrature, seed=0, count=100)
        gain = fem.insertion_sensitivity(problem.on(space, quadrature), x, candidates)
        marked = fem.fixed_fraction(gain.indicators, space.hidden[0] / len(gain.cells))
        space, P = fem.widen(space, gain.cells[marked])
        x = P(x)


# %%
# Four folds: each is held out in turn, and the whole path is repeated without it.

validation = fem.cross_validation(problem, path, settings=[ESTIMATED, NONE], max_levels=levels)
print(validation)

# %%
# The network of a fold, solved on with all samples.


def rms(space, x, where):
    """Return the misfit for some patients."""
    return np.sqrt(np.mean((problem.solution(space, x)(data.data[where])[:, 0] - data.target[where]) ** 2))


space, x = validation.networks[0]
x, alpha = solved(problem.quadrature, space, x, 1e-3)
total = problem.rms(validation.estimate.total)
print(f"chosen: {space}, {space.dim} coefficients, weight of the penalty {alpha:.1e}")
print(f"rms misfit: {rms(space, x, given):.1f} at the samples, {total:.1f} estimated for unseen patients, and")
print(f"{rms(space, x, test):.1f} for those that were held back; the targets deviate by {problem.unit:.1f}")

# %%
# How the two paths would have gone on: the misfit at the samples falls and falls, and says nothing.

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for setting, color in ((ESTIMATED, plotting.BLUE), (NONE, plotting.ORANGE)):
    networks = list(itertools.islice(path(problem.quadrature, setting), levels))
    widths = [network[0].hidden[0] for network in networks]
    axes[0].loglog(widths, [rms(*network, given) for network in networks], ":", color=color)
    axes[0].loglog(widths, [rms(*network, test) for network in networks], "s-", color=color, markersize=4)
    axes[0].plot([], [], color=color, label=setting)
trials = [trial for trial in validation.trials if trial.complete and trial.setting == ESTIMATED]
risks = np.array([problem.rms(np.sqrt(2.0 * trial.risk)) for trial in trials])
spreads = np.array([trial.deviation / np.sqrt(2.0 * trial.risk) for trial in trials]) * problem.unit
widths = [trial.space.hidden[0] for trial in trials]
axes[0].errorbar(widths, risks, spreads, fmt="kD", markersize=5, capsize=3, label="estimate by cross-validation")
axes[0].plot([], [], "s-", color="0.5", markersize=4, label="at patients held back")
axes[0].plot([], [], ":", color="0.5", label="at the samples")
axes[0].set_xticks([2**k for k in range(1, levels + 1)], [str(2**k) for k in range(1, levels + 1)])
axes[0].tick_params(axis="x", which="minor", labelbottom=False)
axes[0].set_xlabel("neurons")
axes[0].set_ylabel("rms misfit")
axes[0].legend(frameon=False)
axes[1].plot(problem.solution(space, x)(data.data[test])[:, 0], data.target[test], "o", color=plotting.BLUE, alpha=0.7)
axes[1].axline((150, 150), slope=1.0, color="0.5")
axes[1].set_xlabel("predicted progression, patients held back")
axes[1].set_ylabel("observed")
figure.savefig(output / "regression_noisy.png", dpi=110)
print(f"picture: {output / 'regression_noisy.png'}")
