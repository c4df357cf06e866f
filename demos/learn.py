"""
An estimator for scikit-learn: error bars that mean what they say
=================================================================

`dnnfem.learn.AdaptiveRegressor` is the loop solve - estimate - mark - refine behind ``fit`` and ``predict``: it scales,
grows, penalizes and stops by itself, and it fits into pipelines and searches.  Two things cannot be had from a good fit
alone.  ``score_estimate_`` is the error that it expects at samples that it has not seen, from cross-validation over the
whole growth path; and ``predict(X, return_std=True)`` tells how far targets should lie from the predictions: their
noise, and more where there were few samples.

Two looks at whether this is true: noisy samples of a known function, with a gap, and the progression of diabetes in 442
patients, a quarter of whom are held back.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

import dnnfem as fem
from dnnfem import plotting

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
quick = "--quick" in sys.argv

# %%
# A known function.  There are no samples in the middle, and the noise has the deviation 0.15.

random = np.random.default_rng(0)
count = 60 if quick else 160
points = np.concatenate([random.uniform(-2.0, -0.5, count // 2), random.uniform(0.5, 2.0, count // 2)])[:, None]


def truth(x):
    """Return the function without noise."""
    return np.sin(2.5 * x) + 0.4 * x


targets = truth(points[:, 0]) + 0.15 * random.standard_normal(len(points))
model = fem.learn.AdaptiveRegressor().fit(points, targets)
print(model.hierarchy_)
print(model.validation_)
print(f"expected at unseen samples: {model.score_estimate_:.3f}, noise alone 0.15")

fresh = np.linspace(-2.4, 2.4, 400)
mean, std = model.predict(fresh[:, None], return_std=True)

# %%
# Patients: what share of those that were held back lies in intervals of every level?

patients, progression = load_diabetes(return_X_y=True)
given, held, seen, unseen = train_test_split(patients, progression, random_state=0)
doctor = fem.learn.AdaptiveRegressor().fit(given, seen)
center, deviation = doctor.predict(held, return_std=True)
rms = np.sqrt(np.mean((center - unseen) ** 2))
print(f"patients: {doctor.score_estimate_:.1f} expected, {rms:.1f} for those held back; {doctor.solution_.space}")
levels = np.linspace(0.05, 0.99, 40)
half = norm.ppf(0.5 + 0.5 * levels)[:, None] * deviation
covered = np.mean(np.abs(center - unseen) <= half, axis=1)
inside = np.mean(np.abs(center - unseen) <= 1.645 * deviation)
print(f"{100 * inside:.0f} % of them lie in intervals for 90 %")

# %%
# It is an estimator like others.  Here a classifier in a pipeline is judged by scikit-learn's cross-validation; its own
# estimate comes with the fit.

wine, kinds = load_wine(return_X_y=True)
pipeline = make_pipeline(PolynomialFeatures(1, include_bias=False), fem.learn.AdaptiveClassifier())
folds = cross_val_score(pipeline, wine, kinds, cv=3)
own = pipeline.fit(wine, kinds)[-1].score_estimate_
print(f"wine: {100 * (1 - folds.mean()):.1f} % wrong in cross-validation, {100 * own:.1f} % by its own estimate")

# %%
# The band is wide where there is nothing to learn from.

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
band = {"color": plotting.BLUE, "alpha": 0.2, "linewidth": 0}
axes[0].fill_between(fresh, mean - 1.645 * std, mean + 1.645 * std, label="90 % of the targets", **band)
axes[0].plot(fresh, mean, color=plotting.BLUE, label="prediction")
axes[0].plot(fresh, truth(fresh), "k--", linewidth=1, label="truth")
axes[0].plot(points[:, 0], targets, ".", color=plotting.ORANGE, markersize=4, label="samples")
axes[0].set_ylim(-3, 3)
axes[0].legend(frameon=False, loc="lower right", ncols=2)
axes[1].plot(levels, covered, "o-", color=plotting.BLUE, markersize=3, label="patients held back")
axes[1].axline((0, 0), slope=1.0, color="0.5", linestyle="--", label="as announced")
axes[1].set_xlabel("level of the intervals")
axes[1].set_ylabel("share of the targets in them")
axes[1].legend(frameon=False)
figure.savefig(output / "learn.png", dpi=110)
print(f"picture: {output / 'learn.png'}")
