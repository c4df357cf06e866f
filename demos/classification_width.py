"""
Handwritten digits: a classifier that grows
===========================================

How many neurons does it take to read handwritten digits, and how strong should the penalty be?  The loop

    solve -> estimate -> mark -> widen

doubles a small network as long as this pays.  What pays cannot be seen on the samples that the network is fitted to,
where its loss is soon that of the penalty alone; `dnnfem.cross_validation` therefore repeats the whole loop on three
quarters of them, judges every level on the last quarter, and chooses penalty and width.  The same held-out samples
calibrate the probabilities.

The data are the 1797 images of 8 x 8 pixels that come with scikit-learn; a fifth is kept to see the true error.
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
from dnnfem.norms import weight_decay

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
quick = "--quick" in sys.argv

images, digits = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(digits))
given, test = (order[:300], order[300:600]) if quick else (order[:1437], order[1437:])
problem = fem.Classification(images[given], digits[given])

# %%
# The loop, as a generator that `cross_validation` can run on a part of the samples.  The network starts with neurons
# that lie between pairs of samples; in 64 dimensions few other directions matter.  Newton's method
# with conjugate gradients solves.


def loop(quadrature, alpha):
    """Grow a network on some samples; yield space and coefficients of every level."""
    space, state = fem.FeedforwardSpace(inputs=64, hidden=(6,), outputs=10, activation="gelu"), None
    rule = fem.ridge_candidates(space, quadrature, count=6, directions="pairs")
    x = np.zeros(space.dim)
    for number, neuron in enumerate(rule.draw(problem.ansatz.reference, x)):
        x[space.incoming(0, number)] = np.append(neuron.weights, neuron.bias)
    while True:
        J = fem.Sum(problem.on(space, quadrature), fem.Tikhonov(space, weight_decay, alpha))
        result = fem.trust_region(J, x, 0.02, state=state, max_steps=20)
        yield space, result.x
        candidates = fem.ridge_candidates(space, quadrature, count=100, directions="pairs")
        estimate = fem.insertion_sensitivity(J, result.x, candidates)
        best = fem.fixed_fraction(estimate.indicators, min(1.0, space.hidden[0] / 100))
        space, P = fem.widen(space, estimate.cells[best])
        x, state = P(result.x), result.state


levels = 2 if quick else 4
validation = fem.cross_validation(problem, loop, (4e-3, 2e-3, 1e-3, 5e-4), max_levels=levels)
print(validation)

# %%
# Do the probabilities mean what they say?  The networks of the folds tell at the samples that they have not seen: with
# a penalty they are rather too modest, and a temperature below one mends that.

held = np.concatenate(validation.held)
pairs = zip(validation.networks, validation.held, strict=True)
logits = np.vstack([problem.solution(*network)(images[given][unseen]) for network, unseen in pairs])
temperature = fem.calibrated(logits, problem.numbers(digits[given][held]))

# %%
# The same loop on all samples, with the chosen penalty, and a look at the test set.

history = []
for level, (space, x) in enumerate(loop(problem.quadrature, validation.setting)):
    classifier = problem.solution(space, x)
    p = classifier.probabilities(images[test])
    wrong = classifier.labels(images[test]) != digits[test]
    unseen = -np.mean(np.log(p[np.arange(len(test)), problem.numbers(digits[test])]))
    history.append((space.hidden[0], problem.on(space).value(x), unseen, np.mean(wrong)))
    print(f"{space}: loss {history[-1][1]:.4f}, at unseen samples {unseen:.4f}, {100 * np.mean(wrong):.1f} % wrong")
    if level == validation.level:
        break
print(f"cross-validation expected a loss of {validation.estimate.total**2 / 2:.4f}")
for t in (1.0, temperature):
    p = problem.solution(space, x, t).probabilities(images[test])
    calibration = fem.expected_calibration_error(p, problem.numbers(digits[test]))
    print(f"temperature {t:.3f}: calibration error {calibration:.4f}")

# %%
# How the loss fell, and what the neurons with the largest outgoing weights look for.

figure = plt.figure(figsize=(11, 4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
axes = left.subplots()
widths, seen, unseen, errors = np.array(history).T
expected = validation.estimate.indicators[: len(widths)] ** 2 / 2
axes.loglog(widths, seen, "o-", color=plotting.BLUE, markersize=4, label="loss at the samples")
axes.loglog(widths, unseen, "s--", color=plotting.ORANGE, markersize=4, label="loss at unseen samples")
axes.loglog(widths, expected, "^:", color="0.4", markersize=4, label="expected there by cross-validation")
axes.loglog(widths, np.maximum(errors, 1e-3), "x-", color="0.7", label="share of wrong answers")
axes.set_xlabel("neurons")
axes.set_xticks(widths, [f"{w:.0f}" for w in widths])
axes.minorticks_off()
axes.set_ylim(top=0.6)
axes.legend(frameon=False, loc="upper right")
strength = np.linalg.norm(x[space.condensable[:, :-1]], axis=0)
for place, neuron in zip(right.subplots(3, 4).ravel(), np.argsort(-strength), strict=False):
    weights = x[space.incoming(0, neuron)][:-1].reshape(8, 8)
    place.imshow(weights, cmap="RdBu", vmin=-np.abs(weights).max(), vmax=np.abs(weights).max())
for place in right.axes:
    place.set_axis_off()
right.suptitle("weights of first-layer neurons")
figure.savefig(output / "classification_width.png", dpi=110)
print(f"picture: {output / 'classification_width.png'}")
