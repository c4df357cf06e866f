"""
A large sample: batches first, all samples later
================================================

60000 images of clothes, 784 pixels each, in ten classes: Fashion-MNIST, if the Debian package ``dataset-fashion-mnist``
is installed; else noisy points of a generated set in ten dimensions, in three classes.  A gradient on all of them tells
little more than one on a few hundred while the network is far from a minimum: `dnnfem.stochastic` begins with batches
of 64, computes the size of every step from what the last ones did, lets batches grow when noise limits, and ends with a
trust region on all samples.  There is no learning rate.

The images are kept in float32, as they are given: the kernels convert them tile by tile, so that there is no second
copy.
"""

import gzip
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
quick = "--quick" in sys.argv
folder = Path("/usr/share/datasets/fashion-mnist")


def read(name):
    """Return the images as rows of float32, or the labels."""
    raw = gzip.decompress((folder / f"{name}.gz").read_bytes())
    if raw[3] == 1:
        return np.frombuffer(raw, np.uint8, offset=8)
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).astype(np.float32)


def generate(count):
    """Return points and the third of all that the value of a function with noise falls into."""
    random = np.random.default_rng(0)
    points = random.uniform(-1.0, 1.0, (count, 10)).astype(np.float32)
    values = np.sin(3.0 * points[:, 0] * points[:, 1]) + points[:, 2] ** 2 + 0.5 * points[:, 3]
    values += 0.3 * random.standard_normal(count)
    return points, np.searchsorted(np.quantile(values, (1 / 3, 2 / 3)), values)


if folder.exists() and not quick:
    inputs, labels = read("train-images-idx3-ubyte"), read("train-labels-idx1-ubyte")
    test, truth = read("t10k-images-idx3-ubyte"), read("t10k-labels-idx1-ubyte")
else:
    count = 3000 if quick else 60000
    inputs, labels = generate(count + 2000)
    test, truth, inputs, labels = inputs[count:], labels[count:], inputs[:count], labels[:count]

# %%
# The penalty is weak; the norm in which steps are measured comes from the covariances of what every layer reads and of
# what its outputs do, see :doc:`/theory/stochastic`.  Work counts gradients of all samples.

problem = fem.Classification(inputs, labels)
space = fem.FeedforwardSpace(inputs.shape[1], hidden=(32,), outputs=len(problem.classes))
J = fem.Sum(problem.on(space), fem.Tikhonov(space, weight_decay, 1e-4))
print(f"{len(labels)} samples, {problem.quadrature.nbytes / 1e6:.0f} MB; {space}, {space.dim} coefficients")
shown = []
result = fem.stochastic(J, space.initial(seed=0), 1e-2, max_work=10 if quick else 50, observer=shown.append)
print(result.status.value)

# %%
# How much of what is left would other samples change?  The sampling error is compared with the derivative: while that
# is much larger, more steps gain more than more samples would.

estimate = fem.sampling(J, result.x)
u = problem.solution(space, result.x)
wrong = np.mean(u.labels(test) != truth)
print(
    f"derivative {estimate.parts['derivative']:.2e}, of which {estimate.total:.2e} would be different on other samples"
)
print(f"loss {result.value:.3f} +- {estimate.parts['value']:.3f} at the samples")
print(f"{100 * wrong:.1f} % of {len(truth)} other samples are wrong")

# %%
# The loss on the batches and at the samples that were not used, and the sizes of the batches.  A batch says little by
# itself: where noise limits, they grow, until all samples are one.

rows = [snapshot for snapshot in shown if "batch" in snapshot.state.progress.memory]
work = [max(snapshot.step.work, 1e-2) for snapshot in rows]
held = problem.on(space, fem.Quadrature.samples(test, problem.numbers(truth)))
penalty = fem.Tikhonov(space, weight_decay, 1e-4)
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes[0].semilogx(
    work, [snapshot.step.value - penalty.value(snapshot.x) for snapshot in rows], "-", color="0.7", label="batches"
)
axes[0].semilogx(work, [held.value(snapshot.x) for snapshot in rows], "-", color=plotting.BLUE, label="other samples")
axes[0].set_ylabel("cross-entropy")
axes[0].legend(frameon=False)
sizes = [float(snapshot.state.progress.memory["batch"]) for snapshot in rows]
axes[1].loglog(work, sizes, drawstyle="steps-post", color=plotting.BLUE)
axes[1].axhline(len(labels), color="0.5", linewidth=1, linestyle=":", label="all samples")
axes[1].set_ylabel("samples per batch")
axes[1].legend(frameon=False, loc="lower right")
for axis in axes:
    axis.set_xlabel("work: gradients of all samples")
figure.savefig(output / "large_sample.png", dpi=110)
print(f"picture: {output / 'large_sample.png'}")
