"""
How large a network do noisy data carry?
========================================

The progression of diabetes in 442 patients, from ten measurements; the data ship with scikit-learn.  Most of what is to
be predicted is noise as far as these ten numbers can tell, so a network that fits the samples well has learned them by
heart.  Here the weight of the penalty is re-estimated by the evidence while the network is solved, and cross-validation
over the whole growth path says how wide it should be, and how large its error will be at unseen
patients; and a network that is too wide is shrunk to about the same.
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
# The other way round: begin with the widest network, and remove what does not pay.  Every neuron lowers the misfit at
# the samples; `dnnfem.removal` compares that with the noise that its coefficients fit.  The others take over what a
# removed one has done, so half of those that do not pay go at a time, and a solve shows whether that was too many.


def shrunk(space, x, alpha):
    """Return the network without the neurons that do not pay."""

    def functional(space):
        return fem.Sum(problem.on(space), fem.Tikhonov(space, weight_decay, alpha))

    J, idle = functional(space), None
    while space.hidden[0] > 1 and (idle is None or len(idle)):
        rise = fem.removal(J, x)
        idle = np.argsort(rise.signed, kind="stable")[: np.count_nonzero(rise.signed < 0.0)]
        count = (len(idle) + 1) // 2
        while len(idle):
            gone = idle[:count]
            smaller, P = fem.coarsen(space, rise.cells[gone])
            result = fem.trust_region(functional(smaller), P.project(x), 1e-3, curvature=True, max_steps=30)
            if 2.0 * (result.value - J.value(x)) <= np.sum(rise.indicators[gone] ** 2 - rise.signed[gone]):
                space, x, J = smaller, result.x, functional(smaller)
                break
            idle, count = (idle, count // 2) if count > 1 else (idle[1:], 1)
    return space, x


# %%
# How the two paths would have gone on: the misfit at the samples falls and falls, and says nothing.

paths = {setting: list(itertools.islice(path(problem.quadrature, setting), levels)) for setting in (ESTIMATED, NONE)}
wide, start = paths[ESTIMATED][-1]
start, alpha = solved(problem.quadrature, wide, start, 1e-3)
small = shrunk(wide, start, alpha)
print(f"{wide} has {rms(wide, start, given):.1f} at the samples and {rms(wide, start, test):.1f} for those held back;")
print(f"without the neurons that do not pay, {small[0]}: {rms(*small, given):.1f} and {rms(*small, test):.1f}")

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for setting, color, beside in ((ESTIMATED, plotting.BLUE, 0.93), (NONE, plotting.ORANGE, 1.07)):
    widths = [network[0].hidden[0] for network in paths[setting]]
    axes[0].loglog(widths, [rms(*network, given) for network in paths[setting]], ":", color=color)
    axes[0].loglog(widths, [rms(*network, test) for network in paths[setting]], "s-", color=color, markersize=4)
    axes[0].plot([], [], color=color, label=setting)
    # Levels that were given up have an estimate too, from the first folds alone.
    for trial in (trial for trial in validation.trials if trial.setting == setting and np.isfinite(trial.risk)):
        root = np.sqrt(2.0 * trial.risk)
        filled = color if trial.complete else "white"
        style = {"color": color, "markerfacecolor": filled, "markersize": 7, "capsize": 3}
        axes[0].errorbar(
            beside * trial.space.hidden[0], problem.rms(root), problem.rms(trial.deviation / root), fmt="D", **style
        )
axes[0].plot([], [], "s-", color="0.5", markersize=4, label="at patients held back")
axes[0].plot([], [], ":", color="0.5", label="at the samples")
axes[0].plot([], [], "D", color="0.5", markersize=7, label="estimate by cross-validation")
axes[0].plot([], [], "D", color="0.5", markersize=7, markerfacecolor="white", label="given up: of the first folds")
axes[0].plot(small[0].hidden[0], rms(*small, test), "k*", markersize=12, label=f"{wide.hidden[0]} neurons, shrunk")
ticks = [2**k for k in range(levels + 1)]
axes[0].set_xticks(ticks, [str(tick) for tick in ticks])
axes[0].set_yticks([20, 30, 40, 60, 80, 100], ["20", "30", "40", "60", "80", "100"])
axes[0].tick_params(axis="both", which="minor", labelbottom=False, labelleft=False)
axes[0].set_ylim(18, 130)
axes[0].set_xlabel("neurons")
axes[0].set_ylabel("rms misfit")
axes[0].legend(frameon=False, loc="lower left", fontsize="small")
axes[1].plot(problem.solution(space, x)(data.data[test])[:, 0], data.target[test], "o", color=plotting.BLUE, alpha=0.7)
axes[1].axline((150, 150), slope=1.0, color="0.5")
axes[1].set_xlabel("predicted progression, patients held back")
axes[1].set_ylabel("observed")
figure.savefig(output / "regression_noisy.png", dpi=110)
print(f"picture: {output / 'regression_noisy.png'}")
