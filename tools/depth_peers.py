"""What ``bench_depth.py`` compares with: layer insertion by SensLI's rule with gradient descent, and Adam."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import dnnfem as fem

Array = np.ndarray

ITERATIONS, EVERY = 4000, 500
"""Iterations of both, and those between two looks at virtual layers."""

DESCENT_RATES, ADAM_RATES = (0.03, 0.1, 0.3, 1.0, 3.0), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def descend(J: Any, x: Array, rate: float, iterations: int) -> Array:
    """Return what gradient descent finds; the coefficients may become infinite."""
    for _ in range(iterations):
        x = x - rate * J.linearize(x).derivative
        if not np.isfinite(x).all():
            break
    return x


def adam(J: Any, x: Array, rate: float, iterations: int = ITERATIONS) -> Array:
    """Return what torch's Adam finds."""
    parameter = torch.tensor(x, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=rate)
    for _ in range(iterations):
        parameter.grad = torch.from_numpy(J.linearize(parameter.detach().numpy()).derivative)
        optimizer.step()
    return parameter.detach().numpy().copy()


def insertion(make: Any, space: fem.FlowSpace, x: Array) -> tuple[fem.FlowSpace, Array] | None:
    """Return the network with one more layer by the published rule, None where no layer is inserted.

    A virtual layer with outer weights zero stands at every position; with the squared norms of the derivatives in the
    weights of layers, one is inserted where that of the virtual layer is largest, if it is at least the mean of the
    present ones (Kreis, Herberg, Köhne, Schiela and Herzog, arXiv 2311.15995).
    """
    present = np.mean(np.sum(space.theta(make(space).linearize(x).derivative) ** 2, axis=1))
    merits, networks = [], []
    for position in range(space.cells + 1):
        deep, transfer = fem.insert_layer(space, position)
        derivative = make(deep).linearize(transfer(x)).derivative
        merits.append(float(np.sum(derivative[deep.at(position)] ** 2)))
        networks.append((deep, transfer(x)))
    best = int(np.argmax(merits))
    return networks[best] if merits[best] >= present else None


def sensli(make: Any, space: fem.FlowSpace, seed: int, rate: float, most: int) -> tuple[fem.FlowSpace, Array]:
    """Return a residual network that is trained by gradient descent and grows by `insertion`, and its coefficients."""
    x = space.initial(seed)
    for number in range(ITERATIONS // EVERY):
        x = descend(make(space), x, rate, EVERY)
        if not np.isfinite(x).all() or number + 1 == ITERATIONS // EVERY:
            break
        deeper = insertion(make, space, x)
        if deeper is not None and deeper[0].dim <= most:
            space, x = deeper
    return space, x
