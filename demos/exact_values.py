"""
Values that are taken exactly
=============================

A sensor was read four hundred times, with noise, and calibrated at four places, without.  A network that is fitted to
all readings misses the calibrated values; one that has to take them is found by `dnnfem.composite_step`: a normal step
towards the constraints, a tangential one along them, both damped by estimates of how nonlinear they are.
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
# The noisy readings, and the places where the sensor was calibrated.  The constraints are a functional too: its
# residual has to vanish.

random = np.random.default_rng(0)
points = random.uniform(0.0, 1.0, size=(400, 1))
calibrated = np.array([[0.0], [0.35], [0.7], [1.0]])


def truth(p):
    return np.sin(6.0 * p[:, 0]) * np.exp(-p[:, 0])


problem = fem.Regression(points, truth(points) + 0.15 * random.standard_normal(len(points)))
space = fem.FeedforwardSpace(inputs=1, hidden=(8,), outputs=1)
J = fem.Sum(problem.on(space), fem.Tikhonov(space, fem.Euclidean, 1e-4))
exact = fem.Quadrature(calibrated, np.full(4, 0.25), truth(calibrated)[:, None])
constraints = problem.on(space, exact)

# %%
# First without constraints, then with them, from there.

free = fem.trust_region(J, space.initial(seed=0), 1e-6)
held = fem.composite_step(J, constraints, free.x, 1e-5)
print(held.steps)
print(held)
networks = {"free": problem.solution(space, free.x), "held": problem.solution(space, held.x)}
fresh = np.linspace(0.0, 1.0, 401)[:, None]
for name, u in networks.items():
    missed = np.abs(u(calibrated)[:, 0] - truth(calibrated)).max()
    error = np.sqrt(np.mean((u(fresh)[:, 0] - truth(fresh)) ** 2))
    print(f"{name}: misses the calibrated values by {missed:.1e}, error {error:.4f}")

# %%
# The noise costs the free network some hundredths everywhere; the other one is right where it has to be, and better in
# between.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(points, problem.on(space).quadrature.data, ".", color="0.8", markersize=3, label="readings")
left.plot(fresh, truth(fresh), "k", linewidth=1, label="truth")
for (name, u), style in zip(networks.items(), ("C0--", "C3"), strict=True):
    left.plot(fresh, u(fresh), style, label=name)
    right.plot(fresh, u(fresh)[:, 0] - truth(fresh), style, label=name)
left.plot(calibrated, truth(calibrated), "ko", markersize=5, label="calibrated")
right.plot(calibrated, np.zeros(4), "ko", markersize=5)
left.legend(fontsize=8)
right.axhline(0.0, color="0.7", linewidth=0.8)
left.set_title("network")
right.set_title("error")
figure.savefig(output / "exact_values.png", dpi=150)
